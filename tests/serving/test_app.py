"""The web application over a real connection: its answers are the classifier's, and nobody can harm it."""

import io
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mocoop
import numpy as np
import pytest
from PIL import Image

from .conftest import running

pytest.importorskip("httpx")
serving = pytest.importorskip("mocoop.serving.app", reason="the extra `serve` is not installed")


def png(width, height, mode="RGB"):
    """The bytes of an empty picture."""
    written = io.BytesIO()
    Image.new(mode, (width, height)).save(written, "PNG")
    return written.getvalue()


def test_the_answer_is_the_classifiers_whichever_way_the_image_is_sent(client, clf, images):
    for path in images[:4]:
        data = Path(path).read_bytes()
        raw = client.post("/predict", content=data)
        form = client.post("/predict", files={"anything": ("a.png", data, "image/png")})
        assert raw.status_code == form.status_code == 200
        found = form.json()
        assert found.pop("file") == "a.png" and found == {k: v for k, v in raw.json().items() if k != "file"}
        table = dict(zip(clf.classes_.tolist(), clf.predict_proba([path])[0].tolist(), strict=True))
        assert {e["label"]: e["probability"] for e in found["probabilities"]} == pytest.approx(table, abs=1e-5)
        assert (
            found["label"] == max(table, key=table.get)
            and found["probability"] == found["probabilities"][0]["probability"]
        )
        assert found["experts"] == clf.explain(path).to_dict()["experts"]
        assert {"template", "weight", "label", "left_out_label", "left_out_probability"} < found["experts"][0].keys()


def test_unsure_is_below_the_threshold(clf, images, monkeypatch):
    probability = clf.explain(images[0]).probability
    for threshold, unsure in ((probability - 1e-3, False), (probability + 1e-3, True)):
        monkeypatch.setattr(clf, "threshold_", threshold)
        assert serving.answer(clf, "a.png", Path(images[0]).read_bytes())["unsure"] is unsure


def test_a_batch_answers_in_order_and_names_the_bad_ones_in_their_places(client, clf, images):
    sent = [Path(path).read_bytes() for path in images[:5]]
    sent[2:2] = [b"no image", png(1100, 1100) + bytes(2**20)]
    answer = client.post("/predict/batch", files=[("file", (f"{i}.png", data)) for i, data in enumerate(sent)])
    found = answer.json()["results"]
    assert answer.status_code == 200 and [entry["file"] for entry in found] == [f"{i}.png" for i in range(7)]
    assert "Cannot read 2.png: it is no image" in found[2]["error"] and "more than 1 MB" in found[3]["error"]
    good = [entry for entry in found if "error" not in entry]
    table = clf.predict_proba(images[:5])
    assert [entry["label"] for entry in good] == clf.classes_[table.argmax(axis=1)].tolist()
    for data, entry, row in zip([*sent[:2], *sent[4:]], good, table, strict=True):
        found = entry["probabilities"]
        by_label = {pair["label"]: pair["probability"] for pair in found}
        np.testing.assert_allclose([by_label[label] for label in clf.classes_.tolist()], row, atol=1e-5)
        alone = client.post("/predict", content=data).json()["probabilities"]
        assert [pair["label"] for pair in found] == [pair["label"] for pair in alone]  # the same shape and order


