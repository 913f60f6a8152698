"""Every config key that mocoop adds to Dassl's, its default, meaning and check; and how a config is put together.

Nothing here imports torch: a typo is reported before anything heavy is loaded.
"""

import difflib
from ast import literal_eval
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from yacs.config import CfgNode

from .clip.preprocess import Preprocess
from .toolbox.dassl import names as dassl_names

CONFIGS = Path(__file__).parent / "configs"


class ConfigError(ValueError):
    """A config that cannot run; the message lists every problem found."""

    def __init__(self, problems: Sequence[str]):
        self.problems = list(problems)
        super().__init__("\n".join(["The config cannot be used:"] + [f"  - {p}" for p in self.problems]))


@dataclass(frozen=True)
class Key:
    """One config key: its default, what it means, and a check that returns what is wrong or None."""

    default: object
    meaning: str
    check: Callable[[object], str | None] = lambda value: None


def choice(*names: str) -> Callable[[object], str | None]:
    """A check that the value is one of `names`."""
    return lambda value: None if value in names else f"must be one of {', '.join(map(repr, names))}"


def at_least(low: float) -> Callable[[object], str | None]:
    """A check that the value is a number not below `low`."""
    return lambda value: None if isinstance(value, int | float) and value >= low else f"must be a number >= {low}"


def scale(value: object) -> str | None:
    """A check for logit scales: None or "clip" (CLIP's own exp(logit_scale)), or a positive number."""
    good = value is None or value == "clip" or (isinstance(value, int | float) and value > 0)
    return None if good else 'must be "clip" (CLIP\'s own exp(logit_scale)) or a number > 0'


def templates(value: object) -> str | None:
    """A check for a list of templates with exactly one "{}" each."""
    return template_groups([value])


def template_groups(value: object) -> str | None:
    """A check for PROMPT_GROUPS: a list of non-empty lists of templates with exactly one "{}" each."""
    if not isinstance(value, list | tuple) or not all(isinstance(group, list | tuple) and group for group in value):
        return "must be a list of non-empty lists of templates"
    bad = [t for group in value for t in group if not isinstance(t, str) or t.count("{}") != 1]
    return f'each template needs exactly one "{{}}" for the class name; found {bad[0]!r}' if bad else None


def chunk(value: object) -> str | None:
    """A check for chunk sizes: None (automatic) or a whole number of at least one."""
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    return None if value is None or whole else "must be a whole number >= 1 (leave it out for an automatic choice)"


PREC = Key(
    "amp",
    "fp32; amp = autocast (fp16 with gradient scaling on CUDA; on a CPU bf16 if it has AMX, "
    "else fp32); bf16 = autocast in bf16; "
    "fp16 = CoOp's name for half precision, here the same as amp on CUDA and fp32 on a CPU",
    choice("fp32", "fp16", "bf16", "amp"),
)
WEIGHT = at_least(0)

# LASP's 35 hand-written prompts, in its order; "a bad photo of the {}." stands twice there and counts twice.
LASP_PROMPTS = [
    "a photo of a {}, a type of flower.",
    "a photo of a person doing {}.",
    "a centered satellite photo of {}.",
    "a photo of a {}, a type of aircraft.",
    "{} texture.",
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
    "a photo of a {}.",
    "a photo of many {}.",
    "a photo of the hard to see {}.",
    "a low resolution photo of the {}.",
    "a rendering of a {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a pixelated photo of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a rendering of the {}.",
    "a close-up photo of the {}.",
    "a low resolution photo of a {}.",
    "a rendition of the {}.",
    "a photo of the clean {}.",
    "a photo of a large {}.",
    "a blurry photo of a {}.",
    "a pixelated photo of a {}.",
    "itap of the {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
]

