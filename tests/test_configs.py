"""Every yaml under configs/: it merges, it is what was published, and the names it uses exist."""

import re
from itertools import takewhile
from pathlib import Path

import pytest
from dassl.config import get_cfg_default
from mocoop import clip, config, extend_cfg
from mocoop.methods import table
from mocoop.plugin import DATASETS, all_keys

ROOT = Path(config.__file__).parent.parent
# Those of sweeps are grids of runs, not configs: tests/runs/test_sweeps.py reads them.
FILES = sorted(p for p in (ROOT / "configs").rglob("*.yaml") if p.parent.name != "sweeps")
RELATIVE = [str(path.relative_to(ROOT / "configs")) for path in FILES]

# Group sizes and number of templates as published by the authors of MoCoOp.
TAIL = [4, 2]
IMAGENET_SHIFT = [1, 1, 1, 1, 2, 2, 3, 1, 1, 1, 2, 2, 1, 1, 1, 1]
GROUPS = {
    "caltech101": ([1, 1, 1, *TAIL], 9),
    "dtd": ([1, 1, 1, *TAIL], 9),
    "eurosat": ([1, 1, 2, 2, *TAIL], 12),
    "fgvc_aircraft": ([1, 1, 1, *TAIL], 9),
    "food101": ([1, 3, *TAIL], 10),
    "oxford_flowers": ([1, 1, 1, *TAIL], 9),
    "oxford_pets": ([1, 2, 1, 1, *TAIL], 11),
    "stanford_cars": ([3, 1, 1, *TAIL], 11),
    "sun397": ([1, 1, *TAIL], 8),
    "ucf101": ([1, 1, 1, 1, *TAIL], 10),
    "imagenet": ([1, 1, 1, 1, 2, 2, 3, 1, 1, 1, 7, 2, 1, 2, 1, 1, 1, 1, 1, 1], 32),
    "imagenetv2": (IMAGENET_SHIFT, 22),
    "imagenet_sketch": (IMAGENET_SHIFT, 22),
    "imagenet_a": (IMAGENET_SHIFT, 22),
    "imagenet_r": (IMAGENET_SHIFT, 22),
}
# batch train, batch test, learning rate, epochs, warm-up epochs
SCHEDULES = {
    "CoOp/rn50": (32, 100, 0.002, 200, 1),
    "CoOp/rn101": (32, 100, 0.002, 200, 1),
    "CoOp/vit_b32": (32, 100, 0.002, 200, 1),
    "CoOp/vit_b16": (32, 100, 0.002, 200, 1),
    "CoOp/rn50_ep100": (32, 100, 0.002, 100, 1),
    "CoOp/vit_b16_ep100": (32, 100, 0.002, 100, 1),
    "CoOp/rn50_ep50": (32, 100, 0.002, 50, 1),
    "CoOp/rn101_ep50": (32, 100, 0.002, 50, 1),
    "CoOp/vit_b32_ep50": (32, 100, 0.002, 50, 1),
    "CoOp/vit_b16_ep50": (32, 100, 0.002, 50, 1),
    "CoOp/rn50_ctxv1": (32, 100, 0.002, 200, 1),
    "CoOp/vit_b16_ctxv1": (32, 100, 0.002, 200, 1),
    "CoOp/vit_b16_ep100_ctxv1": (32, 100, 0.002, 100, 1),
    "CoOp/rn50_ep50_ctxv1": (32, 100, 0.002, 50, 1),
    "CoOp/vit_b16_ep50_ctxv1": (32, 100, 0.002, 50, 1),
    "CoCoOp/vit_b16_c4_ep10_batch1_ctxv1": (1, 100, 0.002, 10, 1),
    "CoCoOp/vit_b16_c4_ep10_batch1": (1, 100, 0.002, 10, 1),
    "CoCoOp/vit_b16_c8_ep10_batch1": (1, 100, 0.002, 10, 1),
    "CoCoOp/vit_b16_c16_ep10_batch1": (1, 100, 0.002, 10, 1),
    "LASP/vit_b16_c4_ep50_batch32_cls_t2t_10_wcl_25_g1_b_lr32": (32, 32, 0.032, 50, 5),
    "LASP/vit_b16_c4_ep25_batch32_cls_t2t_5_wcl_25_g1_b_lr32": (32, 32, 0.032, 25, 3),
    "LASP/vit_b16_c4_ep300_batch32_cls_t2t_5_wcl_25_g1_b_lr32": (32, 32, 0.032, 300, 7),
    "LASP/vit_b16_c4_ep10_batch1_cls_t2t_5_wcl_25_g1_b": (1, 32, 0.002, 10, 1),
    "MoCoOp/vit_b16_ep10_batch1": (1, 32, 0.002, 10, 1),
    "MoCoOp/vit_b16_ep10_batch1_imagenet": (1, 32, 0.002, 10, 1),
    "MoCoOp/vit_b16_ep25_batch32": (32, 32, 0.032, 25, 3),
    "MoCoOp/vit_b16_ep50_batch32": (32, 32, 0.032, 50, 5),
    "MoCoOp/vit_b16_ep50_batch32_authors": (32, 32, 0.032, 50, 5),
    "MoCoOp/vit_b16_ep300_batch32": (32, 32, 0.032, 300, 7),
}
BACKBONES = {"rn50": "RN50", "rn101": "RN101", "vit_b32": "ViT-B/32", "vit_b16": "ViT-B/16", "vit_l14": "ViT-L/14"}


