"""One table per protocol, as data: rows of cells that keep every seed's value.

A cell's spread is over seeds. H is the H of the averaged base and new accuracy, and an average over data sets is the
mean of their means, as in the papers; what is missing is named in the table's notes.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from ..methods import untrained
from ..runs.layout import BASE, NEW, PROTOCOLS, Place, Setting, main_config
from ..toolbox.dassl.errors import WrongValue
from .records import Results, method_order
from .statistics import Difference, harmonic, paired_difference

PER_DATASET = "per data set"  # "config" of an average over data sets that a method meets with different configs


@dataclass(frozen=True)
class Cell:
    """A number of a table.

    Attributes:
        mean: what is printed, in percent.
        values: what it is the mean of, by seed (of H: each seed's own H, whose mean differs a little; of an average
            over data sets with different seeds: empty).
    """

    mean: float
    values: dict[int, float]


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        group: what it is compared within, e.g. (data set, shots); one entry per head of the table.
        method, config: whose row it is.
        cells: one per column, None where there is no finished run.
        average: whether it is an average over data sets.
        published: the numbers come from a publication, not from runs.
    """

    group: tuple[str, ...]
    method: str
    config: str
    cells: tuple[Cell | None, ...]
    average: bool = False
    published: bool = False

    @property
    def seeds(self) -> tuple[int, ...]:
        """All seeds in the row."""
        return tuple(sorted({seed for cell in self.cells if cell for seed in cell.values}))


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        protocol: a name of `runs.layout.PROTOCOLS`.
        name: in words.
        heads: what the entries of a row's group are.
        columns: what the cells are.
        split: the split whose accuracy counts.
        remark: what its numbers are, beyond mean and spread.
        plain: columns printed without a spread.
        rows: those of single data sets first, in each group in the order of the methods.
        notes: what is unfinished or missing.
    """

    protocol: str
    name: str
    heads: tuple[str, ...]
    columns: tuple[str, ...]
    split: str
    remark: str = ""
    plain: tuple[str, ...] = ()
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def row(self, group: Sequence[str], method: str, config: str | None = None) -> Row | None:
        """The row of a method (config None: its main config), None if there is no such row."""
        rows = [row for row in self.rows if row.group == tuple(group) and row.method == method and not row.published]
        wanted = config or main_config(row.config for row in rows)
        return next((row for row in rows if row.config == wanted), None)

    def cell(self, row: Row, column: str) -> Cell | None:
        """A row's cell by the name of its column."""
        return row.cells[self.columns.index(column)]


def tables_of(results: Results, protocol: str) -> list[Table]:
    """The tables of a protocol: none without runs, one per source for transfers, otherwise one.

    Raises:
        ValueError: unknown protocol.
    """
    if protocol not in PROTOCOLS:
        raise WrongValue(f"unknown protocol {protocol!r}; there are {', '.join(PROTOCOLS)}")
    if not any(setting.place.protocol == protocol for setting in results.seen):
        return []
    make = {"base2new": base2new, "fewshot": fewshot}.get(protocol)
    made = [make(results)] if make else transfers(results, protocol)
    for table in made:
        if any(has_fewer_seeds(cell, row) for row in table.rows for cell in row.cells):
            table.notes.append("[n]: the mean of n seeds, where the row's other numbers have more")
    return made


def has_fewer_seeds(cell: Cell | None, row: Row) -> bool:
    """Whether a cell has fewer seeds than its row (an average over different seeds has none of its own)."""
    return cell is not None and 0 < len(cell.values) < len(row.seeds)


# ---- what is there and what should be


@dataclass(frozen=True)
class Grid:
    """What belongs together: the same places for all contenders (method, config)."""

    group: tuple[str, ...]
    places: tuple[Place, ...]
    contenders: tuple[tuple[str, str], ...]


def make_grid(results: Results, group: tuple[str, ...], places: Sequence[Place], protocol: str) -> Grid:
    """A grid whose contenders are those with a run folder at one of the places of the protocol itself."""
    there = [s for s in results.seen if s.place in places and s.place.protocol == protocol]
    contenders = sorted({(s.method, s.config) for s in there}, key=lambda pair: method_order(*pair))
    return Grid(group, tuple(places), tuple(contenders))


def missing(results: Results, grid: Grid) -> list[str]:
    """Runs that some contenders have at some places of a grid and others lack (no folder at all), one line a setting.

    Of a method that trains nothing only its own seeds are expected: they are all alike; in few-shot it has one place.
    """
    lines = []
    seeds = seeds_at(results, grid, [pair for pair in grid.contenders if pair[0] not in untrained()])
    for method, config in grid.contenders:
        own = seeds_at(results, grid, [(method, config)])
        for place in grid.places:
            setting = Setting(place, method, config)
            if method in untrained() and place.protocol == "fewshot":
                continue
            lacking = sorted((own if method in untrained() else seeds) - results.seen.get(setting, set()))
            if lacking:
                lines.append(f"missing: {setting}, {'seed' if len(lacking) == 1 else 'seeds'} {joined(lacking)}")
    return lines


