"""What commands are tried on: classifiers on the demo backbone, and finished runs of them."""

from mocoop.tests.classifier.conftest import demo, fitted, fitted_run, photos  # noqa: F401  (fixtures)
