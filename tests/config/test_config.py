"""Config keys, merging and checks (config/)."""

import pytest
from dassl.config import get_cfg_default
from mocoop import config, extend_cfg
from mocoop.clip import Preprocess
from mocoop.plugin import all_keys

NAMES = {"TRAINER.NAME": ["CoOp", "MoCoOp"], "DATASET.NAME": ["EuroSAT"]}


def fresh():
    cfg = get_cfg_default()
    extend_cfg(cfg)
    return cfg


def good():
    cfg = fresh()
    cfg.TRAINER.NAME, cfg.DATASET.NAME = "CoOp", "EuroSAT"
    return cfg


def problems_of(function, *args):
    with pytest.raises(config.ConfigError) as caught:
        function(*args)
    return caught.value.problems


def test_extend_is_idempotent_and_keeps_what_is_there():
    cfg = get_cfg_default()
    cfg.TRAINER.COOP = type(cfg)()
    cfg.TRAINER.COOP.N_CTX = 7
    cfg.DATASET.SUBSAMPLE_CLASSES = "new"
    extend_cfg(cfg)
    assert (cfg.TRAINER.COOP.N_CTX, cfg.DATASET.SUBSAMPLE_CLASSES) == (7, "new")
    assert cfg.TRAINER.COOP.CSC is False and cfg.TRAINER.MOCOOP.TOPK == 2
    before = config.flatten(cfg)
    extend_cfg(cfg)
    assert config.flatten(cfg) == before


def test_defaults_of_two_configs_share_no_list():
    first, second = fresh(), fresh()
    first.TRAINER.MOCOOP.PROMPT_GROUPS.append(["x {}."])
    assert second.TRAINER.MOCOOP.PROMPT_GROUPS == []


def test_later_layers_win():
    cfg = fresh()
    seen = config.merge(cfg, [("file", {"OPTIM.LR": 0.1, "SEED": 3}), ("options", {"OPTIM.LR": "0.5"})])
    assert (cfg.OPTIM.LR, cfg.SEED, seen) == (0.5, 3, {"OPTIM.LR", "SEED"})


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [
        ("OPTIM.LR", "1e-5", 1e-5),
        ("OPTIM.LR", "1", 1.0),
        ("OPTIM.LR", 1, 1.0),
        ("INPUT.SIZE", "(48, 48)", (48, 48)),
        ("INPUT.SIZE", [48, 48], (48, 48)),
        ("INPUT.PIXEL_MEAN", "(0.5, 0.5, 0.5)", [0.5, 0.5, 0.5]),
        ("OUTPUT_DIR", "2024", "2024"),
        ("TRAINER.COOP.CTX_INIT", "a photo of a", "a photo of a"),
        ("TRAINER.COOP.CSC", "True", True),
        ("TRAINER.MOCOOP.PROMPT_GROUPS", [["a {}."], ["b {}."]], [["a {}."], ["b {}."]]),
        ("TRAINER.MOCOOP.TEXT_LOGIT_SCALE", "1.0", 1.0),
        ("TRAINER.MOCOOP.TEXT_LOGIT_SCALE", "clip", "clip"),
        ("TRAIN.TEXT_CHUNK", "None", None),
    ],
)
def test_values_are_read_as_yacs_reads_them(key, given, expected):
    cfg = fresh()
    config.merge(cfg, [("options", {key: given})])
    value = config.flatten(cfg)[key]
    assert value == expected and type(value) is type(expected)


def test_all_problems_of_all_layers_at_once_and_the_rest_is_merged():
    cfg = fresh()
    layers = [
        ("a.yaml", {"OPTIM.LRR": 1, "OPTIM.MAX_EPOCH": 7, "INPUT.SIZE": 224}),
        ("options", {"TRAINER.MoCoOp.PREC": "amp", "OPTIM.LR": "fast", "OPTIM.MAX_EPOCH": "True"}),
    ]
    assert problems_of(config.merge, cfg, layers) == [
        "unknown key OPTIM.LRR (a.yaml); did you mean OPTIM.LR?",
        "INPUT.SIZE = 224 (a.yaml): expected a list, found a whole number",
        "unknown key TRAINER.MoCoOp.PREC (options); did you mean TRAINER.MOCOOP.PREC?",
        "OPTIM.LR = 'fast' (options): expected a number, found text",
        "OPTIM.MAX_EPOCH = True (options): expected a whole number, found True or False",
    ]
    assert cfg.OPTIM.MAX_EPOCH == 7