def seeds_at(results: Results, grid: Grid, contenders: Iterable[tuple[str, str]]) -> set[int]:
    """All seeds of some contenders of a grid."""
    return {
        seed for pair in contenders for place in grid.places for seed in results.seen.get(Setting(place, *pair), set())
    }


def joined(seeds: Iterable[int]) -> str:
    """Sorted seeds with spaces between; more than five in a row as the first and the last, "1-9"."""
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    return " ".join(f"{part[0]}-{part[-1]}" if len(part) > 5 else " ".join(map(str, part)) for part in parts)


def notes_on(results: Results, grids: Sequence[Grid], more: Iterable[Setting] = ()) -> list[str]:
    """What is unfinished (also of some more settings) or missing in some grids."""
    settings = [Setting(place, *pair) for grid in grids for pair in grid.contenders for place in grid.places]
    unfinished = [text for setting in [*settings, *sorted(more)] for text in results.notes.get(setting, [])]
    return list(dict.fromkeys(unfinished + [line for grid in grids for line in missing(results, grid)]))


# ---- cells


def cell_of(values: dict[int, float]) -> Cell | None:
    """The cell of some seeds' values."""
    return Cell(math.fsum(values.values()) / len(values), values) if values else None


def h_of(base: Cell | None, new: Cell | None) -> Cell | None:
    """H of the averages; by seed, each seed's own."""
    if base is None or new is None:
        return None
    both = sorted(base.values.keys() & new.values.keys())
    return Cell(harmonic(base.mean, new.mean), {seed: harmonic(base.values[seed], new.values[seed]) for seed in both})


def average(cells: Sequence[Cell | None]) -> Cell | None:
    """Mean of the means; by seed, the mean of each seed, if all cells have the same seeds. None if a cell is."""
    if not cells or any(cell is None for cell in cells):
        return None
    seeds = {tuple(sorted(cell.values)) for cell in cells}
    common = seeds.pop() if len(seeds) == 1 else ()
    by_seed = {seed: math.fsum(cell.values[seed] for cell in cells) / len(cells) for seed in common}
    return Cell(math.fsum(cell.mean for cell in cells) / len(cells), by_seed)


# ---- averages over data sets


def by_dataset(rows: Sequence[Row]) -> list[tuple[str, dict[str, Row]]]:
    """What to average for one method: [(config, {data set: row})].

    That is every config, and, if none is on all data sets, the method with the main config it has on each.
    """
    datasets = {row.group[0] for row in rows}
    configs = {row.config: {r.group[0]: r for r in rows if r.config == row.config} for row in rows}
    picked = list(configs.items())
    if len(datasets) > 1 and all(len(found) < len(datasets) for found in configs.values()):
        main = {d: main_config(row.config for row in rows if row.group[0] == d) for d in datasets}
        if None not in main.values():
            used = set(main.values())
            picked = [(config, found) for config, found in picked if config not in used]
            picked.append((PER_DATASET, {d: configs[config][d] for d, config in main.items()}))
    return picked


def average_rows(
    rows: Sequence[Row], finish: Callable[[list[Cell | None]], list[Cell | None]] = list
) -> tuple[list[Row], list[str]]:
    """Rows with the average over data sets of every method that has all of them, and notes on those that lack some.

    Args:
        rows: of single data sets; the first entry of their group is the data set.
        finish: makes of the averaged cells those of the row (for H, which is not averaged itself).
    """
    averages, notes = [], []
    for rest in sorted({row.group[1:] for row in rows}, key=lambda entries: [(len(e), e) for e in entries]):
        some = [row for row in rows if row.group[1:] == rest]
        datasets = list(dict.fromkeys(row.group[0] for row in some))
        if len(datasets) < 2:
            continue
        for method in dict.fromkeys(row.method for row in some):
            for config, found in by_dataset([row for row in some if row.method == method]):
                lacking = [d for d in datasets if d not in found or not any(found[d].cells)]
                if lacking:
                    notes.append(
                        f"no average over data sets of {method} ({config}): no finished runs on {', '.join(lacking)}"
                    )
                    continue
                columns = zip(*(found[d].cells for d in datasets), strict=True)
                cells = finish([average(column) for column in columns])
                group = (f"average of {len(datasets)}", *rest)
                averages.append(Row(group, method, config, tuple(cells), average=True))
    return averages, notes


# ---- the protocols


