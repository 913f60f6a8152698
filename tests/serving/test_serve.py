"""`mocoop serve` as a user runs it: start, Ctrl-C, a port in use, many clients at once, a browser."""

import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("mocoop.serving.app", reason="the extra `serve` is not installed")

CALL = [sys.executable, "-m", "mocoop", "serve"]
ENV = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


@contextmanager
def served(run, *args):
    """A server of its own process on a free port: the process, its lines so far, and a client."""
    # (a shell may have started us with Ctrl-C ignored, which processes inherit)
    ctrl_c = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
    server = subprocess.Popen(
        [*CALL, str(run), "--port", "0", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=ENV,
        **ctrl_c,
    )
    try:
        lines = []
        while not lines or not lines[-1].startswith("Ctrl-C"):
            lines.append(server.stdout.readline())
            assert lines[-1], "".join(lines)
        number = re.search(r"http://\S+:(\d+)", "".join(lines))[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{number}", timeout=60, trust_env=False) as client:
            while True:
                try:
                    client.get("/health")
                    break
                except httpx.TransportError:
                    assert server.poll() is None
            yield server, lines, client
    finally:
        server.kill()
        server.wait()


def test_start_to_ctrl_c(run, images):
    with served(run) as (server, lines, client):
        assert lines[0].startswith("MoCoOp, 3 classes: http://127.0.0.1:")
        assert client.post("/predict", content=Path(images[0]).read_bytes()).status_code == 200
        taken = str(client.base_url.port)
        second = subprocess.run([*CALL, str(run), "--port", taken], capture_output=True, text=True, env=ENV, timeout=60)
        assert (second.returncode, second.stdout) == (1, "")
        assert second.stderr == (
            f"Error: port {taken} of 127.0.0.1 is in use: give another --port (0 = any that is free) or --host\n"
        )
        server.send_signal(signal.SIGINT)
        rest = server.stdout.read()
        assert (server.wait(timeout=30), rest) == (0, "Stopped.\n")


def test_another_host_is_warned_about_and_may_be_called_by_any_name(run):
    with served(run, "--host", "0.0.0.0") as (_, lines, client):
        assert lines[0].startswith("Warning: whoever can reach 0.0.0.0 over the network can use this server")
        assert client.get("/health", headers={"Host": "my-machine:80"}).status_code == 200


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--host", "203.0.113.7"], "port 8000 of 203.0.113.7 cannot be used"),
        (["--max-mb", "0"], "--max-mb: expected a number above 0"),
        (["--max-mb", "nan"], "--max-mb: expected a number above 0"),
    ],
)
def test_what_cannot_be_served(run, args, message, capsys):
    from mocoop.commands.main import main

    assert main(["serve", str(run), *args]) == 1
    assert capsys.readouterr().err.startswith(f"Error: {message}")


def test_without_the_packages_the_extra_is_named(run):
    code = "import sys; sys.modules['fastapi'] = None; from mocoop.commands.main import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code, "serve", str(run)], capture_output=True, text=True, env=ENV)
    assert done.returncode == 1 and "pip install 'mocoop[serve]'" in done.stderr and "Traceback" not in done.stderr


def resident(pid):
    """Memory of a process, in MB."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024


@pytest.mark.slow
def test_many_clients_none_is_lost_and_memory_is_flat(run, images, clf):
    contents = [Path(path).read_bytes() for path in images]
    expected = clf.predict_proba(images)

    def ask(client, start, count):
        found = []
        for i in range(start, start + count):
            answer = client.post("/predict", content=contents[i % len(images)])
            assert answer.status_code == 200, answer.text
            table = {entry["label"]: entry["probability"] for entry in answer.json()["probabilities"]}
            found.append(max(abs(table[k] - p) for k, p in zip(clf.classes_, expected[i % len(images)], strict=True)))
        return found

    with served(run) as (server, _, client), ThreadPoolExecutor(8) as clients:
        sizes = []
        for _ in range(3):
            rounds = list(clients.map(lambda k: ask(client, k, 40), range(8)))
            sizes.append(resident(server.pid))
            assert [len(found) for found in rounds] == [40] * 8 and max(map(max, rounds)) < 1e-5
        assert sizes[-1] - sizes[0] < 16, sizes


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(scheme, browser, client, clf, images, tmp_path):
    page = browser.new_page(viewport={"width": 320, "height": 640}, color_scheme=scheme)
    wrong = []
    page.on("console", lambda message: message.type in ("error", "warning") and wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda asked: asked.url.startswith(str(client.base_url)) or wrong.append(asked.url[:5]))
    page.goto(str(client.base_url))
    page.get_by_text("MoCoOp on demo: 3 classes").wait_for()
    page.get_by_label("choose a file").set_input_files(images[0])
    found = clf.explain(images[0])
    page.get_by_role("heading", name=f"{found.label} ({100 * found.probability:.1f}%)").wait_for()
    assert page.locator("#bars li").count() == 3
    rows = page.locator("#experts tr").all_inner_texts()
    assert [row.split("\t")[0] for row in rows] == [expert.template for expert in found.experts]
    assert page.evaluate("document.documentElement.scrollWidth") <= 320  # nothing sticks out of a narrow screen
    assert page.evaluate("document.querySelector('#picture').naturalWidth") > 0
    drop(page, images[-1])
    other = clf.explain(images[-1])
    page.get_by_role("heading", name=f"{other.label} ({100 * other.probability:.1f}%)").wait_for()
    assert [text for text in wrong if text != "blob:"] == []
    page.get_by_label("choose a file").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"no"})
    page.get_by_role("alert").filter(has_text="Cannot read a.png").wait_for()
    assert not page.locator("#result").is_visible()
    large = {"name": "b.png", "mimeType": "image/png", "buffer": bytes(2**20 + 1)}
    page.get_by_label("choose a file").set_input_files(large)
    page.get_by_role("alert").filter(has_text="more than the 1.0 MB that the server takes").wait_for()
    page.close()


def drop(page, path):
    """Drop a file on the page."""
    data = list(Path(path).read_bytes())
    transfer = page.evaluate_handle(
        "data => { const t = new DataTransfer();"
        "t.items.add(new File([new Uint8Array(data)], 'dropped.png', {type: 'image/png'})); return t; }",
        data,
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
