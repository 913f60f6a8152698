"""Every config key that mocoop adds to Dassl's, its default, meaning and check; and how a config is put together.

Nothing here imports torch: a typo is reported before anything heavy is loaded.
"""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

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
    "fp32; amp = autocast (fp16 with gradient scaling on CUDA, bf16 on a CPU); bf16 = autocast in bf16; "
    "fp16 = CoOp's name for half precision, here the same as amp on CUDA and fp32 on a CPU",
    choice("fp32", "fp16", "bf16", "amp"),
)
WEIGHT = at_least(0)

KEYS = {
    "DATASET.SUBSAMPLE_CLASSES": Key(
        "all", "all, base (first half of the classes) or new", choice("all", "base", "new")
    ),
    "DATASET.INCLUDE_ALL_CLASSES": Key(False, "score against all class names the data set knows, not only the present"),
    "INPUT.FEATURE_VIEWS": Key(0, "augmented views per image whose features are cached; 0 = off", at_least(0)),
    "TRAIN.TEXT_CHUNK": Key(None, "prompts encoded at once in training; None = chosen from the free memory", chunk),
    "TRAINER.ZSCLIP.TEMPLATE": Key("", "hand-written template; empty = the data set's own (benchmark table of CoOp)"),
    "TRAINER.COOP.N_CTX": Key(16, "number of context vectors; ignored when CTX_INIT is given", at_least(1)),
    "TRAINER.COOP.CSC": Key(False, "class-specific context vectors"),
    "TRAINER.COOP.CTX_INIT": Key("", "words whose token embeddings initialise the context; empty = random"),
    "TRAINER.COOP.PREC": Key("fp16", PREC.meaning, PREC.check),
    "TRAINER.COOP.CLASS_TOKEN_POSITION": Key("end", "class name at the", choice("end", "middle", "front")),
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


def extend_cfg(cfg) -> None:
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
    """`; did you mean X?` for the most similar of `names`, or an empty string."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def read_yaml(path: Path) -> dict[str, object]:
    """One config file, flattened.

    Raises:
        ConfigError: the file is absent or is not a mapping.
    """
    if not path.is_file():
        near = nearest(path.name, [p.name for p in path.parent.glob("*.yaml")]) if path.parent.is_dir() else ""
        raise ConfigError([f"config file {path} does not exist{near}"])
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise ConfigError([f"config file {path} is not YAML: {error}"]) from error
    if not isinstance(content, dict):
        raise ConfigError([f"config file {path} holds {type(content).__name__}, expected a mapping of keys"])
    return flatten(content)


def parse_opts(opts: Sequence[str]) -> dict[str, object]:
    """`KEY VALUE KEY VALUE ...` of the command line as a flat dict (yacs reads the literals)."""
    if len(opts) % 2:
        raise ConfigError([f"options come as KEY VALUE pairs; {opts[-1]!r} has no partner"])
    return dict(zip(opts[::2], opts[1::2], strict=True))


def merge(cfg, layers: Sequence[tuple[str, dict[str, object]]]) -> set[str]:
    """Merge flat layers into `cfg` in order, later ones win; all problems of all layers are reported together.

    Args:
        cfg: unfrozen `CfgNode`.
        layers: (where it comes from, {"A.B": value}) pairs.

    Returns:
        The keys that any layer set.

    Raises:
        ConfigError: unknown keys (with the nearest valid one) or values of the wrong type.
    """
    problems, seen = [], set()
    for source, layer in layers:
        known = flatten(cfg)
        for path, value in layer.items():
            if path not in known:
                problems.append(f"unknown key {path} ({source}){nearest(path, list(known))}")
                continue
            if isinstance(known[path], float) and isinstance(value, int):
                value = float(value)  # yacs refuses `LR: 1`; nothing is lost by accepting it
            try:
                cfg.merge_from_list([path, value])
                seen.add(path)
            except (ValueError, AssertionError) as error:
                problems.append(f"{path} = {value!r} ({source}): {str(error).splitlines()[0]}")
    if problems:
        raise ConfigError(problems)
    return seen


def prompt_groups(cfg) -> list[list[str]]:
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


def check(cfg, names: dict[str, Sequence[str]]) -> list[str]:
    """All problems of a merged config.

    Args:
        cfg: `CfgNode` with Dassl's and our keys.
        names: key -> registered names, e.g. {"TRAINER.NAME": [...], "DATASET.NAME": [...]}.

    Returns:
        One sentence per problem, empty if there is none.
    """
    flat = flatten(cfg)
    problems = []
    for path, valid in names.items():
        values = flat[path] if isinstance(flat[path], list | tuple) else [flat[path]]
        for value in values:
            if value not in valid:
                problems.append(
                    f"{path} = {value!r} is not known{nearest(str(value), valid)} (one of: {', '.join(valid)})"
                )
    for path, key in KEYS.items():
        wrong = key.check(flat[path])
        if wrong:
            problems.append(f"{path} = {flat[path]!r}: {wrong}")
    return problems + check_numbers(cfg)


def check_numbers(cfg) -> list[str]:
    """Problems with Dassl's own numeric keys that would otherwise surface late or not at all."""
    rules = [
        ("OPTIM.MAX_EPOCH", cfg.OPTIM.MAX_EPOCH, cfg.OPTIM.MAX_EPOCH >= 1, "must be >= 1"),
        ("OPTIM.LR", cfg.OPTIM.LR, cfg.OPTIM.LR > 0, "must be > 0"),
        ("DATALOADER.TRAIN_X.BATCH_SIZE", cfg.DATALOADER.TRAIN_X.BATCH_SIZE, cfg.DATALOADER.TRAIN_X.BATCH_SIZE >= 1, "must be >= 1"),
        ("DATALOADER.TEST.BATCH_SIZE", cfg.DATALOADER.TEST.BATCH_SIZE, cfg.DATALOADER.TEST.BATCH_SIZE >= 1, "must be >= 1"),
        ("DATALOADER.NUM_WORKERS", cfg.DATALOADER.NUM_WORKERS, cfg.DATALOADER.NUM_WORKERS >= 0, "must be >= 0"),
        ("DATASET.NUM_SHOTS", cfg.DATASET.NUM_SHOTS, cfg.DATASET.NUM_SHOTS >= 1 or cfg.DATASET.NUM_SHOTS == -1, "must be >= 1, or -1 for all images"),
        ("SEED", cfg.SEED, cfg.SEED < 2**32, "must be below 2**32 (negative = unseeded)"),
        ("TEST.FINAL_MODEL", cfg.TEST.FINAL_MODEL, cfg.TEST.FINAL_MODEL in ("last_step", "best_val"), "must be 'last_step' or 'best_val'"),
        ("TEST.SPLIT", cfg.TEST.SPLIT, cfg.TEST.SPLIT in ("test", "val"), "must be 'test' or 'val'"),
    ]  # fmt: skip
    return [f"{path} = {value!r}: {wrong}" for path, value, good, wrong in rules if not good]


def check_input(cfg, preprocess, backbone: str) -> list[str]:
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
        if key == "INTERPOLATION":
            same = have == value
        else:
            same = len(have) == len(value) and all(abs(a - b) < 1e-6 for a, b in zip(have, value, strict=True))
        if not same:
            problems.append(f"INPUT.{key} is {have}, but backbone {backbone} was trained with {value}")
    return problems


def fill_input(cfg, preprocess, seen: set[str]) -> None:
    """Set those INPUT.* keys that no file or option has set to the backbone's own values."""
    own = {
        "SIZE": (preprocess.size, preprocess.size),
        "PIXEL_MEAN": list(preprocess.mean),
        "PIXEL_STD": list(preprocess.std),
        "INTERPOLATION": preprocess.interpolation,
    }
    for key, value in own.items():
        if f"INPUT.{key}" not in seen:
            cfg.INPUT[key] = value