def merged(path):
    cfg = get_cfg_default()
    extend_cfg(cfg)
    seen = config.merge(cfg, [(str(path), config.read_yaml(path))])
    return cfg, seen


def test_how_many_there_are():
    """A walk that finds nothing must not pass for a test."""
    datasets = [name for name in RELATIVE if name.startswith("datasets/")]
    demo = [name for name in datasets if name.startswith(("datasets/demo_", "datasets/mini_"))]
    own = [name for name in datasets if name == "datasets/image_folder.yaml"]
    assert len(datasets) - len(demo) - len(own) >= 15
    assert len([name for name in RELATIVE if name.startswith("trainers/CoOp/")]) == 18  # CoOp's 16, demo, miniature
    assert (
        len([name for name in RELATIVE if name.startswith("trainers/MoCoOp/")]) == 8
    )  # 5 schedules, authors', 2 worlds
    assert len([name for name in RELATIVE if name.startswith("trainers/ZeroshotCLIP/")]) == 7
    assert len([name for name in RELATIVE if name.startswith("trainers/CoCoOp/")]) == 6  # CoCoOp's 4, demo, miniature
    assert len([name for name in RELATIVE if name.startswith("trainers/LASP/")]) == 6  # LASP's 4, demo, miniature
    assert {name.split("/")[0] for name in RELATIVE} == {"datasets", "trainers"}


@pytest.mark.parametrize("name", RELATIVE)
def test_it_merges_and_passes_every_check(name):
    cfg, seen = merged(ROOT / "configs" / name)
    cfg.TRAINER.NAME = name.split("/")[1] if name.startswith("trainers/") else "MoCoOp"
    cfg.DATASET.NAME = cfg.DATASET.NAME or "EuroSAT"
    assert config.check(cfg, {"TRAINER.NAME": list(table()), "DATASET.NAME": list(DATASETS)}, all_keys()) == []
    if name.startswith("trainers/"):
        backbone = cfg.MODEL.BACKBONE.NAME
        clip.check_name(backbone)
        assert {
            "INPUT.SIZE",
            "INPUT.PIXEL_MEAN",
            "INPUT.PIXEL_STD",
            "INPUT.INTERPOLATION",
        } <= seen  # for CoOp checkouts
        assert config.check_input(cfg, clip.preprocess_of(backbone), backbone) == []


@pytest.mark.parametrize("name", RELATIVE)
def test_its_header_says_what_it_is_and_names_files_that_exist(name):
    text = (ROOT / "configs" / name).read_text()
    header = "\n".join(takewhile(lambda line: line.startswith("#"), text.splitlines()))
    assert len(header) > 60
    for path in re.findall(r"(?:configs|scripts|trainers)/[\w/]+\.(?:yaml|sh|py)", header):
        assert (ROOT / path).is_file(), path
    if name.startswith("trainers/") and not name.endswith("rn50_val.yaml"):
        assert f"configs/{name}" in header  # the command


@pytest.mark.parametrize("name", GROUPS)
def test_template_groups_as_published(name):
    sizes, total = GROUPS[name]
    cfg, _ = merged(ROOT / "configs" / "datasets" / f"{name}.yaml")
    groups = cfg.TRAINER.MOCOOP.PROMPT_GROUPS
    assert [len(group) for group in groups] == sizes and sum(sizes) == total
    assert len({template for group in groups for template in group}) == total  # no template repeats inside a file
    assert DATASETS[cfg.DATASET.NAME] == f"mocoop.datasets.{name}:{cfg.DATASET.NAME}"


