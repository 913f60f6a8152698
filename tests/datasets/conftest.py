"""Fixtures of the data set tests: miniatures on disk, and a Dassl config that points at them."""

import importlib
import importlib.util
from pathlib import Path

import mocoop  # noqa: F401  (makes dassl importable)
import pytest


def load_miniatures():
    """The module miniatures.py, loaded by path (test folders are no packages)."""
    spec = importlib.util.spec_from_file_location("miniatures", Path(__file__).with_name("miniatures.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def miniatures():
    return load_miniatures()


@pytest.fixture(scope="session")
def miniature(miniatures):
    """`miniature(name, root)` writes the miniature of a data set below a data root and returns its folder."""
    return miniatures.write


@pytest.fixture()
def make_cfg(tmp_path):
    """`make_cfg(root, shots, seed, classes)`: a Dassl config with what data sets read."""
    from dassl.config import get_cfg_default

    def make(root=tmp_path, shots=-1, seed=1, classes="all"):
        cfg = get_cfg_default()
        cfg.DATASET.ROOT = str(root)
        cfg.DATASET.NUM_SHOTS = shots
        cfg.DATASET.SUBSAMPLE_CLASSES = classes
        cfg.SEED = seed
        return cfg

    return make


@pytest.fixture()
def build(make_cfg):
    """`build(name, **cfg)`: the data set registered under that name."""
    from mocoop.plugin import DATASETS

    def make(name, **options):
        module, attribute = DATASETS[name].split(":")
        return getattr(importlib.import_module(module), attribute)(make_cfg(**options))

    return make
