"""Config files, read within limits: of size, of nesting, of what aliases expand to; and no key twice."""

from pathlib import Path

import yaml

from ..toolbox.dassl.utils import did_you_mean, printable
from .merge import ConfigError, flatten

# Ours have about two thousand bytes, a run's config.yaml about ten thousand.
MOST_BYTES = 2**19
MOST_VALUES = 50_000
DEEPEST = 20
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class BrokenLimit(Exception):
    """A config file breaks a limit, or has a key twice; the message says which."""


def read_yaml(path: str | Path) -> dict[str, object]:
    """One config file, flattened.

    Raises:
        ConfigError: the file is absent, unreadable, not a mapping, beyond the limits above, or has a key twice.
    """
    return flat(read_mapping(path), f"config file {path}")


def read_mapping(path: str | Path) -> dict[str, object]:
    """A YAML file as it is, nested.

    Raises:
        ConfigError: see `read_yaml`.
    """
    path = Path(path)
    if not path.is_file():
        if path.exists():
            raise ConfigError([f"config file {path} is not a regular file"])
        near = did_you_mean(path.name, [p.name for p in path.parent.glob("*.yaml")]) if path.parent.is_dir() else ""
        raise ConfigError([f"config file {path} does not exist{near}"])
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError([f"config file {path} cannot be read: {error.strerror}"]) from error
    return parse_mapping(content, f"config file {path}")


def parse_yaml(content: bytes, name: str) -> dict[str, object]:
    """The content of a config file, flattened; see `read_yaml`.

    Args:
        content: UTF-8; name: what to call it in messages.
    """
    return flat(parse_mapping(content, name), name)


def parse_mapping(content: bytes, name: str) -> dict[str, object]:
    """`parse_yaml` without flattening."""
    if len(content) > MOST_BYTES:
        raise ConfigError([f"{name} has more than {MOST_BYTES:,} bytes; is it really a config file?"])
    try:
        values = load(content.decode("utf-8-sig"))
    except BrokenLimit as error:
        raise ConfigError([f"{name}: {error}"]) from error
    except Exception as error:  # PyYAML's readers of numbers, dates and binary data raise nearly anything
        raise ConfigError([f"{name} is not YAML: {error!s:.500}"]) from error
    if not isinstance(values, dict):
        raise ConfigError([f"{name} holds a {type(values).__name__}, expected a mapping of keys"])
    return values


def flat(values: dict[str, object], name: str) -> dict[str, object]:
    """The values of a config file, flattened; `name`: what to call it in messages.

    Raises:
        ConfigError: a key is there twice.
    """
    found = flatten(values)
    if len(found) != leaves(values):
        raise ConfigError([f"{name} has a key twice: once as SECTION: KEY, once as SECTION.KEY"])
    return found


def load(text: str) -> object:
    """The values of a YAML text; an empty one counts as an empty mapping.

    Raises:
        Unfit: it is too deep, stands for too much, or has a key twice.
    """
    check_depth(text)
    loader = LOADER(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return {}
        count_values(node, {})
        values = loader.construct_document(node)
    finally:
        loader.dispose()
    return {} if values is None else values


def check_depth(text: str) -> None:
    """Refuse deep nesting before anything recursive reads it."""
    depth = 0
    for event in yaml.parse(text, LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise BrokenLimit(f"it is nested more than {DEEPEST} deep")


def count_values(node: yaml.Node, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """How many values a node has with its aliases written out, and how deeply they are nested.

    Args:
        node: of YAML; known: node id -> result, None while it is being counted.

    Raises:
        Unfit: too many, too deep, a node within itself, a key twice in one mapping.
    """
    if id(node) in known:
        if known[id(node)] is None:
            raise BrokenLimit(f"an alias is inside the node that it names (line {node.start_mark.line + 1})")
        return known[id(node)]
    known[id(node)] = None
    size, depth = 1, 0
    if isinstance(node, yaml.MappingNode):
        check_keys(node)
    for child in children(node):
        below = count_values(child, known)
        size, depth = size + below[0], max(depth, below[1] + 1)
    if size > MOST_VALUES or depth > DEEPEST:
        raise BrokenLimit(
            f"with its aliases written out it has more than {MOST_VALUES:,} values, or is over {DEEPEST} deep"
        )
    known[id(node)] = size, depth
    return size, depth


def children(node: yaml.Node) -> list[yaml.Node]:
    """The nodes right below a node."""
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def check_keys(node: yaml.MappingNode) -> None:
    """Refuse a key that is given twice in one mapping (YAML would silently use the last one)."""
    lines = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if isinstance(key, yaml.ScalarNode) and lines.setdefault(key.value, line) != line:
            name = printable(key.value[:100])
            raise BrokenLimit(f"{name} is given twice (lines {lines[key.value]} and {line}); put them together")


def leaves(values: dict) -> int:
    """How many values a nested dict has."""
    return sum(leaves(value) if isinstance(value, dict) else 1 for value in values.values())