def test_an_empty_section_is_no_problem_but_an_empty_unknown_one_is():
    config.merge(fresh(), [("a.yaml", {"TRAINER.COOP": None})])
    assert problems_of(config.merge, fresh(), [("a.yaml", {"TRAINER.COOPP": None})])


def test_options_come_in_pairs():
    assert config.parse_opts(["A", "1", "B", "x", "A", "2"]) == {"A": "2", "B": "x"}
    assert "'B'" in problems_of(config.parse_opts, ["A", "1", "B"])[0]


def test_files(tmp_path):
    (tmp_path / "dtd.yaml").write_text("OPTIM:\n  LR: 0.1\nTRAINER:\n  COOP:\n    N_CTX: 4\n")
    assert config.read_yaml(tmp_path / "dtd.yaml") == {"OPTIM.LR": 0.1, "TRAINER.COOP.N_CTX": 4}
    assert "did you mean dtd.yaml?" in problems_of(config.read_yaml, tmp_path / "dtdd.yaml")[0]
    (tmp_path / "list.yaml").write_text("- 1\n")
    assert "expected a mapping" in problems_of(config.read_yaml, tmp_path / "list.yaml")[0]
    (tmp_path / "torn.yaml").write_text("OPTIM: {LR: 0.1")
    assert "is not YAML" in problems_of(config.read_yaml, tmp_path / "torn.yaml")[0]
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x9f")
    assert "is not YAML" in problems_of(config.read_yaml, tmp_path / "binary.yaml")[0]
    (tmp_path / "empty.yaml").write_text("")
    assert config.read_yaml(tmp_path / "empty.yaml") == {}


def test_a_good_config_has_no_problems():
    assert config.check(good(), NAMES, all_keys()) == []


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("TRAINER.NAME", "Mocoop", "did you mean MoCoOp?"),
        ("TRAINER.NAME", "", "--trainer"),
        ("DATASET.NAME", "Eurosat", "did you mean EuroSAT?"),
        ("DATASET.NAME", "", "--dataset-config-file"),
        ("INPUT.TRANSFORMS", ("random_flip", "normalise"), "did you mean normalize?"),
        ("INPUT.INTERPOLATION", "cubic", "did you mean bicubic?"),
        ("OPTIM.NAME", "adamx", "did you mean adam"),
        ("OPTIM.LR_SCHEDULER", "cosin", "did you mean cosine?"),
        ("OPTIM.WARMUP_TYPE", "const", "did you mean constant?"),
        ("DATALOADER.TRAIN_X.SAMPLER", "Random", "did you mean RandomSampler?"),
        ("TEST.FINAL_MODEL", "best", "did you mean best_val?"),
        ("TEST.SPLIT", "train", "one of: test, val"),
        ("DATASET.SUBSAMPLE_CLASSES", "old", "'all', 'base', 'new'"),
        ("DATASET.NUM_SHOTS", 0, "-1 for all"),
        ("DATALOADER.TRAIN_X.BATCH_SIZE", 0, ">= 1"),
        ("OPTIM.LR", 0.0, "> 0"),
        ("OPTIM.MAX_EPOCH", 0, ">= 1"),
        ("SEED", 2**32, "2**32"),
        ("TRAIN.PRINT_FREQ", 0, ">= 1"),
        ("TRAIN.TEXT_CHUNK", -1, ">= 1"),
        ("TRAIN.TEXT_CHUNK", 0, ">= 1"),
        ("TRAINER.COOP.PREC", "fp8", "'fp32', 'fp16', 'bf16', 'amp'"),
        ("TRAINER.COOP.N_CTX", 0, ">= 1"),
        ("TRAINER.MOCOOP.TOPK", 0, ">= 1"),
        ("TRAINER.MOCOOP.TEXT_LOGIT_SCALE", "CLIP", '"clip"'),
        ("TRAINER.MOCOOP.GATE_TARGET_SCALE", -1.0, "> 0"),
        ("TRAINER.MOCOOP.PROMPT_GROUPS", ["a photo of a {}."], "non-empty lists"),
        ("TRAINER.MOCOOP.PROMPT_GROUPS", [["a {}."], []], "non-empty lists"),
        ("TRAINER.MOCOOP.PROMPT_GROUPS", [["a photo."]], "'a photo.'"),
        ("TRAINER.MOCOOP.PROMPT_GROUPS", [["a {} and {}."]], "'a {} and {}.'"),
    ],
)
def test_one_problem_each(key, value, words):
    cfg = good()
    *parents, leaf = key.split(".")
    node = cfg
    for parent in parents:
        node = node[parent]
    node[leaf] = value
    problems = config.check(cfg, NAMES, all_keys())
    assert len(problems) == 1 and problems[0].startswith(key) and words in problems[0]


