"""How a config is put together: files and options are merged in order, and everything wrong is reported at once."""

import math
from ast import literal_eval
from collections.abc import Callable, Mapping, Sequence

from yacs.config import CfgNode

from ..toolbox.dassl.errors import ExpectedError
from ..toolbox.dassl.utils import did_you_mean, printable
from .keys import Key, extend_cfg


class ConfigError(ExpectedError, ValueError):
    """A config that cannot run; the message lists every problem found."""

    def __init__(self, problems: Sequence[str]):
        self.problems = list(problems)
        super().__init__("\n".join(["The config cannot be used:"] + [f"  - {p}" for p in self.problems]))


MOST_UNKNOWN = 10  # unknown keys of one file that are named
LONGEST_LITERAL = 2**19
LONGEST_SHOWN = 200
DEEPEST = 20


def flatten(node: dict, prefix: str = "") -> dict[str, object]:
    """A nested dict as {"A.B.C": value}."""
    flat = {}
    for name, value in node.items():
        path = f"{prefix}{name}"
        flat.update(flatten(value, f"{path}.") if isinstance(value, dict) else {path: value})
    return flat


def compose(
    layers: Sequence[tuple[str, Callable[[], dict[str, object]]]], keys: Mapping[str, Key]
) -> tuple[CfgNode, set[str], list[str]]:
    """Dassl's defaults, our keys, then the layers in order, later ones win.

    Args:
        keys: ours, see `keys.extend_cfg`.
        layers: (where it comes from, function that reads it) pairs; one that cannot be read is a problem like others.

    Returns:
        The unfrozen config, the keys that any layer set, and all problems found.
    """
    from dassl.config import get_cfg_default

    cfg, read, problems = get_cfg_default(), [], []
    extend_cfg(cfg, keys)
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
        raise ConfigError([f"options come as KEY VALUE pairs; {opts[-1]!r} has no value"])
    return dict(zip(opts[::2], opts[1::2], strict=True))


def read_value(value: object, default: object) -> object:
    """A value as yacs reads it (strings that are Python literals become these), converted where yacs is too strict.

    A key whose default is a string keeps its string (`OUTPUT_DIR 2024`); a whole number is fine for a key whose default
    is not whole (`OPTIM.LR 1`).
    """
    if isinstance(value, str) and len(value) <= LONGEST_LITERAL:
        try:
            literal = literal_eval(value)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # the last two: too deep
            literal = value
        value = literal if isinstance(literal, str) or not isinstance(default, str) else value
    whole = isinstance(value, int) and not isinstance(value, bool) and not why_unusable(value)
    return float(value) if whole and isinstance(default, float) else value


def why_unusable(value: object, depth: int = 0) -> str | None:
    """What is wrong with a value that no key can have, None if nothing is."""
    if isinstance(value, float):
        return None if math.isfinite(value) else "must be a finite number"
    if isinstance(value, int):
        return None if abs(value) < 2**63 else "is too large a number"
    if isinstance(value, str):
        return None if encodable(value) else "holds characters that cannot be written to a file"
    if isinstance(value, list | tuple):
        wrong = "is nested too deep" if depth == DEEPEST else None
        return wrong or next((bad for bad in (why_unusable(item, depth + 1) for item in value) if bad), None)
    return None if value is None else f"holds a {type(value).__name__}, which no key takes"


def encodable(text: str) -> bool:
    """Whether a text can be written to a file and be part of a path."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def shown(value: object) -> str:
    """A value as messages show it."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a whole number of thousands of digits; a nested list
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def type_in_words(value: object) -> str:
    """The type of a config value in words."""
    words = {str: "text", int: "a whole number", float: "a number", bool: "True or False"}
    return words.get(type(value), "a list" if isinstance(value, list | tuple) else type(value).__name__)


def unknown_keys(source: str, layer: Mapping[str, object], known: Mapping[str, object]) -> list[str]:
    """A problem for each key of a layer that does not exist; an empty section is fine.

    Args:
        source: where the layer comes from; layer: {"A.B": value}; known: every existing key.
    """
    sections = {key[:dot] for key in known for dot, letter in enumerate(key) if letter == "."}
    unknown = [path for path in layer if path not in known and not (layer[path] is None and path in sections)]
    problems = [f"unknown key {printable(p[:200])} ({source}){did_you_mean(p, known)}" for p in unknown[:MOST_UNKNOWN]]
    more = len(unknown) - MOST_UNKNOWN
    return [*problems, f"{more:,} more unknown keys ({source})"] if more > 0 else problems


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
        problems += unknown_keys(source, layer, known)
        for path, value in layer.items():
            if path not in known:
                continue
            *parents, leaf = path.split(".")
            node = cfg
            for parent in parents:
                node = node[parent]
            value = read_value(value, known[path])
            wrong = why_unusable(value)
            if wrong:
                problems.append(f"{path} = {shown(value)} ({source}): {wrong}")
                continue
            if isinstance(known[path], list | tuple) and isinstance(value, list | tuple):
                value = type(known[path])(value)
            elif known[path] is not None and type(value) is not type(known[path]):
                expected = f"expected {type_in_words(known[path])}, found {type_in_words(value)}"
                problems.append(f"{path} = {shown(value)} ({source}): {expected}")
                continue
            node[leaf] = value
            seen.add(path)
    if problems:
        raise ConfigError(problems)
    return seen
