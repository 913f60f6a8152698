"""Finished runs as `mocoop fit` leaves them, for the tests of commands."""

import json

import pytest
from mocoop.tests.classifier.conftest import demo, fitted, photos  # noqa: F401  (fixtures)


@pytest.fixture(scope="session")
def fitted_run(fitted, tmp_path_factory):  # noqa: F811
    """A function: method -> folder of its finished run."""
    made = {}

    def get(method):
        if method not in made:
            made[method] = tmp_path_factory.mktemp(f"run_{method}")
            clf = fitted(method)
            lines = [json.dumps({"epoch": epoch, **record}) for epoch, record in enumerate(clf.history_, 1)]
            (made[method] / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
            clf.save(made[method] / "classifier.safetensors")
        return made[method]

    return get
