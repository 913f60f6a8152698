"""`mocoop push` and `mocoop pull` against a stand-in for the hub: what arrives, what is refused, and how it is said."""

import socket
import sys
import time

import numpy as np
import pytest
from mocoop import load
from mocoop.commands.main import main

from .hub_server import COMMIT, TOKEN, stand_in

huggingface_hub = pytest.importorskip("huggingface_hub")
pytest.importorskip("huggingface_hub.constants")  # these are loaded when they are asked for
pytest.importorskip("huggingface_hub.file_download")
FILE = "classifier.safetensors"


@pytest.fixture()
def hub(monkeypatch, tmp_path):
    """A hub with nothing in it, a token for it, and an empty cache."""
    with stand_in() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(huggingface_hub.file_download.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.chdir(tmp_path)
        yield found


@pytest.fixture(scope="module")
def run(fitted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    fitted("MoCoOp").save(folder / FILE)
    return folder


def error_of(call, capsys):
    """The one message that a command ends with."""
    assert main(call) == 1
    out, err = capsys.readouterr()
    assert err.startswith("Error: ") and err.count("\n") == 1, err
    return err[7:-1]


def test_there_and_back(hub, run, fitted, images, tmp_path, capsys):
    assert main(["push", str(run), "me/birds"]) == 0
    assert capsys.readouterr().out == f"Pushed to {hub.url}/me/birds\n"
    assert set(hub.repos["me/birds"]) == {FILE, "README.md"} and hub.private == set()
    assert hub.repos["me/birds"][FILE] == (run / FILE).read_bytes()
    assert main(["pull", "me/birds"]) == 0 and "Wrote birds.safetensors (" in capsys.readouterr().out
    expected = fitted("MoCoOp").predict_proba(images)
    np.testing.assert_array_equal(load("birds.safetensors", device="cpu").predict_proba(images), expected)
    np.testing.assert_array_equal(load("hf://me/birds", device="cpu").predict_proba(images), expected)
    assert main(["pull", f"me/birds@{COMMIT}", "--out", "there/again.safetensors"]) == 0
    assert (tmp_path / "there/again.safetensors").read_bytes() == hub.repos["me/birds"][FILE]
    assert main(["export", "hf://me/birds", "--format", "features"]) == 0 and (tmp_path / "features.npz").is_file()
    assert sum(line.startswith("GET") for line in hub.requests) == 1  # later ones came from the cache


def test_the_model_card(hub, run, fitted):
    assert main(["push", str(run), "me/birds", "--private", "--licence", "mit"]) == 0
    card = hub.repos["me/birds"]["README.md"].decode()
    assert hub.private == {"me/birds"} and card.startswith("---\nlicense: mit\nlibrary_name: mocoop\n")
    assert "An image classifier: MoCoOp on CLIP's demo, 3 classes." in card
    assert "**Classes:** blue sea, green tree, red_ball" in card and "**Training:** images: 18; seed: 1." in card
    assert "Nothing was measured on held-out images." in card and 'load("hf://me/birds")' in card
    from mocoop.classifier.hub import model_card

    clf = load(run, device="cpu")
    clf.figures_ = {"held_out": {"images": 18, "accuracy": 0.94444, "precision": None}}
    clf.classes_ = np.array(["a <script>", "b\n# c", "d|e"])
    card = model_card(clf, "me/birds")
    assert "| accuracy | 0.9444 |" in card and "precision" not in card and "license:" not in card
    assert "**Classes:** a script, b # c, d e\n" in card and "**Licence:** none is stated" in card


def test_what_is_there_is_replaced_only_if_asked(hub, run, tmp_path, capsys):
    assert main(["push", str(run), "me/birds"]) == 0
    hub.repos["me/birds"][FILE] = b"earlier"
    message = error_of(["push", str(run), "me/birds"], capsys)
    assert message == f"me/birds has a {FILE} already; replace it with --overwrite"
    assert hub.repos["me/birds"][FILE] == b"earlier"
    assert main(["push", str(run), "me/birds", "--overwrite"]) == 0
    assert hub.repos["me/birds"][FILE] == (run / FILE).read_bytes()
    (tmp_path / "birds.safetensors").write_text("mine")
    assert "birds.safetensors exists" in error_of(["pull", "me/birds"], capsys)
    assert (tmp_path / "birds.safetensors").read_text() == "mine"
    assert main(["pull", "me/birds", "--overwrite"]) == 0


def test_what_arrives_is_checked_before_it_is_put_in_place(hub, run, tmp_path, capsys):
    good = (run / FILE).read_bytes()
    from safetensors.numpy import save

    other = save({"a": np.zeros(3, np.float32)})
    for name, data in {"cut": good[: len(good) // 2], "other": other, "pickle": b"\x80\x04cposix\nsystem\n"}.items():
        hub.repos[f"me/{name}"] = {FILE: data}
        message = error_of(["pull", f"me/{name}"], capsys)
        assert "truncated, damaged" in message or "was not written by mocoop" in message
        assert not (tmp_path / f"{name}.safetensors").exists()


def test_errors_say_what_to_do(hub, run, capsys, monkeypatch):
    hub.repos["me/empty"] = {}
    hub.repos["me/birds"] = {FILE: (run / FILE).read_bytes()}
    assert f"there is no me/nothing on {hub.url}" in error_of(["pull", "me/nothing"], capsys)
    assert f"me/empty on {hub.url} holds no {FILE}" in error_of(["pull", "me/empty"], capsys)
    assert "has no such revision" in error_of(["pull", "me/birds@v9"], capsys)
    assert "your token may not do this (HTTP 403)" in error_of(["push", str(run), "somebody/birds"], capsys)
    for name in ("birds", "../birds", "me/birds/x", "me/../x", "", "hf://", "me/bi rds"):
        assert "expected OWNER/NAME" in error_of(["pull", name], capsys)
    assert "expected OWNER/NAME to push to" in error_of(["push", str(run), "me/birds@main"], capsys)
    assert "licence: expected an identifier" in error_of(["push", str(run), "me/x", "--licence", "a\nb: c"], capsys)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "your token may not do this (HTTP 401)" in error_of(["push", str(run), "me/birds"], capsys)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert "not logged in: run `hf auth login`" in error_of(["push", str(run), "me/birds"], capsys)
    assert "me/new" not in hub.repos


def test_the_network_is_down(run, fitted, images, monkeypatch, tmp_path, capsys):
    """One message and no log lines (see `error_of`), soon; what was fetched before is still there."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    with stand_in() as before:
        monkeypatch.setenv("HF_ENDPOINT", before.url)
        assert main(["push", str(run), "me/before"]) == 0 and main(["pull", "me/before"]) == 0
        capsys.readouterr()
    with stand_in() as gone:  # (that nobody has a connection to which lives on)
        monkeypatch.setenv("HF_ENDPOINT", gone.url)
    start = time.monotonic()
    assert f"cannot reach {gone.url}" in error_of(["pull", "me/birds"], capsys)
    assert f"cannot reach {gone.url}" in error_of(["push", str(run), "me/birds"], capsys)
    assert f"cannot reach {gone.url}" in error_of(["predict", "hf://me/birds", images[0]], capsys)
    assert load("hf://me/before", device="cpu").classes_.tolist() == fitted("MoCoOp").classes_.tolist()
    assert time.monotonic() - start < 10


def test_a_hub_that_never_answers_is_given_up(run, monkeypatch, tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr("mocoop.classifier.hub.REACH_SECONDS", 0.3)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.chdir(tmp_path)
        start = time.monotonic()
        assert "cannot reach http://127.0.0.1" in error_of(["pull", "me/birds"], capsys)
        assert "cannot reach http://127.0.0.1" in error_of(["push", str(run), "me/birds"], capsys)
        assert time.monotonic() - start < 10


def test_without_the_package_the_extra_is_named(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install 'mocoop[hub]'" in error_of(["pull", "me/birds"], capsys)
