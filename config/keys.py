"""How a config key is declared: its default, what it means, and a check; and the keys that belong to no single method.

The keys of a method are in its row of `mocoop.methods`. Nothing here imports torch: a typo is reported before
anything heavy is loaded.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from yacs.config import CfgNode

from ..clip.tokenizer import SPECIAL

Check = Callable[[object], str | None]  # value -> what is wrong with it, None if nothing is


@dataclass(frozen=True)
class Key:
    """One config key: its default, what it means, and a check that returns what is wrong or None."""

    default: object
    meaning: str
    check: Check = lambda value: None


def choice(*names: str) -> Check:
    """A check that the value is one of `names`."""
    return lambda value: None if value in names else f"must be one of {', '.join(map(repr, names))}"


def is_number(value: object) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def at_least(low: float) -> Check:
    """A check that the value is a number not below `low`."""
    return lambda value: None if is_number(value) and value >= low else f"must be a number >= {low}"


def between(low: float, high: float) -> Check:
    """A check that the value is a number from `low` to `high`."""
    return lambda value: None if is_number(value) and low <= value <= high else f"must be >= {low} and <= {high:,}"


def above_zero(value: object) -> str | None:
    """A check for a positive number."""
    return None if is_number(value) and value > 0 else "must be > 0"


def below_one(value: object) -> str | None:
    """A check for a decay rate."""
    return None if is_number(value) and 0 <= value < 1 else "must be >= 0 and < 1"


def whole(value: object) -> str | None:
    """A check for a whole number."""
    return None if isinstance(value, int) and not isinstance(value, bool) else "must be a whole number"


def text(value: object) -> str | None:
    """A check for a text."""
    return None if isinstance(value, str) else "must be a text"


def not_empty(value: object) -> str | None:
    """A check for a list that has entries."""
    return None if isinstance(value, list | tuple) and value else "must be a list with entries"


def scale(value: object) -> str | None:
    """A check for logit scales: None or "clip" (CLIP's own exp(logit_scale)), or a positive number."""
    good = value is None or value == "clip" or (is_number(value) and value > 0)
    return None if good else 'must be "clip" (CLIP\'s own exp(logit_scale)) or a number > 0'


def templates(value: object) -> str | None:
    """A check for a list of templates with exactly one "{}" each."""
    return template_groups([value])


def templates_or_none(value: object) -> str | None:
    """A check for a list of templates, which may be empty (others are used then)."""
    return None if value in ([], ()) else templates(value)


def template(value: object) -> str | None:
    """A check for one template with exactly one "{}", or an empty text (the default is used then)."""
    return template_groups([[value]]) if value else None


def template_groups(value: object) -> str | None:
    """A check for PROMPT_GROUPS: a list of non-empty lists of templates with exactly one "{}" each."""
    if not isinstance(value, list | tuple) or not all(isinstance(group, list | tuple) and group for group in value):
        return "must be a list of non-empty lists of templates"
    bad = [template for group in value for template in group if not is_template(template)]
    return f'each template needs exactly one "{{}}" for the class name; found {bad[0]!r:.200}' if bad else None


def is_template(value: object) -> bool:
    """Whether a value is a text with "{}" once, no other brace ("{0}", "{name}"), and none of CLIP's own tokens."""
    if not isinstance(value, str) or value.count("{}") != 1:
        return False
    return not any(part in value.replace("{}", "") for part in ("{", "}", *SPECIAL))


def words(value: object) -> str | None:
    """A check for words of a prompt."""
    return f"must hold none of {', '.join(SPECIAL)}" if any(token in value for token in SPECIAL) else None


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
    "INPUT.FEATURE_VIEWS": Key(0, "augmented views per image whose features are cached; 0 = off", between(0, 1000)),
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
