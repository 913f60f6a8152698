"""What a merged config must fulfil, as far as it can be seen without torch, weights or data."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from yacs.config import CfgNode

from ..clip.preprocess import Preprocess
from ..toolbox.dassl import names as dassl_names
from .keys import Key
from .merge import flatten, nearest, read_yaml

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def of_dataset(dataset: str, key: str) -> object:
    """What our config file of a data set says of a key; None if there is no such file or it does not say.

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
    """All problems of a merged config that can be seen without torch, weights or data.

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
                near = nearest(str(value), valid)
                problems.append(f"{path} = {value!r} is not known{near} (one of: {', '.join(valid)})")
    for path, key in keys.items():
        wrong = key.check(flat[path])
        if wrong:
            problems.append(f"{path} = {flat[path]!r}: {wrong}")
    return problems + check_numbers(cfg)


# Names that Dassl looks up by hand or by assert, mostly after the weights are loaded.
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


def check_numbers(cfg: CfgNode) -> list[str]:
    """Problems with Dassl's own numeric keys that would otherwise surface late or not at all."""
    rules = [
        ("OPTIM.MAX_EPOCH", lambda value: value >= 1, "must be >= 1"),
        ("OPTIM.LR", lambda value: value > 0, "must be > 0"),
        ("DATALOADER.TRAIN_X.BATCH_SIZE", lambda value: value >= 1, "must be >= 1"),
        ("DATALOADER.TEST.BATCH_SIZE", lambda value: value >= 1, "must be >= 1"),
        ("DATALOADER.NUM_WORKERS", lambda value: value >= 0, "must be >= 0"),
        ("DATALOADER.K_TRANSFORMS", lambda value: value >= 1, "must be >= 1"),
        ("DATASET.NUM_SHOTS", lambda value: value >= 1 or value == -1, "must be >= 1, or -1 for all images"),
        ("SEED", lambda value: value < 2**32, "must be below 2**32 (negative = unseeded)"),
        ("TRAIN.PRINT_FREQ", lambda value: value >= 1, "must be >= 1"),
    ]
    flat = flatten(cfg)
    return [f"{path} = {flat[path]!r}: {wrong}" for path, good, wrong in rules if not good(flat[path])]


def views_need_a_frozen_tower(key: str) -> str:
    """The problem with stored features of a tower that learns; `key` is the one that lets it, "" if there is none."""
    how = f"set {key} False, or the views to 0" if key else "set the views to 0"
    return f"INPUT.FEATURE_VIEWS needs a frozen image tower: {how}"


def check_frozen(cfg: CfgNode, key: str, resnet: bool) -> list[str]:
    """Problems with what is learned in the image tower (the trainers check it again, for hosts that call them).

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


def same(have: object, want: object) -> bool:
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
        if not same(have, value):
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
