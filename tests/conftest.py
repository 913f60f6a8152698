"""What tests of several folders need: a CLIP of a few thousand parameters with fixed weights."""

import os
import shutil
import signal
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # bit-exact comparisons, and a backbone that is on the CPU
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a suite in the background; the commands it starts would
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignore the interrupts that tests send them

import mocoop  # (its import also makes `dassl` importable in every test file)
import pytest
import torch
from mocoop.tests.reliability import pytest_addoption, pytest_configure, record  # noqa: F401  (hooks and a fixture)

INSTALLED = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")  # names of browsers


def pytest_collection_modifyitems(items):
    """Files with slow tests first: where files are dealt out to processes, the short ones fill the gaps at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def build_tiny_clip(seed: int = 0):
    """An open_clip CLIP (ViT, QuickGELU) small enough to reason about, with weights that leave no path near zero."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    torch.manual_seed(seed)
    model = CLIP(
        embed_dim=24,
        vision_cfg=CLIPVisionCfg(layers=2, width=32, head_width=16, patch_size=16, image_size=32),
        text_cfg=CLIPTextCfg(context_length=77, width=32, heads=2, layers=3),
        quick_gelu=True,
    )
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() > 1:
                p.normal_(std=0.3 if "embedding" in name else 0.2)
            elif name != "logit_scale":
                p.add_(0.1 * torch.randn_like(p))
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def tiny_clip():
    return build_tiny_clip()


@pytest.fixture(scope="session")
def tokenizer():
    from mocoop.clip import Tokenizer

    return Tokenizer()


@pytest.fixture()
def tiny_backbone(tokenizer):
    """A fresh `Backbone` around the tiny CLIP (fresh, because training may change its LayerNorms)."""
    from mocoop.clip import Backbone, Preprocess

    half = (0.5, 0.5, 0.5)
    return Backbone(
        name="tiny",
        model=build_tiny_clip(),
        preprocess=Preprocess(size=32, mean=half, std=half, interpolation="bicubic"),
        tokenizer=tokenizer,
    )


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory):
    """A data root with the main demo set, drawn once for all tests; tests must not change what is in it."""
    from mocoop.datasets.demo_icons import make

    root = tmp_path_factory.mktemp("demo_root")
    make("DemoIcons", root)
    return root


@pytest.fixture(scope="session")
def copy_checkout():
    """A function that copies the checkout to a folder, without what git ignores or a package does not need."""
    root = Path(mocoop.__file__).parent

    def skip(folder, names):
        # `data` and the like only at the top: the toolbox has a `data` too
        top = {".git", ".venv", "data", "output", "build", "dist"} if Path(folder) == root else set()
        return [name for name in names if name in top | {"__pycache__"} or name.endswith(("_cache", ".egg-info"))]

    return lambda target: shutil.copytree(root, target, ignore=skip)


@pytest.fixture(scope="session")
def browser():
    """Chromium, the installed one or playwright's own; without either, tests are skipped and say so."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -e '.[test]'")
    path = next(filter(None, map(shutil.which, INSTALLED)), None)
    with sync_api.sync_playwright() as playwright:
        try:
            found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except sync_api.Error as error:
            pytest.skip(f"no browser ({str(error).splitlines()[0]}): install chromium, or: playwright install chromium")
        yield found
        found.close()