KEYS = {
    "DATASET.SUBSAMPLE_CLASSES": Key(
        "all", "all, base (first half of the classes) or new", choice("all", "base", "new")
    ),
    "DATASET.INCLUDE_ALL_CLASSES": Key(False, "score against all class names the data set knows, not only the present"),
    "INPUT.FEATURE_VIEWS": Key(0, "augmented views per image whose features are cached; 0 = off", at_least(0)),
    "TRAIN.TEXT_CHUNK": Key(None, "prompts encoded at once; None = all if memory allows, else in slices", chunk),
    "TRAINER.ZSCLIP.TEMPLATE": Key("", "hand-written template; empty = the data set's own (benchmark table of CoOp)"),
    "TRAINER.ZSCLIP.PREC": Key("fp32", PREC.meaning, PREC.check),
    "TRAINER.COOP.N_CTX": Key(16, "number of context vectors; ignored when CTX_INIT is given", at_least(1)),
    "TRAINER.COOP.CSC": Key(False, "class-specific context vectors"),
    "TRAINER.COOP.CTX_INIT": Key("", "words whose token embeddings initialise the context; empty = random"),
    "TRAINER.COOP.PREC": Key("fp16", PREC.meaning, PREC.check),
    "TRAINER.COOP.CLASS_TOKEN_POSITION": Key("end", "class name at the", choice("end", "middle", "front")),
    "TRAINER.COCOOP.N_CTX": Key(16, "number of context vectors; ignored when CTX_INIT is given", at_least(1)),
    "TRAINER.COCOOP.CTX_INIT": Key("", "words whose token embeddings initialise the context; empty = random"),
    "TRAINER.COCOOP.PREC": Key("fp16", PREC.meaning, PREC.check),
    "TRAINER.LASP.LASP_PROMPTS": Key(LASP_PROMPTS, "hand-written prompts that the learned ones stay near", templates),
    "TRAINER.LASP.GROUPS": Key(1, "learned prompts; the hand-written ones are dealt out among them", at_least(1)),
    "TRAINER.LASP.N_CTX": Key(4, "number of context vectors; ignored when CTX_INIT is given", at_least(1)),
    "TRAINER.LASP.CTX_INIT": Key("a photo of a", "words whose token embeddings initialise the context; empty = random"),
    "TRAINER.LASP.PREC": PREC,
    "TRAINER.LASP.ENABLE_CORRECTION": Key(True, "learn the correction vector w added to every text feature"),
    "TRAINER.LASP.FINETUNE_VIT_LN": Key(True, "learn ln_1 and ln_2 of every image block"),
    "TRAINER.LASP.LN_LR_MULT": Key(0.1, "learning rate of those LayerNorms relative to OPTIM.LR", at_least(0)),
    "TRAINER.LASP.LASP_LOSS_WEIGHT": Key(5.0, "weight of the text-to-text loss", WEIGHT),
    "TRAINER.LASP.NOISE_STD": Key(
        0.05, "noise on the hand-written prompts' features, in half of the steps", at_least(0)
    ),
    "TRAINER.LASP.GRAD_CLIP": Key(1.0, "largest gradient norm; 0 = no clipping", at_least(0)),
    "TRAINER.MOCOOP.PROMPT_GROUPS": Key(
        [], "groups of templates, one expert each; empty = looked up by DATASET.NAME", template_groups
    ),
    "TRAINER.MOCOOP.PREC": PREC,
    "TRAINER.MOCOOP.TOPK": Key(2, "experts mixed per image", at_least(1)),
    "TRAINER.MOCOOP.ENABLE_CORRECTION": Key(True, "learn the correction vector w added to every text feature"),
    "TRAINER.MOCOOP.FINETUNE_VIT_LN": Key(True, "learn ln_1 and ln_2 of every image block"),
    "TRAINER.MOCOOP.LN_LR_MULT": Key(0.1, "learning rate of those LayerNorms relative to OPTIM.LR", at_least(0)),
    "TRAINER.MOCOOP.TEXT_LOSS_WEIGHT": Key(5.0, "weight of L_text", WEIGHT),
    "TRAINER.MOCOOP.GATE_LOSS_WEIGHT": Key(1.0, "weight of L_gate", WEIGHT),
    "TRAINER.MOCOOP.TEXT_LOGIT_SCALE": Key(None, 'scale of the text logits: "clip" (None) or a number', scale),
    "TRAINER.MOCOOP.GATE_TARGET_SCALE": Key(
        None, 'scale of the gate target\'s logits: "clip" (None) or a number', scale
    ),
    "TRAINER.MOCOOP.GATE_TARGET": Key(
        "topk", "topk (the paper), or authors: the released code's target", choice("topk", "authors")
    ),
    "TRAINER.MOCOOP.VIRTUAL_CLASSES": Key(True, "names of absent (new) classes take part in L_text"),
    "TRAINER.MOCOOP.GRAD_CLIP": Key(1.0, "largest gradient norm; 0 = no clipping", at_least(0)),
}


