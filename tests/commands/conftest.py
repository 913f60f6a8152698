"""What commands are tried on: classifiers on the demo backbone, finished runs of them, and one of `mocoop fit`."""

import pytest
from mocoop.commands.main import main
from mocoop.tests.classifier.conftest import demo, fitted, fitted_run, photos  # noqa: F401  (fixtures)

FIT = ["--backbone", "demo", "--device", "cpu", "--workers", "2"]


@pytest.fixture(scope="session")
def run(photos, tmp_path_factory):  # noqa: F811
    """The folder of a run; tests must not change it."""
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(["fit", str(photos), "--out", str(out), *FIT, "--folds", "2", "epochs=2", "views=2"]) == 0
    return out


@pytest.fixture()
def say(capsys):
    """A function that runs a command: its exit code, output and errors."""

    def call(*words):
        capsys.readouterr()
        code = main([str(word) for word in words])
        return (code, *capsys.readouterr())

    return call