def base2new(results: Results) -> Table:
    """Base, new and H per data set and shots; only seeds with both halves count (if one half has none, the other's)."""
    columns = ("Base", "New", "H")
    table = Table("base2new", "Base-to-new", ("Data set", "Shots"), columns, results.split, "H of the averages", ("H",))
    found = sorted({(s.place.dataset, s.place.shots) for s in results.seen if s.place.protocol == "base2new"})
    grids = []
    for dataset, shots in found:
        places = [Place("base2new", part, dataset, shots) for part in (BASE, NEW)]
        grid = make_grid(results, (dataset, str(shots)), places, "base2new")
        grids.append(grid)
        for pair in grid.contenders:
            base, new = (results.values(Setting(place, *pair)) for place in places)
            both = sorted(base.keys() & new.keys()) if base and new else [*base, *new]
            cells = [cell_of({seed: half[seed] for seed in both if seed in half}) for half in (base, new)]
            table.rows.append(Row(grid.group, *pair, (*cells, h_of(*cells))))
    extra, notes = average_rows(table.rows, lambda cells: [*cells[:2], h_of(*cells[:2])])
    table.rows.extend(extra)
    table.notes.extend(notes_on(results, grids) + notes)
    return table


def fewshot(results: Results) -> Table:
    """Accuracy per data set and number of shots. What trains nothing is a constant, run with any number of shots."""
    settings = [s for s in results.seen if s.place.protocol == "fewshot"]
    trained = [s for s in settings if s.method not in untrained()]
    shots = sorted({s.place.shots for s in trained or settings})
    columns = tuple(f"{n} shot{'s' * (n != 1)}" for n in shots)
    table = Table("fewshot", "Few-shot", ("Data set",), columns, results.split)
    grids = []
    for dataset in sorted({s.place.dataset for s in settings}):
        own = sorted({s.place.shots for s in settings if s.place.dataset == dataset} | set(shots))
        grid = make_grid(results, (dataset,), [Place("fewshot", "", dataset, n) for n in own], "fewshot")
        grids.append(Grid(grid.group, tuple(p for p in grid.places if p.shots in shots), grid.contenders))
        for pair in grid.contenders:
            cells = {place.shots: cell_of(results.values(Setting(place, *pair))) for place in grid.places}
            if pair[0] in untrained():
                constant = next((cells[n] for n in reversed(own) if cells[n]), None)
                cells = dict.fromkeys(shots, constant)
            table.rows.append(Row(grid.group, *pair, tuple(cells[n] for n in shots)))
    extra, notes = average_rows(table.rows)
    table.rows.extend(extra)
    table.notes.extend(notes_on(results, grids, settings) + notes)
    return table


def transfers(results: Results, protocol: str) -> list[Table]:
    """Accuracy on the source and on each target, and the average over targets; one table per source."""
    name = {"cross_dataset": "Cross-dataset", "domain_generalization": "Domain generalization"}[protocol]
    settings = [s for s in results.seen if s.place.protocol == protocol]
    made = []
    for source in sorted({s.place.part for s in settings}):
        own = [s for s in settings if s.place.part == source]
        targets = sorted({s.place.dataset for s in own})
        columns = (f"{source} (source)", *targets, "Average")
        remark = "average over the targets"
        table = Table(protocol, f"{name} from {source}", ("Source", "Shots"), columns, results.split, remark)
        grids = []
        for shots in sorted({s.place.shots for s in own}):
            places = [Place("source", "", source, shots)] + [Place(protocol, source, t, shots) for t in targets]
            grid = make_grid(results, (source, str(shots)), places, protocol)
            grids.append(grid)
            for pair in grid.contenders:
                cells = [cell_of(results.values(Setting(place, *pair))) for place in places]
                table.rows.append(Row(grid.group, *pair, (*cells, average(cells[1:]))))
                lacking = [t for t, cell in zip(targets, cells[1:], strict=True) if cell is None]
                if lacking:
                    table.notes.append(
                        f"no average over targets of {pair[0]} ({pair[1]}): no value on {', '.join(lacking)}"
                    )
        table.notes[:0] = notes_on(results, grids)
        made.append(table)
    return made


# ---- comparisons


@dataclass(frozen=True)
class Comparison:
    """Paired differences of two rows of one group, one per column (None: no common seed)."""

    group: tuple[str, ...]
    first: Row
    second: Row
    differences: tuple[Difference | None, ...]


def compare_rows(first: Row, second: Row) -> Comparison:
    """First minus second, column by column, seed by seed."""
    pairs = []
    for a, b in zip(first.cells, second.cells, strict=True):
        values = [] if a is None or b is None else [a.values, b.values]
        if values:  # what trains nothing has the same value whatever the seed
            for row, other in ((0, 1), (1, 0)):
                constant = (first, second)[row].method in untrained() and len(set(values[row].values())) == 1
                if constant:
                    values[row] = dict.fromkeys({**values[other], **values[row]}, next(iter(values[row].values())))
        pairs.append(paired_difference(*values) if values else None)
    return Comparison(first.group, first, second, tuple(pairs))


def compare(table: Table, first: str, second: str) -> list[Comparison]:
    """Paired differences between two methods in every group of a table that has both.

    Args:
        first, second: "METHOD" (its main config) or "METHOD/CONFIG".
    """
    found = []
    for group in dict.fromkeys(row.group for row in table.rows):
        rows = [table.row(group, *name.split("/", 1)) for name in (first, second)]
        if None not in rows:
            found.append(compare_rows(*rows))
    return found