def test_seeds_that_are_fine():
    for seed in (-1, 0, 1, 2**32 - 1):
        cfg = good()
        cfg.SEED = seed
        assert config.check(cfg, NAMES, all_keys()) == []


PREPROCESS = Preprocess(size=48, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), interpolation="bicubic")


def test_unset_input_comes_from_the_backbone():
    cfg = good()
    config.fill_input(cfg, PREPROCESS, seen=set())
    assert cfg.INPUT.SIZE == (48, 48) and cfg.INPUT.PIXEL_STD == [0.25] * 3 and cfg.INPUT.INTERPOLATION == "bicubic"
    assert cfg.INPUT.TRANSFORMS == ("random_resized_crop", "random_flip", "normalize")
    assert config.check_input(cfg, PREPROCESS, "tiny") == []


def test_input_that_somebody_set_is_checked_and_both_values_are_named():
    cfg = good()
    cfg.INPUT.SIZE = (224, 224)
    cfg.INPUT.TRANSFORMS = ("random_flip",)
    config.fill_input(cfg, PREPROCESS, seen={"INPUT.SIZE", "INPUT.TRANSFORMS"})
    assert config.check_input(cfg, PREPROCESS, "tiny") == [
        "INPUT.SIZE is (224, 224), but backbone tiny was trained with (48, 48)",
        'INPUT.TRANSFORMS lacks "normalize"; CLIP\'s features would be wrong without it',
    ]


@pytest.mark.parametrize("size", [(48,), ("48", "48"), (48, 48.5)])
def test_odd_sizes_are_problems_not_crashes(size):
    cfg = good()
    config.fill_input(cfg, PREPROCESS, seen=set())
    cfg.INPUT.SIZE = size
    assert len(config.check_input(cfg, PREPROCESS, "tiny")) == 1


def test_statistics_from_a_yaml_count_as_equal_to_those_of_the_backbone():
    cfg = good()
    config.fill_input(cfg, PREPROCESS, seen=set())
    cfg.INPUT.PIXEL_MEAN = [0.5 + 1e-8, 0.5, 0.5]
    assert config.check_input(cfg, PREPROCESS, "tiny") == []


def test_what_our_file_of_a_data_set_says_is_found_by_its_name():
    assert len(config.dataset_setting("EuroSAT", "TRAINER.MOCOOP.PROMPT_GROUPS")) == 6
    assert config.dataset_setting("NoSuchSet", "TRAINER.MOCOOP.PROMPT_GROUPS") is None


def test_compose_reports_what_cannot_be_read_beside_what_cannot_be_merged(tmp_path):
    layers = [
        ("absent.yaml", lambda: config.read_yaml(tmp_path / "absent.yaml")),
        ("options", lambda: config.parse_opts(["SEED", "5", "SEEED", "6"])),
    ]
    cfg, seen, problems = config.compose(layers, all_keys())
    assert cfg.SEED == 5 and seen == {"SEED", "SEEED"} and len(problems) == 2


def test_what_learns_in_the_image_tower_is_checked_before_anything_is_loaded():
    cfg, key = good(), "TRAINER.MOCOOP.FINETUNE_VIT_LN"
    cfg.INPUT.FEATURE_VIEWS, cfg.MODEL.BACKBONE.NAME = 2, "RN50"
    assert config.check_frozen(cfg, key, resnet=True) == [
        f"INPUT.FEATURE_VIEWS needs a frozen image tower: set {key} False, or the views to 0",
        f"{key} needs a ViT, and RN50 is a ResNet: set it to False",
    ]
    cfg.TRAINER.MOCOOP.FINETUNE_VIT_LN = False
    assert config.check_frozen(cfg, key, resnet=True) == []
    assert config.check_frozen(cfg, "", resnet=True) == []
