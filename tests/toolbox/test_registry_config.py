"""Registries, config defaults and yacs coercions, and that none of it imports torch."""

import subprocess
import sys

import pytest
from dassl.config import clean_cfg, get_cfg_default
from dassl.utils import Registry, check_availability, did_you_mean, get_most_similar_str_to_a_from_b, nearest


class Thing:
    pass


def test_register_in_both_forms_and_duplicates():
    registry = Registry("R")
    assert registry.register(Thing) is None
    assert registry.register()(Registry) is Registry
    assert registry.registered_names() == ["Thing", "Registry"]
    with pytest.raises(KeyError, match="Thing"):
        registry.register(Thing)
    other = type("Thing", (), {})
    registry.register(other, force=True)
    assert registry.get("Thing") is other
    with pytest.raises(KeyError, match="Nothing"):
        registry.get("Nothing")


def test_lazy_entries_are_listed_resolved_and_yield_to_real_ones():
    registry = Registry("R")
    registry.register_lazy("OrderedDict", "collections:OrderedDict")
    registry.register_lazy("OrderedDict", "collections:Counter")  # ignored
    registry.register_lazy("Thing", "no.such.module:Thing")
    assert registry.registered_names() == ["OrderedDict", "Thing"] and "Thing" in registry
    from collections import OrderedDict

    assert registry.get("OrderedDict") is OrderedDict
    registry.register(Thing)  # silently wins
    assert registry.get("Thing") is Thing
    registry.register_lazy("Thing", "collections:Counter")  # ignored
    assert registry.get("Thing") is Thing
    registry.register(type("OrderedDict", (), {}))  # also after the lazy one was resolved
    assert registry.get("OrderedDict") is not OrderedDict
    with pytest.raises(ValueError, match="package.module:attribute"):
        registry.register_lazy("X", "collections.Counter")


def test_unknown_names_are_value_errors_with_the_nearest():
    from dassl.data.datasets import build_dataset
    from dassl.engine import build_trainer
    from dassl.evaluation import build_evaluator

    cfg = get_cfg_default()
    cfg.TRAINER.NAME, cfg.DATASET.NAME, cfg.TEST.EVALUATOR = "coop", "EuroSat", "Clasification"
    for builder, name in ((build_trainer, "CoOp"), (build_dataset, "EuroSAT"), (build_evaluator, "Classification")):
        with pytest.raises(ValueError, match=rf"do you mean \[{name}\]"):
            builder(cfg)
    with pytest.raises(ValueError, match="None"):
        check_availability("x", [])
    assert get_most_similar_str_to_a_from_b("ab", ["ax", "ay"]) == "ay"  # the later wins a tie
    assert get_most_similar_str_to_a_from_b("ab", ["ay", "ax"]) == "ax"
    assert get_most_similar_str_to_a_from_b("q", ["x"]) == "x" and get_most_similar_str_to_a_from_b("q", []) is None


def test_nearest_names():
    names = ["ViT-B/16", "ViT-B/32", "RN50", "coop", "CoOp"]
    assert nearest("vit_b16", names, most=2) == ["ViT-B/16"]  # the same letters and digits: no second one
    assert nearest("ViT-B/1", names, most=2) == ["ViT-B/16", "ViT-B/32"]  # 2 * 5 of 11 letters, 2 * 4 of 11
    assert nearest("ViT-B/1", names) == ["ViT-B/16"] and nearest("ViT-B/1", names, 2, cutoff=0.8) == ["ViT-B/16"]
    assert nearest("COOp", names) == ["CoOp"]  # equal but for case: the more alike as they are
    assert nearest("zzz", names) == [] and nearest("zzz", names, cutoff=0.0) != []
    assert nearest("x" * 201, ["x" * 201]) == []
    assert did_you_mean("ViT-B/1", names, 2, end=".") == "; did you mean ViT-B/16 or ViT-B/32?"
    assert did_you_mean("zzz", names) == "" and did_you_mean("zzz", names, end=".") == "."


def test_defaults_copies_and_yacs_rules(tmp_path):
    cfg = get_cfg_default()
    cfg.OPTIM.LR = 7.0
    assert get_cfg_default().OPTIM.LR == 0.0003 and cfg.SEED == -1 and cfg.OPTIM.STEPSIZE == (-1,)
    assert (cfg.TEST.FINAL_MODEL, cfg.OPTIM.WARMUP_RECOUNT, cfg.INPUT.RRCROP_SCALE) == ("last_step", True, (0.08, 1.0))
    cfg.merge_from_list(["INPUT.SIZE", "(32, 16)", "OPTIM.LR", "1e-5", "INPUT.TRANSFORMS", ["normalize"]])
    assert cfg.INPUT.SIZE == (32, 16) and cfg.OPTIM.LR == 1e-5 and cfg.INPUT.TRANSFORMS == ("normalize",)
    with pytest.raises(ValueError):
        cfg.merge_from_list(["OPTIM.LR", 1])
    with pytest.raises(AssertionError):
        cfg.merge_from_list(["OPTIM.LRR", 1.0])
    file = tmp_path / "x.yaml"
    file.write_text("OPTIM:\n  LRR: 1.0\n")
    with pytest.raises(KeyError):
        cfg.merge_from_file(str(file))
    cfg.freeze()
    with pytest.raises(AttributeError):
        cfg.SEED = 1


def test_clean_cfg_keeps_name_and_both_spellings():
    cfg = get_cfg_default()
    for name in ("MoCoOp", "MOCOOP", "COOP"):
        cfg.TRAINER[name] = get_cfg_default().TEST
    clean_cfg(cfg, "MoCoOp")
    assert sorted(cfg.TRAINER) == ["MOCOOP", "MoCoOp", "NAME"]


def test_names_can_be_checked_without_torch():
    code = """
import sys, mocoop
import dassl.data, dassl.engine, dassl.evaluation, dassl.metrics, dassl.optim, dassl.utils, dassl.data.transforms
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY, Datum, DatasetBase
from dassl.engine import TRAINER_REGISTRY, build_trainer
from dassl.evaluation.build import EVALUATOR_REGISTRY
from dassl import names
assert "MoCoOp" in TRAINER_REGISTRY.registered_names() and "EuroSAT" in DATASET_REGISTRY.registered_names()
assert EVALUATOR_REGISTRY.registered_names() == ["Classification"]
heavy = {"torch", "torchvision", "numpy", "PIL", "sklearn"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_light_names_agree_with_what_is_built():
    from dassl import names
    from dassl.data.transforms import INTERPOLATION_MODES

    assert set(INTERPOLATION_MODES) == set(names.INTERPOLATIONS)


def test_every_public_name_of_every_package_exists():
    from importlib import import_module

    for package in (
        "config",
        "data",
        "data.datasets",
        "data.transforms",
        "engine",
        "evaluation",
        "metrics",
        "optim",
        "utils",
    ):
        module = import_module(f"dassl.{package}")
        for name in getattr(module, "__all__", ["get_cfg_default", "clean_cfg"]):
            assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no_such"):
        getattr(import_module("dassl.utils"), "no_such")  # noqa: B009
