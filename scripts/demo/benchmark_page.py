"""The page of the benchmark on the miniature world: tables, claims and figures from finished runs."""

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark_plan import (
    ABLATION_SETS,
    ABLATIONS,
    AGAINST,
    AVERAGED,
    CONFIG,
    HELD_OUT,
    MAIN,
    METHODS,
    SETS,
    SHIFTED,
    TRAINED,
)
from mocoop import results
from mocoop.results import figures
from mocoop.results.render import difference as shown
from mocoop.results.render import number
from mocoop.runs.layout import BASE, Place, Setting, read_path
from mocoop.runs.pool import Job
from mocoop.toolbox.dassl.utils import write_text

CARD = Path(__file__).resolve().parents[2] / "clip/miniature/MODEL_CARD.md"
MEASURED = re.compile(r"<!-- measured by [^>]*-->(.*?)<!-- end of measured -->", re.S)
RATE_FIELDS = ("method", "rate", "dataset", "seed", "accuracy")
OURS = "MoCoOp"
PUBLISHED = {entry.trainer: entry for entry in results.published.BASE2NEW if entry.trainer in METHODS}


def markdown(head: Sequence[str], body: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table in Markdown; the first columns are aligned to the left."""
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (head, rule, *body))


def bold(value: results.Difference | None) -> str:
    """A difference, bold if its interval excludes 0."""
    return f"**{shown(value)}**" if value and value.clear else shown(value)


# ---- what the tables are made from


def collect(output: Path, jobs: Sequence[Job]) -> results.Results:
    """The results of some jobs, whatever else is in the output folder: the accuracy of each.

    Raises:
        ValueError: files of these runs are damaged, or runs of a setting are not one experiment.
    """
    found = results.collect(output)
    wanted = {read_path(job.folder.relative_to(output)) for job in jobs}
    settings = {setting for setting, _ in wanted}
    wrong = [text for part in (found.damaged, found.problems) for key in part if key in settings for text in part[key]]
    if wrong:
        raise ValueError("\n".join(wrong))
    runs = [run for run in found.runs if (run.setting, run.seed) in wanted]
    only = [{name: {"accuracy": part["accuracy"]} for name, part in run.metrics.items()} for run in runs]
    return results.Results(
        [
            results.Run(run.setting, run.seed, run.folder, kept, run.load_routing)
            for run, kept in zip(runs, only, strict=True)
        ]
    )


def subset(found: results.Results, datasets: Sequence[str], tagged: bool = False) -> results.Results:
    """The runs on (or to) some data sets; only with the plain config unless `tagged`."""
    return results.Results(
        [
            run
            for run in found.runs
            if run.setting.place.dataset in datasets and (tagged or run.setting.config == CONFIG)
        ]
    )


@dataclass(frozen=True)
class Measured:
    """Everything that the page is made from.

    Attributes:
        found: all runs.
        tables: protocol -> table of the sets that averages are over (the shifted copies for their protocol).
        every: base-to-new and few-shot of all sets.
        ablations: base-to-new of MoCoOp's variants on the ablations' sets.
    """

    found: results.Results
    tables: Mapping[str, results.Table]
    every: Mapping[str, results.Table]
    ablations: results.Table

    def averages(self, protocol: str, method: str) -> tuple[results.Table, results.Row]:
        """A method's row of averages, and its table (of a transfer its one row, whose last cell is the average)."""
        table = self.tables[protocol]
        several = protocol in ("base2new", "fewshot")
        return table, next(row for row in table.rows if row.method == method and row.average == several)

    def cell(self, protocol: str, column: str, method: str) -> results.Cell:
        """A number of a row of averages."""
        table, row = self.averages(protocol, method)
        return table.cell(row, column)

    def difference(self, protocol: str, column: str, first: str, second: str) -> results.Difference | None:
        """First minus second of the averages, paired by seed."""
        table, row = self.averages(protocol, first)
        pairs = results.compare_rows(row, self.averages(protocol, second)[1])
        return pairs.differences[table.columns.index(column)]

    def variant(self, tag: str) -> results.Row:
        """The averages of an ablation; "" is the plain run."""
        config = f"{CONFIG}-{tag}" if tag else CONFIG
        return next(row for row in self.ablations.rows if row.average and row.config == config)

    def against(self, first: str, second: str) -> tuple[results.Difference | None, ...]:
        """Differences of two variants in base, new and H."""
        return results.compare_rows(self.variant(first), self.variant(second)).differences


def measure(found: results.Results) -> Measured:
    """The tables of the runs."""

    def table(part: results.Results, protocol: str) -> results.Table:
        return results.tables_of(part, protocol)[0]

    averaged = {name: table(subset(found, AVERAGED), name) for name in ("base2new", "fewshot", "cross_dataset")}
    averaged["domain_generalization"] = table(subset(found, (MAIN, *SHIFTED)), "domain_generalization")
    every = {name: table(subset(found, SETS), name) for name in ("base2new", "fewshot")}
    own = [run for run in subset(found, ABLATION_SETS, tagged=True).runs if run.setting.method == OURS]
    return Measured(found, averaged, every, table(results.Results(own), "base2new"))


# ---- tables


def average_table(m: Measured, protocol: str) -> str:
    """Methods x columns: the averages over data sets with their spread over seeds."""
    columns = m.tables[protocol].columns
    body = []
    for method in METHODS:
        table, row = m.averages(protocol, method)
        cells = [number(cell, row, name in table.plain) for cell, name in zip(row.cells, columns, strict=True)]
        body.append([method, *cells])
    return markdown(["Method", *columns], body)


def set_table(m: Measured, protocol: str, columns: Sequence[str]) -> str:
    """Data sets x methods, the given columns with slashes between."""
    table = m.every[protocol]
    body = []
    for dataset in SETS:
        cells = []
        for method in METHODS:
            row = next(row for row in table.rows if row.group[0] == dataset and row.method == method)
            cells.append(" / ".join(f"{table.cell(row, name).mean:.1f}" for name in columns))
        body.append([f"{dataset} (not averaged)" if dataset in HELD_OUT else dataset, *cells])
    return markdown(["Data set", *METHODS], body)


def difference_table(m: Measured, protocol: str) -> str:
    """MoCoOp minus each other method: paired differences of the averages with 95% intervals."""
    columns = m.tables[protocol].columns
    body = [
        [f"{OURS} - {other}", *(bold(m.difference(protocol, name, OURS, other)) for name in columns)]
        for other in METHODS
        if other != OURS
    ]
    return markdown(["Difference", *columns], body)


def ranks(values: Sequence[float]) -> list[float]:
    """The rank of each value, 1 for the highest; equal ones share the mean of their ranks."""
    return [
        sum(other > value for other in values) + (sum(other == value for other in values) + 1) / 2 for value in values
    ]


def mean_ranks(m: Measured, protocol: str, column: str) -> list[float]:
    """The mean rank of each method over the data sets that are averaged, by the means over seeds as printed."""
    table = m.tables[protocol]
    per_set = []
    for dataset in AVERAGED:
        rows = [
            next(row for row in table.rows if row.group[0] == dataset and row.method == method) for method in METHODS
        ]
        per_set.append(ranks([round(table.cell(row, column).mean, 2) for row in rows]))
    return [sum(column) / len(column) for column in zip(*per_set, strict=True)]


def rank_table(m: Measured) -> str:
    """Mean ranks of the methods."""
    what = [("base2new", name, name) for name in ("Base", "New", "H")]
    what += [("fewshot", name, name) for name in m.tables["fewshot"].columns]
    columns = [mean_ranks(m, protocol, name) for protocol, name, _ in what]
    body = [[method, *(f"{column[i]:.2f}" for column in columns)] for i, method in enumerate(METHODS)]
    return markdown(["Method", *(words for *_, words in what)], body)


def ablation_table(m: Measured) -> str:
    """Base, New and H of every variant, and its paired differences with 95% intervals."""
    columns = m.ablations.columns

    def cells(tag: str) -> list[str]:
        return ["-" if cell is None else f"{cell.mean:.2f}" for cell in m.variant(tag).cells]

    body = [["plain", *cells(""), *("" for _ in columns)]]
    for tag, words in ABLATIONS.items():
        body.append([words, *cells(tag), *map(bold, m.against(tag, AGAINST.get(tag, "")))])
    return markdown(["Variant", *columns, *(f"{name} difference" for name in columns)], body)


def published_table(m: Measured) -> str:
    """Differences from zero-shot CLIP here and in the published averages, and how alike the two orders are."""
    columns = ("Base", "New", "H")
    ours = {name: [m.cell("base2new", column, name).mean for column in columns] for name in PUBLISHED}
    theirs = {name: [entry.base, entry.new, entry.h] for name, entry in PUBLISHED.items()}
    zero = METHODS[0]
    body = []
    for name in PUBLISHED:
        if name != zero:
            pairs = zip(ours[name], ours[zero], theirs[name], theirs[zero], strict=True)
            body.append([f"{name} - {zero}", *(f"{a - b:+.1f} / {c - d:+.1f}" for a, b, c, d in pairs)])
    for words, values in (("Order here", ours), ("Order published", theirs)):
        orders = [sorted(values, key=lambda name, i=i: -values[name][i]) for i in range(3)]
        body.append([words, *(" > ".join(order) for order in orders)])
    names = list(PUBLISHED)
    two = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    alike = [sum((ours[a][i] - ours[b][i]) * (theirs[a][i] - theirs[b][i]) > 0 for a, b in two) for i in range(3)]
    body.append(["Pairs of methods in the same order", *(f"{count} of {len(two)}" for count in alike)])
    return markdown(["here / published", *columns], body)


# ---- claims


@dataclass(frozen=True)
class Claim:
    """A claim of a paper.

    Attributes:
        paper: whose.
        words: what it says, as a difference.
        sign: 1 if the difference should be positive, -1 if negative.
        of: the difference, from what is measured.
    """

    paper: str
    words: str
    sign: int
    of: Callable[[Measured], results.Difference | None]


def claim(paper: str, protocol: str, column: str, first: str, second: str, sign: int = 1) -> Claim:
    """A claim about the averages of two methods."""
    word = {"base2new": "base-to-new", "fewshot": "few-shot"}.get(protocol, protocol.replace("_", " "))
    words = f"{first} {'>' if sign > 0 else '<'} {second}: {word}, {column}"
    return Claim(paper, words, sign, lambda m: m.difference(protocol, column, first, second))


def part(words: str, column: str, with_it: str, without: str) -> Claim:
    """A claim of MoCoOp's paper about one of its parts."""
    at = ("Base", "New", "H").index(column)
    return Claim(OURS, f"{words}: ablation, {column}", 1, lambda m: m.against(with_it, without)[at])


CLAIMS = (
    claim("CoOp", "base2new", "Base", "CoOp", "ZeroshotCLIP"),
    claim("CoOp", "fewshot", "16 shots", "CoOp", "ZeroshotCLIP"),
    claim("CoCoOp", "base2new", "New", "CoOp", "ZeroshotCLIP", -1),
    *(claim(name, "base2new", "New", name, "CoOp") for name in ("CoCoOp", "KgCoOp", "LASP", OURS)),
    *(claim(name, "base2new", "H", name, "CoOp") for name in ("CoCoOp", "KgCoOp", "LASP")),
    claim("CoCoOp", "cross_dataset", "Average", "CoCoOp", "CoOp"),
    claim("CoCoOp", "domain_generalization", "Average", "CoCoOp", "CoOp"),
    *(claim(OURS, "base2new", "H", OURS, name) for name in METHODS if name != OURS),
    *(claim(OURS, "fewshot", column, OURS, "CoOp") for column in ("1 shot", "16 shots")),
    claim(OURS, "domain_generalization", "Average", OURS, "CoOp"),
    part("several experts > 1 expert", "H", "", "groups1"),
    part("2 experts > 1 expert", "H", "groups2", "groups1"),
    part("2 experts an image > 1 (TOPK)", "H", "", "topk1"),
    part("semantic groups > random groups", "H", "", "random"),
    part("gate loss > none", "H", "", "nogate"),
    part("text loss > none", "New", "", "notext"),
    part("text loss > none", "H", "", "notext"),
    part("correction vector > none", "H", "", "nocorrection"),
    part("tuned LayerNorms > frozen", "H", "images-ln", "images"),
)


def verdict(value: results.Difference | None, sign: int) -> str:
    """Whether a claim shows: its difference has the claimed sign and a 95% interval that excludes 0."""
    if value is None:
        return "not measured"
    if value.half_width is None:
        return "open (one seed)"
    if not value.clear:
        return "does not show"
    return "**shows**" if value.mean * sign > 0 else "does not show (the opposite does)"


def claim_table(m: Measured) -> str:
    """Every claim, what is measured, whether it shows."""
    body = []
    for one in CLAIMS:
        value = one.of(m)
        body.append([one.paper, one.words, shown(value), verdict(value, one.sign)])
    return markdown(["Paper", "Claim", "Difference measured", "Here"], body, left=2)


# ---- learning rates


def mean_rates(path: Path) -> dict[str, dict[float, float]]:
    """Method -> learning rate -> mean validation accuracy, from rates.csv; methods and rates in the file's order.

    Raises:
        ValueError: it is not such a file.
    """
    values: dict[str, dict[float, list[float]]] = {}
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != RATE_FIELDS:
            raise ValueError(f"{path}: expected the columns {','.join(RATE_FIELDS)}")
        for line in reader:
            values.setdefault(line["method"], {}).setdefault(float(line["rate"]), []).append(float(line["accuracy"]))
    return {name: {rate: sum(x) / len(x) for rate, x in rates.items()} for name, rates in values.items()}


def best_rates(means: Mapping[str, Mapping[float, float]]) -> dict[str, float]:
    """The learning rate of each method with the highest mean; of equal ones the smallest."""
    return {name: max(sorted(rates), key=lambda rate: rates[rate]) for name, rates in means.items()}


def rate_table(path: Path, used: Mapping[str, float]) -> str:
    """Methods x learning rates, the one that is used in bold; a sentence if there is no rates.csv."""
    if not path.is_file():
        return "Not measured yet (`bash scripts/demo/benchmark.sh --rates`)."
    means = mean_rates(path)
    rates = sorted({rate for row in means.values() for rate in row})
    body = []
    for name in [name for name in TRAINED if name in means]:
        cells = [f"{means[name][rate]:.1f}" if rate in means[name] else "-" for rate in rates]
        body.append(
            [name, *(f"**{c}**" if rate == used.get(name) else c for c, rate in zip(cells, rates, strict=True))]
        )
    return markdown(["Method", *(f"{rate:g}" for rate in rates)], body)


# ---- the page


def card_tables(card: str) -> list[str]:
    """The tables between the marks of what is measured in the text of the model card: properties, prompts alone, sets.

    Raises:
        ValueError: there are fewer.
    """
    found = MEASURED.search(card)
    tables = re.findall(r"(?:^\|.*\n?)+", found[1] if found else "", re.M)
    if len(tables) < 3:
        raise ValueError(f"{CARD}: expected three tables between the marks of what is measured, found {len(tables)}")
    return [table.rstrip() for table in tables]


def untrained_table(table: str, m: Measured) -> str:
    """The card's table of prompts alone, and below it what the same templates give MoCoOp, trained."""
    ours = [f"{m.cell('base2new', column, OURS).mean:.2f}" for column in ("Base", "New", "H")]
    ours += [f"{cell.mean:.2f}" for cell in m.variant("").cells]
    return f"{table}\n| {' | '.join([f'{OURS}, trained', *ours])} |"


def status(seeds: Mapping[str, Sequence[int]], runs: int, commit: str) -> str:
    """What the page is made of; `seeds`: the complete ones of each part."""
    which = "; ".join(f"{part} {' '.join(map(str, own))}" for part, own in seeds.items())
    alone = [part for part, own in seeds.items() if len(own) == 1]
    said = f" With one seed ({', '.join(alone)}) there are no spreads and no intervals." if alone else ""
    return f"The world was frozen by commit `{commit}`. Made from {runs:,} runs, seeds: {which}.{said}"


def blocks_of(m: Measured) -> dict[str, str]:
    """The generated tables by name."""
    protocols = ("base2new", "fewshot", "cross_dataset", "domain_generalization")
    return {
        **{protocol: average_table(m, protocol) for protocol in protocols},
        **{f"{protocol}-differences": difference_table(m, protocol) for protocol in protocols},
        "base2new-sets": set_table(m, "base2new", ("Base", "New", "H")),
        "fewshot-sets": set_table(m, "fewshot", m.every["fewshot"].columns),
        "ranks": rank_table(m),
        "ablations": ablation_table(m),
        "published": published_table(m),
        "claims": claim_table(m),
    }


def draw(m: Measured, folder: Path) -> None:
    """The figures.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figures.base_new_scatter(m.tables["base2new"], folder / "base2new_scatter.png")
    figures.h_bars(m.tables["base2new"], folder / "base2new_h.png")
    figures.fewshot_curves(m.tables["fewshot"], folder / "fewshot_curves.png")
    for protocol in ("cross_dataset", "domain_generalization"):
        figures.transfer_bars(m.tables[protocol], folder / f"{protocol}.png")
    against = [(f"{OURS} - {name}", m.difference("base2new", "H", OURS, name)) for name in METHODS if name != OURS]
    words = "difference in H of the averages, percentage points"
    figures.difference_plot(against, folder / "differences.png", words)
    variants = [(words, m.against(tag, AGAINST.get(tag, ""))[-1]) for tag, words in ABLATIONS.items()]
    figures.difference_plot(variants, folder / "ablations.png", words)
    routed = Setting(Place("base2new", BASE, MAIN, 16), OURS, CONFIG)
    figures.routing_by_class(m.found, routed, folder / "routing.png")


def make_page(
    output: Path,
    jobs: Sequence[Job],
    seeds: Mapping[str, Sequence[int]],
    commit: str,
    rates: Mapping[str, float],
    words: Path,
    folder: Path,
) -> None:
    """Write the page, its tables, figures and the CSV of every seed. All tables are made before anything is written.

    Args:
        output: of the runs.
        jobs: the runs that count, all finished.
        seeds: theirs, of each part.
        commit: the one that froze the world.
        rates: the learning rate that each method's config has.
        words: folder of the page with the hand-written words, and of rates.csv.
        folder: of the page; what is there under the same names is replaced.

    Raises:
        ValueError: a run's files are damaged.
        ImportError: matplotlib is not installed.
    """
    measured = measure(collect(output, jobs))
    blocks = blocks_of(measured)
    blocks["properties"], alone, _ = card_tables(CARD.read_text(encoding="utf-8"))
    blocks["untrained"] = untrained_table(alone, measured)
    blocks["status"] = status(seeds, len(measured.found.runs), commit)
    blocks["rates"] = rate_table(words / "rates.csv", rates)
    figures.new_figure(1, 1)  # fails before anything is written
    text = filled((words / "README.md").read_text(encoding="utf-8"), blocks)
    text = re.sub(r"<!-- figure (\S+): (.*?) -->", r"![\2](\1)", text)  # until they are drawn there is no link to them
    draw(measured, folder)
    write_text(results.csv_text(measured.found), folder / "results.csv")
    write_text(text, folder / "README.md")


def filled(text: str, blocks: Mapping[str, str]) -> str:
    """A page with each generated block between its markers, `<!-- NAME -->` ... `<!-- /NAME -->`.

    Raises:
        ValueError: the page has no place for a block, or several.
    """
    for name, block in blocks.items():
        marked = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- /{re.escape(name)} -->)", re.S)
        text, count = marked.subn(lambda found, block=block: f"{found[1]}\n{block}\n\n{found[2]}", text)
        if count != 1:
            raise ValueError(f"the page has {count} places for the block {name!r}, expected one")
    return text