def cut(data):
    return data[: len(data) // 2]


BAD = {
    "nothing": (b"", "expected an image"),
    "text": (b"GIF? no", "it is no image, or damaged"),
    "half a picture": (cut(png(300, 200) + bytes(9)), "Cannot read image"),
    "200 megapixels": (png(20000, 10000, "1"), "it has more than 50 million pixels"),
    "60 megapixels": (png(10000, 6000, "1"), "it has more than 50 million pixels"),
    "a thread": (png(1, 1000), "crop it"),
    "another program's format": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "it is no image"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_upload_is_one_message_and_harms_nothing(what, client, images):
    data, message = BAD[what]
    start = time.monotonic()
    answer = client.post("/predict", content=data)
    assert answer.status_code == 400 and message in answer.json()["error"] and time.monotonic() - start < 5
    assert client.post("/predict", content=Path(images[0]).read_bytes()).status_code == 200


def test_a_picture_of_one_pixel_is_answered(client):
    assert client.post("/predict", content=png(1, 1)).status_code == 200


def test_a_damaged_form(client):
    head = {"content-type": "multipart/form-data; boundary=x"}
    for body in (b"", b"--x\r\n", b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\ntext\r\n--x--\r\n"):
        answer = client.post("/predict", content=body, headers=head)
        assert answer.status_code == 400 and answer.json()["error"]
    answer = client.post("/predict", content=b"x", headers={"content-type": "multipart/form-data"})
    assert answer.status_code == 400 and answer.json() == {"error": "Missing boundary in multipart."}
    answer = client.post("/predict", files=[("a", b"1"), ("b", b"2")])
    assert (answer.status_code, answer.json()["error"][:29]) == (400, "expected one image, found 2; ")
    many = [("file", (f"{i}.png", b"x")) for i in range(65)]
    assert client.post("/predict/batch", files=many).status_code == 400


def raw(client, text, then=b""):
    """Send bytes as they are; what comes back until the server closes, and what it took of `then`."""
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=10) as line:
        line.sendall(text)
        taken, received = 0, b""
        try:
            while then and taken < 64 * 2**20:
                taken += line.send(then)
        except OSError:
            pass
        try:
            while part := line.recv(65536):
                received += part
        except OSError:
            pass
        return received.decode(errors="replace"), taken


def test_what_is_too_large_is_refused_before_and_while_it_arrives(client):
    head = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
    answer, _ = raw(client, head + b"Content-Length: 99999999999\r\n\r\n")  # nothing of it was sent
    assert answer.startswith("HTTP/1.1 413 ") and "more than 1 MB were sent; send a smaller image" in answer
    batch = head.replace(b"/predict", b"/predict/batch")
    assert "more than 8 MB were sent; send fewer" in raw(client, batch + b"Content-Length: 99999999999\r\n\r\n")[0]
    chunk = b"10000\r\n" + bytes(2**16) + b"\r\n"
    _, taken = raw(client, head + b"Transfer-Encoding: chunked\r\n\r\n", chunk)
    assert taken < 32 * 2**20  # it did not listen to the end

    answer, _ = raw(
        client, head + b"Transfer-Encoding: chunked\r\n\r\n" + 17 * chunk + b"1\r\nx\r\n"
    )  # the limit and one
    assert answer.startswith("HTTP/1.1 413 ") and client.get("/health").json() == {"status": "ok", "waiting": 0}


def test_an_upload_that_never_ends_is_given_up(client, monkeypatch):
    monkeypatch.setattr(serving, "READ_SECONDS", 0.3)
    head = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: 1000\r\n\r\nabc"
    answer, _ = raw(client, head)
    assert answer.startswith("HTTP/1.1 408 ") and "did not arrive within 0.3 s" in answer


def test_only_this_machine_by_its_name(client):
    for host in ("evil.example", "127.0.0.1.evil.example:80", "[", ""):
        answer = client.get("/health", headers={"Host": host})
        assert answer.status_code in (400, 403), host
    for host in ("localhost", "LOCALHOST:1234", "127.0.0.1", "[::1]:80"):
        assert client.get("/health", headers={"Host": host}).status_code == 200


def test_pages_of_another_origin_cannot_use_it(client, images):
    data, here = Path(images[0]).read_bytes(), str(client.base_url).rstrip("/")
    for head in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        answer = client.post("/predict", content=data, headers=head)
        assert answer.status_code == 403 and "another origin" in answer.json()["error"]
    asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    for answer in (client.options("/predict", headers=asked), client.get("/model", headers=asked)):
        assert not any(name.startswith("access-control") for name in answer.headers)
    assert client.post("/predict", content=data, headers={"Origin": here}).status_code == 200


def test_who_comes_when_too_many_wait_is_sent_away(clf, images, monkeypatch):
    began, go, explain = threading.Event(), threading.Event(), clf.explain

    def slow(image):
        began.set()
        assert go.wait(30)
        return explain(image)

    data = Path(images[0]).read_bytes()
    with running(serving.build_app(clf, 2**20, most_waiting=2)) as client, ThreadPoolExecutor(2) as clients:
        client.get("/health")
        monkeypatch.setattr(clf, "explain", slow)
        waiting = [clients.submit(client.post, "/predict", content=data) for _ in range(2)]
        assert began.wait(30)
        while client.get("/health").json()["waiting"] < 2:
            time.sleep(0.01)
        answer = client.post("/predict", content=data)
        assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
        go.set()
        assert [done.result().status_code for done in waiting] == [200, 200]
        assert client.post("/predict", content=data).status_code == 200


def test_an_error_of_ours_does_not_end_the_server(clf, images, monkeypatch):
    data = Path(images[0]).read_bytes()
    with running(serving.build_app(clf, 2**20)) as client:
        monkeypatch.setattr(clf, "explain", lambda image: 1 / 0)
        answer = client.post("/predict", content=data)
        assert answer.status_code == 500 and "went wrong" in answer.json()["error"]
        monkeypatch.undo()
        assert client.post("/predict", content=data).status_code == 200


def test_what_there_is(client, clf):
    found = client.get("/model").json()
    assert (found["method"], found["backbone"]) == ("MoCoOp", "demo") and found["classes"] == clf.classes_.tolist()
    assert found["versions"]["mocoop"] == mocoop.__version__ and found["limits"]["bytes"] == 2**20
    assert found["experts"] == [group[0] for group in clf.model.groups]
    for path in ("/", "/page.css", "/page.js"):
        assert "default-src 'none'" in client.get(path).headers["content-security-policy"]
    assert "<h1>" in client.get("/").text and client.get("/setup.py").status_code == 404
    assert client.get("/..%2fapp.py").status_code == 404
    for path in ("/nothing", "/openapi.json", "/docs", "/redoc", "/setup.py"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()) == (404, {"error": "Not Found"})
    for answer in (client.get("/predict"), client.get("/predict/batch"), client.delete("/model")):
        assert (answer.status_code, answer.json()) == (405, {"error": "Method Not Allowed"})


def test_the_page_loads_nothing_from_elsewhere():
    for path in serving.PAGE.iterdir():
        assert "//" not in path.read_text().replace("// ", ""), path
