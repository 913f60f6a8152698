"""Imports run one way: no room of the house imports a higher one; no rooms, and no modules, import each other."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import mocoop
import pytest

ROOT = Path(mocoop.__file__).parent
# From the lowest to the highest. Rooms of one floor may import each other, but not in a circle.
FLOORS = (
    ("checkout", "toolbox", "clip", "config"),
    ("methods",),
    ("plugin",),
    ("datasets", "trainers"),
    ("classifier", "runs", "results"),
    ("report", "serving"),
    ("commands", "train"),
    ("benchmarks", "scripts", "__main__"),
)
OUTSIDE = {"__init__", "checkout", "setup", "tests", "configs"}  # no rooms (checkout.py imports nothing of ours)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def type_checking_only(tree):
    """The nodes below `if TYPE_CHECKING:`."""
    ifs = (node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
    return {inner for node in ifs for child in node.body for inner in ast.walk(child)}


def imported(tree, package):
    """Full names of all that a module imports, wherever in it, e.g. "mocoop.clip.text.TextEncoder".

    Args:
        tree: of the module; package: the names of its package, e.g. ["mocoop", "trainers"].
    """
    skipped = type_checking_only(tree)
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            yield from (".".join([*base, *([node.module] if node.module else []), a.name]) for a in node.names)


def room_of(name):
    """The room that a full name is in; None for other packages and for what `mocoop` itself defines."""
    first, *rest = name.split(".")
    if first == "dassl":  # an installed one, or ours
        return "toolbox"
    room = rest[0] if first == "mocoop" and rest else None
    return room if room in FLOOR else None


def modules(root):
    """Module -> full names of what it imports, of all modules of a checkout's rooms but for tests."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = ["mocoop", *path.relative_to(root).with_suffix("").parts]
        if room_of(".".join(parts)):
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = list(imported(ast.parse(path.read_text()), parts[:-1]))
    return found


def edges(root):
    """(room, room that it imports) -> the imports."""
    found = {}
    for module, names in modules(root).items():
        for name in names:
            room = room_of(name)
            if room not in (None, room_of(module)):
                found.setdefault((room_of(module), room), []).append(f"{module}: {name}")
    return found


def upward(found):
    """The imports of a higher room."""
    return {edge: files for edge, files in found.items() if FLOOR[edge[1]] > FLOOR[edge[0]]}


def circle(graph):
    """Rooms or modules each of which imports the next, the last being the first again; [] if there are none.

    Args:
        graph: room or module -> those that it imports.
    """
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def between_rooms(found):
    """`edges` as room -> the rooms that it imports."""
    return {room: [end for start, end in found if start == room] for room in FLOOR}


def between_modules(found):
    """`modules` as module -> the modules that it imports: a name is in the one with the longest fitting name."""
    graph = {}
    for module, names in found.items():
        graph[module] = set()
        for name in names:
            name = re.sub(r"^dassl\b", "mocoop.toolbox.dassl", name)
            while name and name not in found:
                name = name.rpartition(".")[0]
            graph[module] |= {name} - {"", module}
    return graph


@pytest.fixture(scope="module")
def house():
    return edges(ROOT)


def test_no_room_imports_a_higher_one(house):
    assert upward(house) == {}
    assert {("trainers", "clip"), ("commands", "runs"), ("clip", "toolbox")} <= set(house)  # imports are seen at all


def test_no_rooms_import_each_other(house):
    assert circle(between_rooms(house)) == []


def test_no_modules_import_each_other_not_even_within_functions():
    graph = between_modules(modules(ROOT))
    assert circle(graph) == [] and "mocoop.clip.names" in graph["mocoop.clip.backbones"]


def test_every_room_has_its_floor():
    rooms = {path.parts[len(ROOT.parts)].removesuffix(".py") for path in ROOT.rglob("*.py")}
    assert rooms - OUTSIDE - {".venv", "build"} <= set(FLOOR)


def test_contributing_says_the_same():
    """Its sentence names the floors with arrows between."""
    text = " ".join((ROOT / "CONTRIBUTING.md").read_text().split())
    floors = text.partition("Imports run one way: ")[2].partition(". ")[0].split(" <- ")
    named = [[word.removesuffix(".py") for word in re.findall(r"`([\w.]+)`", floor)] for floor in floors]
    numbers = [[FLOOR[room] for room in rooms] for rooms in named]
    assert sum(numbers, []) == sorted(sum(numbers, [])) and len(named) == len({tuple(n) for n in numbers})
    assert {room for rooms in named for room in rooms} == set(FLOOR) - {"benchmarks", "scripts", "__main__", "checkout"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("from ..runs.folder import DONE", {("clip", "runs")}),
        ("from .. import runs", {("clip", "runs")}),
        ("def f():\n    import mocoop.trainers.coop", {("clip", "trainers")}),
        ("from mocoop import train", {("clip", "train")}),
        ("from dassl.engine import TrainerX\nfrom ..config import Key", set()),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..runs import folder", set()),
        ("from .names import parse\nimport runs, torch", set()),
    ],
)
def test_what_counts_as_an_import_of_a_higher_room(tmp_path, line, expected):
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip/text.py").write_text(line + "\n")
    assert set(upward(edges(tmp_path))) == expected


def test_circles_are_found(tmp_path):
    line = {("clip", "toolbox"): [], ("config", "clip"): []}
    assert circle(between_rooms(line)) == []
    assert set(circle(between_rooms({**line, ("toolbox", "config"): []}))) == {"toolbox", "config", "clip"}
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip/text.py").write_text("from .layout import make_layout\n")
    (tmp_path / "clip/layout.py").write_text("def f():\n    from . import text\n")
    assert set(circle(between_modules(modules(tmp_path)))) == {"mocoop.clip.text", "mocoop.clip.layout"}
