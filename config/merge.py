"""How a config is put together: files and options are merged in order, and everything wrong is reported at once."""

import difflib
from ast import literal_eval
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml
from yacs.config import CfgNode

from .keys import Key, extend_cfg


class ConfigError(ValueError):
    """A config that cannot run; the message lists every problem found."""

    def __init__(self, problems: Sequence[str]):
        self.problems = list(problems)
        super().__init__("\n".join(["The config cannot be used:"] + [f"  - {p}" for p in self.problems]))


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
