"""Small models in OpenAI's layout, and a server on this machine that misbehaves on demand."""

import copy
import functools
import http.server
import threading
import warnings

import pytest

VISION = {
    "vit": {"image_size": 48, "layers": 2, "width": 128, "patch_size": 16},
    "rn": {"image_size": 64, "layers": [1, 2, 1, 1], "width": 16, "patch_size": None},
}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 2, "layers": 2}


def tiny_config(kind, quick_gelu=True):
    """open_clip's configuration of a ViT-B/16 ("vit") or RN50 ("rn") shrunk in depth and width."""
    return {"embed_dim": 96, "vision_cfg": VISION[kind], "text_cfg": TEXT, "quick_gelu": quick_gelu}


def tiny_clip(kind, quick_gelu=True):
    """An open_clip model whose every number, biases and running statistics too, is random; the same at every call."""
    return copy.deepcopy(_tiny_clip(kind, quick_gelu))


@functools.lru_cache(maxsize=4)
def _tiny_clip(kind, quick_gelu):
    import open_clip
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.CLIP(**copy.deepcopy(tiny_config(kind, quick_gelu)))
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.is_floating_point():
                tensor.add_(0.05 * torch.randn(tensor.shape, generator=generator))
    return model.eval()


def with_marks(model, size):
    """State dict with the three numbers that OpenAI's archives carry."""
    import torch

    marks = {"input_resolution": size, "context_length": 77, "vocab_size": 49408}
    return {**model.state_dict(), **{name: torch.tensor(value) for name, value in marks.items()}}


def save_torchscript(model, size, path):
    """Trace `model` as OpenAI did, marks included, and save the archive. Changes the model given."""
    import torch

    for name, value in (("input_resolution", size), ("context_length", 77), ("vocab_size", 49408)):
        if hasattr(model, name):
            delattr(model, name)
        model.register_buffer(name, torch.tensor(value))
    images, tokens = torch.zeros(1, 3, size, size), torch.zeros(1, 77, dtype=torch.long)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated, and says so for every shape it freezes
        torch.jit.trace(model, (images, tokens), check_trace=False).save(str(path))


@pytest.fixture(scope="session")
def make():
    """The functions above, for test files (pytest's importlib mode lets them import no neighbour)."""

    class Make:
        config, clip = staticmethod(tiny_config), staticmethod(tiny_clip)
        marked, torchscript = staticmethod(with_marks), staticmethod(save_torchscript)
        sizes = {kind: vision["image_size"] for kind, vision in VISION.items()}

    return Make


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.body`; `server` says how badly."""

    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.asked.append(asked)
        if server.status != 200:
            return self.send_error(server.status)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges else 0
        if start and start >= len(server.body):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.body) - 1}/{len(server.body)}")
        self.send_header("Content-Length", str(len(server.body) - start))
        self.send_header("Content-Type", server.content_type)
        self.end_headers()
        stop = server.cuts.pop(0) if server.cuts else len(server.body)
        self.wfile.write(server.body[start : start + stop])
        self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    """A loopback server. Set `body`, `ranges`, `status`, `content_type`, and `cuts`: bytes after which to hang up."""
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.body, httpd.ranges, httpd.status, httpd.cuts, httpd.asked = b"", True, 200, [], []
    httpd.content_type = "application/octet-stream"
    httpd.url = f"http://127.0.0.1:{httpd.server_port}"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield httpd
    httpd.shutdown()
    httpd.server_close()
    thread.join()
