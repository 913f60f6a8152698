"""How a config key is declared: its default, what it means, and a check; and the keys that belong to no one method.

The keys of a method stand in its row of `mocoop.methods`. Nothing here imports torch: a typo is reported before
anything heavy is loaded.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from yacs.config import CfgNode


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


def template(value: object) -> str | None:
    """A check for one template with exactly one "{}", or an empty text (another place says which)."""
    return template_groups([[value]]) if value else None


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

KEYS = {
    "DATASET.SUBSAMPLE_CLASSES": Key(
        "all", "all, base (first half of the classes) or new", choice("all", "base", "new")
    ),
    "DATASET.INCLUDE_ALL_CLASSES": Key(False, "score against all class names the data set knows, not only the present"),
    "INPUT.FEATURE_VIEWS": Key(0, "augmented views per image whose features are cached; 0 = off", at_least(0)),
    "TRAIN.TEXT_CHUNK": Key(None, "prompts encoded at once; None = all if memory allows, else in slices", chunk),
}


def extend_cfg(cfg: CfgNode, keys: Mapping[str, Key]) -> None:
    """Add the keys that `cfg` lacks, with their defaults; nothing present is changed.

    Args:
        cfg: unfrozen yacs `CfgNode` with Dassl's keys.
        keys: full path -> declaration: `KEYS` and those of the methods.
    """
    node_type = type(cfg)
    for path, key in keys.items():
        *parents, leaf = path.split(".")
        node = cfg
        for parent in parents:
            if parent not in node:
                node[parent] = node_type()
            node = node[parent]
        if leaf not in node:
            node[leaf] = list(key.default) if isinstance(key.default, list) else key.default
