"""Checks of a merged config: everything that can be found without torch, weights or data."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from yacs.config import CfgNode

from ..clip.preprocess import Preprocess
from ..toolbox.dassl import names as dassl_names
from ..toolbox.dassl.utils import did_you_mean
from .files import read_yaml
from .keys import Check, Key, above_zero, at_least, below_one, between, whole
from .merge import flatten, shown

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def dataset_setting(dataset: str, key: str) -> object:
    """The value of a key in our config file of a data set; None if there is no such file or it does not set the key.

    A host's own data set file (a CoOp checkout) names only the data set, so what belongs to it is found by its name.

    Args:
        dataset: DATASET.NAME; key: full path, e.g. "TRAINER.MOCOOP.PROMPT_GROUPS".
    """
    for path in sorted((CONFIGS / "datasets").glob("*.yaml")):
        layer = read_yaml(path)
        if layer.get("DATASET.NAME") == dataset and layer.get(key):
            return layer[key]
    return None


def check(cfg: CfgNode, names: Mapping[str, Sequence[str]], keys: Mapping[str, Key]) -> list[str]:
    """All problems of a merged config that can be found without torch, weights or data.

    Args:
        cfg: `CfgNode` with Dassl's and our keys.
        names: key -> registered names, e.g. {"TRAINER.NAME": [...], "DATASET.NAME": [...]}.
        keys: ours, full path -> declaration.

    Returns:
        One sentence per problem, empty if there is none.
    """
    flat = flatten(cfg)
    problems = []
    for path, valid in {**names, **FIXED_NAMES}.items():
        values = flat[path] if isinstance(flat[path], list | tuple) else [flat[path]]
        for value in values:
            if path in HOW_TO_GIVE and not value:
                problems.append(f"{path} is not set: give {HOW_TO_GIVE[path]}")
            elif value not in valid:
                near = did_you_mean(str(value), valid)
                problems.append(f"{path} = {shown(value)} is not known{near} (one of: {', '.join(valid)})")
    for path, key in keys.items():
        wrong = key.check(flat[path])
        if wrong:
            problems.append(f"{path} = {shown(flat[path])}: {wrong}")
    return problems + check_numbers(cfg)


# Names that Dassl checks late, mostly after the weights are loaded, and often by assert.
FIXED_NAMES = {
    "INPUT.TRANSFORMS": dassl_names.TRANSFORMS,
    "INPUT.INTERPOLATION": dassl_names.INTERPOLATIONS,
    "DATALOADER.TRAIN_X.SAMPLER": dassl_names.SAMPLERS,
    "DATALOADER.TEST.SAMPLER": dassl_names.SAMPLERS,
    "OPTIM.NAME": dassl_names.OPTIMIZERS,
    "OPTIM.LR_SCHEDULER": dassl_names.LR_SCHEDULERS,
    "OPTIM.WARMUP_TYPE": dassl_names.WARMUPS,
    "TEST.FINAL_MODEL": dassl_names.FINAL_MODELS,
    "TEST.SPLIT": ("test", "val"),
}

HOW_TO_GIVE = {"TRAINER.NAME": "--trainer", "DATASET.NAME": "--dataset-config-file (or DATASET.NAME)"}


def each_item(check: Check) -> Check:
    """A check of each item of a list."""
    return lambda value: next((wrong for wrong in map(check, value) if wrong), None)


def shots(value: object) -> str | None:
    """A check for a number of images per class."""
    return None if value >= 1 or value == -1 else "must be >= 1, or -1 for all images"


def seed(value: object) -> str | None:
    """A check for a seed."""
    return None if value < 2**32 else "must be below 2**32 (negative = unseeded)"


def crop_scale(value: object) -> str | None:
    """A check for the smallest and largest part of an image that a random crop takes."""
    good = len(value) == 2 and not each_item(between(0, 1))(value) and 0 < value[0] <= value[1]
    return None if good else "must be two numbers, 0 < smallest <= largest <= 1"


def odd(value: object) -> str | None:
    """A check for the size of a blur's kernel."""
    return None if value >= 1 and value % 2 else "must be odd and >= 1"


# Dassl's own numbers, whose errors would otherwise appear late or not at all.
NUMBERS: dict[str, Check] = {
    "DATALOADER.CACHE_MB": at_least(0),
    "DATALOADER.K_TRANSFORMS": at_least(1),
    "DATALOADER.NUM_WORKERS": between(0, 1000),
    "DATALOADER.TEST.BATCH_SIZE": at_least(1),
    "DATALOADER.TRAIN_X.BATCH_SIZE": at_least(1),
    "DATASET.NUM_SHOTS": shots,
    "INPUT.COLORJITTER_B": at_least(0),
    "INPUT.COLORJITTER_C": at_least(0),
    "INPUT.COLORJITTER_H": between(0, 0.5),
    "INPUT.COLORJITTER_S": at_least(0),
    "INPUT.CROP_PADDING": between(0, 10_000),
    "INPUT.CUTOUT_LEN": at_least(1),
    "INPUT.CUTOUT_N": between(0, 10_000),
    "INPUT.GB_K": odd,
    "INPUT.GB_P": between(0, 1),
    "INPUT.GN_STD": at_least(0),
    "INPUT.RGS_P": between(0, 1),
    "INPUT.RRCROP_SCALE": crop_scale,
    "OPTIM.ADAM_BETA1": below_one,
    "OPTIM.ADAM_BETA2": below_one,
    "OPTIM.BASE_LR_MULT": at_least(0),
    "OPTIM.LR": above_zero,
    "OPTIM.MAX_EPOCH": between(1, 10**6),
    "OPTIM.MOMENTUM": at_least(0),
    "OPTIM.RMSPROP_ALPHA": at_least(0),
    "OPTIM.STEPSIZE": each_item(whole),
    "OPTIM.WARMUP_CONS_LR": at_least(0),
    "OPTIM.WARMUP_MIN_LR": at_least(0),
    "OPTIM.WEIGHT_DECAY": at_least(0),
    "SEED": seed,
    "TRAIN.PRINT_FREQ": at_least(1),
}


