"""The wheel: what is in it, and that it trains from another folder."""

import email
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import mocoop
import pytest

ROOT = Path(mocoop.__file__).parent


def python(*args, cwd, **env):
    call, env = [sys.executable, *map(str, args)], {**os.environ, **env}
    done = subprocess.run(call, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory, copy_checkout):
    """The wheel of a copy of the checkout, built without any network."""
    folder = tmp_path_factory.mktemp("wheel")
    copy_checkout(folder / "source")
    python(
        *("-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index", "--quiet", "-w", folder),
        folder / "source",
        cwd=folder,
    )
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.slow
def test_what_is_in_the_wheel(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    info = f"mocoop-{mocoop.__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"mocoop", info}
    inside = {name.removeprefix("mocoop/") for name in names}
    folders = (
        "benchmarks",
        "clip",
        "commands",
        "config",
        "configs",
        "datasets",
        "report",
        "results",
        "runs",
        "toolbox",
        "trainers",
    )
    expected = {str(p.relative_to(ROOT)) for name in folders for p in (ROOT / name).rglob("*.py")}
    expected |= {str(p.relative_to(ROOT)) for p in (ROOT / "configs").rglob("*.yaml")}
    expected |= {
        "__init__.py",
        "train.py",
        "__main__.py",
        "checkout.py",
        "methods.py",
        "results/__main__.py",
        "report/page.html",
        "report/page.css",
        "report/page.js",
        "clip/demo/demo.safetensors",
    }
    assert expected - inside == set()
    assert not any(name.startswith(("tests/", "scripts/", "docs/", "setup", "data/", "output/")) for name in inside)
    licence = [name for name in names if name.startswith(info) and name.endswith("LICENSE")]
    assert len(licence) == 1


@pytest.mark.slow
def test_the_wheel_says_whose_it_is_and_where_it_runs(wheel):
    path = f"mocoop-{mocoop.__version__}.dist-info/METADATA"
    said = email.message_from_bytes(zipfile.ZipFile(wheel).read(path))
    assert said["Author"] == "The mocoop authors" and said["Requires-Python"] == ">=3.10"
    assert "https://arxiv.org/abs/2409.12011" in (said["Home-page"] or said["Project-URL"])
    pythons = re.findall(r"^Programming Language :: Python :: (3\.\d+)$", "\n".join(said.get_all("Classifier")), re.M)
    assert pythons == ["3.10", "3.11", "3.12", "3.13"]
    assert f"Python {pythons[0]} to {pythons[-1]}, torch 2.4 to " in (ROOT / "README.md").read_text()
    required = said.get_all("Requires-Dist")
    assert "torch>=2.4" in required and "open_clip_torch>=2.32" in required


@pytest.mark.slow
def test_the_installed_wheel_trains_an_epoch_from_another_folder(wheel, tmp_path, demo_root):
    site = tmp_path / "site"
    python("-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target", site, wheel, cwd=tmp_path)
    env = {"PYTHONPATH": str(site)}
    where = python("-c", "import mocoop, dassl; print(mocoop.__file__, dassl.__file__)", cwd=tmp_path, **env).split()
    assert [str(site / "mocoop/__init__.py"), str(site / "mocoop/toolbox/dassl/__init__.py")] == where
    asked = "from mocoop.commands import protocol; print(protocol.from_environment({}).output)"
    where = python("-c", asked, cwd=tmp_path, **env)
    assert where.strip() == str(tmp_path / "output")  # not in site-packages
    out = python(
        *("-m", "mocoop.train", "--root", demo_root, "--trainer", "MoCoOp", "--seed", "1", "--output-dir", "run"),
        *("--dataset-config-file", "configs/datasets/demo_icons.yaml"),
        *("--config-file", "configs/trainers/MoCoOp/demo.yaml"),
        *("DATASET.NUM_SHOTS", "1", "DATASET.SUBSAMPLE_CLASSES", "base", "OPTIM.MAX_EPOCH", "1"),
        cwd=tmp_path,
        **env,
    )
    assert "Finish training" in out and "* accuracy: " in out
    assert (tmp_path / "run/DONE").is_file() and (tmp_path / "run/prompt_learner/model.pth.tar-1").is_file()