def extend_cfg(cfg: CfgNode) -> None:
    """Add the keys of `KEYS` that `cfg` lacks, with their defaults; nothing present is changed.

    Args:
        cfg: unfrozen yacs `CfgNode` with Dassl's keys.
    """
    node_type = type(cfg)
    for path, key in KEYS.items():
        *parents, leaf = path.split(".")
        node = cfg
        for parent in parents:
            if parent not in node:
                node[parent] = node_type()
            node = node[parent]
        if leaf not in node:
            node[leaf] = list(key.default) if isinstance(key.default, list) else key.default


def flatten(node: dict, prefix: str = "") -> dict[str, object]:
    """A nested dict as {"A.B.C": value}."""
    flat = {}
    for name, value in node.items():
        path = f"{prefix}{name}"
        flat.update(flatten(value, f"{path}.") if isinstance(value, dict) else {path: value})
    return flat


def nearest(name: str, names: Sequence[str]) -> str:
    """`; did you mean X?` for the most similar of `names` (upper and lower case count as equal), or an empty string."""
    lowered = {other.lower(): other for other in names}
    close = difflib.get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.5)
    return f"; did you mean {lowered[close[0]]}?" if close else ""


def read_yaml(path: str | Path) -> dict[str, object]:
    """One config file, flattened.

    Raises:
        ConfigError: the file is absent, unreadable, or not a mapping.
    """
    path = Path(path)
    if not path.is_file():
        near = nearest(path.name, [p.name for p in path.parent.glob("*.yaml")]) if path.parent.is_dir() else ""
        raise ConfigError([f"config file {path} does not exist{near}"])
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError([f"config file {path} is not YAML: {error}"]) from error
    except OSError as error:
        raise ConfigError([f"config file {path} cannot be read: {error.strerror}"]) from error
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise ConfigError([f"config file {path} holds a {type(content).__name__}, expected a mapping of keys"])
    return flatten(content)


def compose(layers: Sequence[tuple[str, Callable[[], dict[str, object]]]]) -> tuple[CfgNode, set[str], list[str]]:
    """Dassl's defaults, our keys, then the layers in order, later ones win.

    Args:
        layers: (where it comes from, function that reads it) pairs; one that cannot be read is a problem like others.

    Returns:
        The unfrozen config, the keys that any layer set, and all problems found.
    """
    from dassl.config import get_cfg_default

    cfg, read, problems = get_cfg_default(), [], []
    extend_cfg(cfg)
    for source, reader in layers:
        try:
            read.append((source, reader()))
        except ConfigError as error:
            problems += error.problems
    try:
        merge(cfg, read)
    except ConfigError as error:
        problems += error.problems
    return cfg, {key for _, layer in read for key in layer}, problems


def parse_opts(opts: Sequence[str]) -> dict[str, object]:
    """`KEY VALUE KEY VALUE ...` of the command line as a flat dict (a later pair wins; `merge` reads the literals).

    Raises:
        ConfigError: a key without a value.
    """
    if len(opts) % 2:
        raise ConfigError([f"options come as KEY VALUE pairs; {opts[-1]!r} has no partner"])
    return dict(zip(opts[::2], opts[1::2], strict=True))


def decode(value: object, default: object) -> object:
    """A value as yacs reads it (strings that are Python literals become these), bent where only yacs would object.

    A key whose default is a string keeps its string (`OUTPUT_DIR 2024`); a whole number is fine for a key whose default
    is not whole (`OPTIM.LR 1`).
    """
    if isinstance(value, str):
        try:
            literal = literal_eval(value)
        except (ValueError, SyntaxError):
            literal = value
        value = literal if isinstance(literal, str) or not isinstance(default, str) else value
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def kind(value: object) -> str:
    """The type of a config value in words."""
    words = {str: "text", int: "a whole number", float: "a number", bool: "True or False"}
    return words.get(type(value), "a list" if isinstance(value, list | tuple) else type(value).__name__)