def check_numbers(cfg: CfgNode) -> list[str]:
    """Problems with `NUMBERS`, and with how they go together."""
    flat = flatten(cfg)
    wrongs = {path: check(flat[path]) for path, check in NUMBERS.items() if path in flat}
    problems = [f"{path} = {shown(flat[path])}: {wrong}" for path, wrong in wrongs.items() if wrong]
    optim = cfg.OPTIM
    if optim.NAME == "sgd" and optim.SGD_NESTEROV and (optim.MOMENTUM <= 0 or optim.SGD_DAMPNING != 0):
        problems.append("OPTIM.SGD_NESTEROV needs OPTIM.MOMENTUM > 0 and OPTIM.SGD_DAMPNING 0")
    if not cfg.OUTPUT_DIR.strip():
        problems.append("OUTPUT_DIR is empty: give a folder with --output-dir")
    return problems


def check_ignored(cfg: CfgNode) -> list[str]:
    """Problems with keys of Dassl that our methods do not read."""
    if not cfg.MODEL.INIT_WEIGHTS:
        return []
    return [
        f"MODEL.INIT_WEIGHTS = {shown(cfg.MODEL.INIT_WEIGHTS)} is read by no method here: a checkpoint is tested with "
        "--eval-only --model-dir, a run goes on with --resume, and weights of CLIP are MODEL.BACKBONE.NAME FILE@ARCH"
    ]


def views_need_a_frozen_tower(key: str) -> str:
    """The problem with stored features of a trained tower; `key`: the one that trains it, "" if there is none."""
    how = f"set {key} False, or the views to 0" if key else "set the views to 0"
    return f"INPUT.FEATURE_VIEWS needs a frozen image tower: {how}"


def check_frozen(cfg: CfgNode, key: str, resnet: bool) -> list[str]:
    """Problems with what is trained in the image tower (the trainers check it again, for hosts that call them).

    Args:
        cfg: `CfgNode`.
        key: full path of the method's key that lets something in the image tower learn; "" if it has none.
        resnet: the backbone's image tower has no ViT blocks.
    """
    if not key or not flatten(cfg).get(key):
        return []
    problems = [views_need_a_frozen_tower(key)] if cfg.INPUT.FEATURE_VIEWS > 0 else []
    if resnet:
        problems.append(f"{key} needs a ViT, and {cfg.MODEL.BACKBONE.NAME} is a ResNet: set it to False")
    return problems


def settings_agree(have: object, want: object) -> bool:
    """Whether two settings agree: equal, or two lists of numbers that agree to 1e-6."""
    if isinstance(want, str):
        return have == want
    if len(have) != len(want) or not all(isinstance(number, int | float) for number in have):
        return False
    return all(abs(a - b) < 1e-6 for a, b in zip(have, want, strict=True))


def check_input(cfg: CfgNode, preprocess: Preprocess, backbone: str) -> list[str]:
    """Where INPUT.* differs from what the backbone was trained with (features would be silently wrong).

    Args:
        cfg: `CfgNode`.
        preprocess: the backbone's `clip.Preprocess`.
        backbone: its name, for the message.
    """
    want = {
        "SIZE": (preprocess.size, preprocess.size),
        "PIXEL_MEAN": preprocess.mean,
        "PIXEL_STD": preprocess.std,
        "INTERPOLATION": preprocess.interpolation,
    }
    problems = []
    for key, value in want.items():
        have = cfg.INPUT[key]
        if not settings_agree(have, value):
            problems.append(f"INPUT.{key} is {have}, but backbone {backbone} was trained with {value}")
    if cfg.INPUT.NO_TRANSFORM or "normalize" not in cfg.INPUT.TRANSFORMS:
        problems.append('INPUT.TRANSFORMS lacks "normalize"; CLIP\'s features would be wrong without it')
    return problems


def fill_input(cfg: CfgNode, preprocess: Preprocess, seen: set[str]) -> None:
    """Set those INPUT.* keys that no file or option has set: the backbone's own values, CoOp's augmentation.

    Args:
        cfg: unfrozen `CfgNode`.
        preprocess: the backbone's `clip.Preprocess`.
        seen: the keys that a file or an option has set, as `merge` returns them.
    """
    own = {
        "TRANSFORMS": ("random_resized_crop", "random_flip", "normalize"),
        "SIZE": (preprocess.size, preprocess.size),
        "PIXEL_MEAN": list(preprocess.mean),
        "PIXEL_STD": list(preprocess.std),
        "INTERPOLATION": preprocess.interpolation,
    }
    for key, value in own.items():
        if f"INPUT.{key}" not in seen:
            cfg.INPUT[key] = value
