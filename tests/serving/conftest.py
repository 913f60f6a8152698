"""A trained classifier behind a real port of this machine."""

import threading
from contextlib import contextmanager

import pytest
from mocoop.tests.classifier.conftest import demo, fitted, images, photos  # noqa: F401  (fixtures)


@contextmanager
def running(app):
    """A client of an application that runs in a thread."""
    import httpx
    import uvicorn
    from mocoop.serving.server import bind

    listening = bind("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


@pytest.fixture(scope="session")
def clf(fitted):  # noqa: F811
    return fitted("MoCoOp")


@pytest.fixture(scope="session")
def client(clf):
    """A client of a server that takes images of at most 1 MB; tests must leave it in working order."""
    from mocoop.serving.app import build_app

    with running(build_app(clf, max_bytes=2**20)) as client:
        yield client


@pytest.fixture(scope="session")
def run(clf, tmp_path_factory):
    """The folder of a run."""
    folder = tmp_path_factory.mktemp("run")
    clf.save(folder / "classifier.safetensors")
    return folder