def merge(cfg: CfgNode, layers: Sequence[tuple[str, dict[str, object]]]) -> set[str]:
    """Merge flat layers into `cfg` in order, later ones win; all problems of all layers are reported together.

    Args:
        cfg: unfrozen `CfgNode`; gets whatever is right even if something else is wrong.
        layers: (where it comes from, {"A.B": value}) pairs.

    Returns:
        The keys that any layer set.

    Raises:
        ConfigError: unknown keys (with the nearest valid one) or values of the wrong type.
    """
    problems, seen, known = [], set(), flatten(cfg)
    for source, layer in layers:
        for path, value in layer.items():
            if path not in known:
                if value is not None or not any(key.startswith(f"{path}.") for key in known):  # else: an empty section
                    problems.append(f"unknown key {path} ({source}){nearest(path, list(known))}")
                continue
            *parents, leaf = path.split(".")
            node = cfg
            for parent in parents:
                node = node[parent]
            value = decode(value, known[path])
            if isinstance(known[path], list | tuple) and isinstance(value, list | tuple):
                value = type(known[path])(value)
            elif known[path] is not None and type(value) is not type(known[path]):
                problems.append(f"{path} = {value!r} ({source}): expected {kind(known[path])}, found {kind(value)}")
                continue
            node[leaf] = value
            seen.add(path)
    if problems:
        raise ConfigError(problems)
    return seen


def prompt_groups(cfg: CfgNode) -> list[list[str]]:
    """The template groups of the config's data set: PROMPT_GROUPS if given, else the table's, else the general ones.

    A host's own data set file (a CoOp checkout) names only the data set, so the groups of our files are found by name.

    Returns:
        G lists of templates with one "{}" each.
    """
    given = cfg.TRAINER.MOCOOP.PROMPT_GROUPS
    if given:
        return [list(group) for group in given]
    general = []
    for path in sorted((CONFIGS / "datasets").glob("*.yaml")):
        layer = read_yaml(path)
        groups = layer.get("TRAINER.MOCOOP.PROMPT_GROUPS", [])
        if layer.get("DATASET.NAME") == cfg.DATASET.NAME and groups:
            return groups
        if layer.get("DATASET.NAME") == "ImageFolder":
            general = groups
    return general


def check(cfg: CfgNode, names: dict[str, Sequence[str]]) -> list[str]:
    """All problems of a merged config that can be seen without torch, weights or data.

    Args:
        cfg: `CfgNode` with Dassl's and our keys.
        names: key -> registered names, e.g. {"TRAINER.NAME": [...], "DATASET.NAME": [...]}.

    Returns:
        One sentence per problem, empty if there is none.
    """
    flat = flatten(cfg)
    problems = []
    for path, valid in (names | FIXED_NAMES).items():
        values = flat[path] if isinstance(flat[path], list | tuple) else [flat[path]]
        for value in values:
            if path in HOW_TO_GIVE and not value:
                problems.append(f"{path} is not set: give {HOW_TO_GIVE[path]}")
            elif value not in valid:
                near = nearest(str(value), valid)
                problems.append(f"{path} = {value!r} is not known{near} (one of: {', '.join(valid)})")
    for path, key in KEYS.items():
        wrong = key.check(flat[path])
        if wrong:
            problems.append(f"{path} = {flat[path]!r}: {wrong}")
    return problems + check_numbers(cfg) + check_frozen(cfg)


VIEWS_NEED_A_FROZEN_TOWER = (
    "INPUT.FEATURE_VIEWS needs a frozen image tower: set FINETUNE_VIT_LN False, or the views to 0"
)
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


def check_frozen(cfg: CfgNode) -> list[str]:
    """Problems with what is learned in the image tower (the trainers check it again, for hosts that call them)."""
    node = getattr(cfg.TRAINER, cfg.TRAINER.NAME.upper(), None)
    if not getattr(node, "FINETUNE_VIT_LN", False):
        return []
    problems = []
    if cfg.INPUT.FEATURE_VIEWS > 0:
        problems.append(VIEWS_NEED_A_FROZEN_TOWER)
    if cfg.MODEL.BACKBONE.NAME.startswith("RN"):
        key = f"TRAINER.{cfg.TRAINER.NAME.upper()}.FINETUNE_VIT_LN"
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