def test_templates_at_a_few_places():
    groups = {name: config.read_yaml(ROOT / f"configs/datasets/{name}.yaml") for name in GROUPS}
    groups = {name: layer["TRAINER.MOCOOP.PROMPT_GROUPS"] for name, layer in groups.items()}
    assert groups["food101"][0] == ["a photo of a  {}."]  # two spaces, as published
    assert groups["imagenet"][10][4:] == [
        "a jpeg corrupted photo of the {}.",
        "a blurry photo of a {}.",
        "a bad photo of the {}.",
    ]
    assert groups["imagenet_r"][10] == ["a low resolution photo of the {}.", "a pixelated photo of a {}."]
    assert groups["eurosat"][2] == ["a photo of the large {}.", "a photo of a large {}."]
    assert groups["imagenetv2"] == groups["imagenet_sketch"] == groups["imagenet_a"] == groups["imagenet_r"]
    tail = [
        [
            "a low resolution photo of the {}.",
            "a low resolution photo of a {}.",
            "a pixelated photo of the {}.",
            "a pixelated photo of a {}.",
        ],
        ["a good photo of the {}.", "a good photo of a {}."],
    ]
    assert all(groups[name][-2:] == tail for name in GROUPS if not name.startswith("imagenet"))


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_as_published(name):
    cfg, _ = merged(ROOT / "configs" / "trainers" / f"{name}.yaml")
    batch, test_batch, lr, epochs, warmup = SCHEDULES[name]
    assert (cfg.DATALOADER.TRAIN_X.BATCH_SIZE, cfg.DATALOADER.TEST.BATCH_SIZE) == (batch, test_batch)
    assert (cfg.OPTIM.NAME, cfg.OPTIM.LR_SCHEDULER, cfg.OPTIM.WARMUP_TYPE) == ("sgd", "cosine", "constant")
    assert (cfg.OPTIM.LR, cfg.OPTIM.MAX_EPOCH, cfg.OPTIM.WARMUP_EPOCH) == (lr, epochs, warmup)
    assert (cfg.OPTIM.WARMUP_CONS_LR, cfg.OPTIM.MOMENTUM, cfg.OPTIM.WEIGHT_DECAY) == (1e-5, 0.9, 5e-4)
    assert cfg.INPUT.TRANSFORMS == ("random_resized_crop", "random_flip", "normalize")
    method, _, file = name.partition("/")
    assert cfg.MODEL.BACKBONE.NAME == next(BACKBONES[b] for b in BACKBONES if re.match(rf"{b}(_|$)", file))
    if method == "CoOp":
        ctx = (4, "a photo of a") if file.endswith("ctxv1") else (16, "")
        assert (cfg.TRAINER.COOP.N_CTX, cfg.TRAINER.COOP.CTX_INIT, cfg.TRAINER.COOP.PREC) == (*ctx, "fp16")
    elif method == "CoCoOp":
        node, ctx = cfg.TRAINER.COCOOP, "a photo of a" if file.endswith("ctxv1") else ""
        assert (node.N_CTX, node.CTX_INIT, node.PREC) == (int(re.search(r"_c(\d+)_", file)[1]), ctx, "fp16")
    elif method == "LASP":
        node, weight = cfg.TRAINER.LASP, float(re.search(r"_t2t_(\d+)_", file)[1])
        assert (node.N_CTX, node.CTX_INIT, node.PREC, node.GROUPS) == (4, "a photo of a", "amp", 1)
        assert (node.LASP_LOSS_WEIGHT, node.GRAD_CLIP, len(node.LASP_PROMPTS)) == (weight, 1.0, 35)
    else:
        node = cfg.TRAINER.MOCOOP
        assert (node.PREC, node.TEXT_LOSS_WEIGHT, node.GATE_LOSS_WEIGHT, node.GRAD_CLIP) == ("amp", 5.0, 1.0, 1.0)
        authors = ("authors", 1.0) if file.endswith("authors") else ("topk", None)
        assert (node.GATE_TARGET, node.TEXT_LOGIT_SCALE) == authors


def test_methods_differ_on_the_miniature_world_only_in_their_own_keys_and_in_pace():
    """They are compared there: same images, views, schedule and start of the context."""
    pace = {"OPTIM.LR", "OPTIM.MAX_EPOCH", "DATALOADER.TRAIN_X.BATCH_SIZE"}
    layers = {}
    for method in ("CoOp", "CoCoOp", "LASP", "KgCoOp", "MoCoOp"):
        layer = config.read_yaml(ROOT / f"configs/trainers/{method}/miniature.yaml")
        own = {key for key in layer if key.startswith(f"TRAINER.{table()[method].node}.")}
        assert layer["INPUT.FEATURE_VIEWS"] == 4 and "random_flip" not in layer["INPUT.TRANSFORMS"]
        assert method == "MoCoOp" or layer[f"TRAINER.{table()[method].node}.CTX_INIT"]
        assert table()[method].default_config("mini_sky") == "miniature"
        layers[method] = {key: value for key, value in layer.items() if key not in own | pace}
    assert all(layer == layers["CoOp"] for layer in layers.values())


def test_every_data_set_of_the_table_has_its_config():
    named = {config.read_yaml(path).get("DATASET.NAME") for path in FILES if path.parent.name == "datasets"}
    assert set(DATASETS) <= named and None not in named


def test_every_trainer_of_the_table_has_a_config_folder():
    folders = {path.parent.name for path in FILES if path.parent.parent.name == "trainers"}
    assert folders == set(table()) - {"ZeroshotCLIP2"}  # which uses ZeroshotCLIP's
