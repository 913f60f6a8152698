"""The study on the demo world: what is run, and the page docs/demo_study/README.md that is made from it.

    bash scripts/demo/study.sh          # run what is not finished yet (all: 158 minutes of one core), then the page
    python scripts/demo/study.py --page # only the page, from finished runs; nothing is written while some are lacking

Five methods, four protocols, five seeds, and MoCoOp's ablations in base-to-new. Finished runs in the output folder,
those of scripts/demo.sh among them, are not repeated. The page's words are written by hand; its tables (between
markers), figures and the CSV of every seed are generated.
"""

import argparse
import os
import re
import runpy
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ in ("__main__", "__mp_main__"):
    runpy.run_path(str(ROOT / "checkout.py"))["bind_package"]()

from mocoop import config, methods, results  # noqa: E402 (after the guard)
from mocoop.commands.protocol import from_environment, run_all  # noqa: E402
from mocoop.results.render import difference  # noqa: E402
from mocoop.runs.folder import is_finished  # noqa: E402
from mocoop.runs.pool import Job  # noqa: E402
from mocoop.runs.protocols import PROTOCOLS, Experiment, Settings, method_named  # noqa: E402
from mocoop.toolbox.dassl.utils import cores, write_text  # noqa: E402

COMPARED = [row.script for row in methods.OURS if row.compared]
DATASET, SEEDS = "demo_icons", (1, 2, 3, 4, 5)
PAGE = ROOT / "docs/demo_study"
GROUPS = config.read_yaml(ROOT / f"configs/datasets/{DATASET}.yaml")["TRAINER.MOCOOP.PROMPT_GROUPS"]


def regrouped(*parts: Sequence[int]) -> list[list[str]]:
    """The six template groups merged into fewer, each part a list of their numbers."""
    return [[template for group in part for template in GROUPS[group]] for part in parts]


def split_groups() -> list[list[str]]:
    """Eight groups: the first two of the six are split into their two templates."""
    return [[template] for group in GROUPS[:2] for template in group] + GROUPS[2:]


def groups(value: list[list[str]]) -> dict[str, object]:
    """The option that replaces the template groups."""
    return {"PROMPT_GROUPS": value}


IMAGES_EACH_STEP = {"INPUT.FEATURE_VIEWS": 0}
# Tag -> (what it is, options; a key without a dot is one of TRAINER.MOCOOP). The plain run has 6 groups, TOPK 2, frozen
# LayerNorms and stored views; the two variants that encode images in each step are compared with each other.
ABLATIONS: dict[str, tuple[str, dict[str, object]]] = {
    "topk1": ("TOPK 1", {"TOPK": 1}),
    "topk6": ("TOPK 6 (all experts)", {"TOPK": 6}),
    "nogate": ("no gate loss", {"GATE_LOSS_WEIGHT": 0.0}),
    "notext": ("no text loss", {"TEXT_LOSS_WEIGHT": 0.0}),
    "novirtual": ("VIRTUAL_CLASSES False", {"VIRTUAL_CLASSES": False}),
    "groups1": ("1 group", groups(regrouped(range(6)))),
    "groups2": ("2 groups", groups(regrouped((0, 1, 2), (3, 4, 5)))),
    "groups4": ("4 groups", groups(regrouped((0,), (1, 2), (3,), (4, 5)))),
    "groups8": ("8 groups", groups(split_groups())),
    "authors": ("authors' numerics", {"GATE_TARGET": "authors", "TEXT_LOGIT_SCALE": 1.0}),
    "gate1": ("GATE_TARGET_SCALE 1", {"GATE_TARGET_SCALE": 1.0}),
    "gate10": ("GATE_TARGET_SCALE 10", {"GATE_TARGET_SCALE": 10.0}),
    "images": ("images encoded in each step", IMAGES_EACH_STEP),
    "images-ln": ("the same, LayerNorms tuned", {**IMAGES_EACH_STEP, "FINETUNE_VIT_LN": True}),
}
AGAINST = {"images-ln": "images"}  # every other variant is compared with the plain run


def options_of(tag: str) -> tuple[str, ...]:
    """The KEY VALUE words of an ablation."""
    pairs = ABLATIONS[tag][1].items()
    return tuple(word for key, value in pairs for word in (key if "." in key else f"TRAINER.MOCOOP.{key}", str(value)))


def plan(settings: Settings, seeds: Sequence[int] = SEEDS) -> list[Job]:
    """All runs, those first that the others and the README need."""
    experiments = [Experiment(method_named(name), DATASET, seed, settings) for name in COMPARED for seed in seeds]
    jobs = [job for experiment in experiments for job in PROTOCOLS["base2new"](experiment)]
    for tag in ABLATIONS:
        own = replace(settings, tag=tag)
        for seed in seeds:
            jobs += PROTOCOLS["base2new"](Experiment("MoCoOp", DATASET, seed, own, options_of(tag)))
    experiments.sort(key=lambda experiment: experiment.method == "CoCoOp")  # by far the slowest comes last
    for name in ("cross_dataset", "domain_generalization", "fewshot"):
        jobs += [job for experiment in experiments for job in PROTOCOLS[name](experiment)]
    return list(dict.fromkeys(jobs))  # both transfers have the same sources


def against_plain(table: results.Table) -> list[tuple[str, str, results.Comparison]]:
    """The ablations that have runs, in order: tag, words, and the differences from what it is compared with."""
    rows = []
    for tag, (words, _) in ABLATIONS.items():
        base = f"MoCoOp/demo{'-' + AGAINST[tag] if tag in AGAINST else ''}"
        rows += [(tag, words, found) for found in results.compare(table, f"MoCoOp/demo-{tag}", base)]
    return rows


def ablation_table(table: results.Table) -> str:
    """Base, New and H of every variant, and its paired differences with 95% intervals, in Markdown."""

    def cells(config: str) -> list[str]:
        row = table.row((DATASET, "16"), "MoCoOp", config)
        found = [table.cell(row, name) for name in table.columns]
        return ["-" if cell is None else f"{cell.mean:.2f}" for cell in found]

    head = ["Variant", *table.columns, *(f"{name} difference" for name in table.columns)]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), ["plain (6 groups, TOPK 2)", *cells("demo"), "", "", ""]]
    for tag, words, comparison in against_plain(table):
        shown = [f"**{difference(one)}**" if one and one.clear else difference(one) for one in comparison.differences]
        lines.append([words, *cells(f"demo-{tag}"), *shown])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def comparison_table(table: results.Table) -> str:
    """MoCoOp against each other method: paired differences with 95% intervals, in Markdown."""
    found = [
        comparison
        for method in ("ZeroshotCLIP", "CoOp", "CoCoOp", "LASP")
        for comparison in results.compare(table, "MoCoOp/demo", f"{method}/demo")
    ]
    return results.render_comparisons(table, found, "markdown")


def plain_only(table: results.Table) -> results.Table:
    """A table without the ablations' rows."""
    return replace(table, rows=[row for row in table.rows if row.config == "demo"])


def check_finished(jobs: Sequence[Job], output: Path) -> None:
    """Refuse a page of a part of the study: it would replace the whole one's numbers.

    Raises:
        ConfigError: some of the jobs are not finished; says how many, and the first.
    """
    lacking = [job.folder for job in jobs if not is_finished(job.folder)]
    if lacking:
        raise config.ConfigError(
            [
                f"{len(lacking)} of the study's {len(jobs)} runs are not finished, e.g. {lacking[0]}; no page is made.",
                "Run them with: bash scripts/demo/study.sh",
                f"Tables of what is there: python -m mocoop.results {output} --dataset {DATASET}",
            ]
        )


def make_page(output: Path, folder: Path) -> None:
    """Write the page, its tables, figures and the CSV of every seed. Everything is made before anything is written.

    Args:
        output: of the runs, all of which are finished.
        folder: of the page; what is there under the same names is replaced.

    Raises:
        ValueError: a run's files are damaged.
        ImportError: matplotlib is not installed.
    """
    found = results.collect(output, DATASET)
    if found.errors():
        raise ValueError("\n".join(found.errors()))
    tables = [table for name in results.PROTOCOLS for table in results.tables_of(found, name)]
    everything = next(table for table in tables if table.protocol == "base2new")
    blocks = {table.protocol: results.render_table(plain_only(table), "markdown") for table in tables}
    blocks |= {f"{table.protocol}-differences": comparison_table(table) for table in tables}
    blocks |= {"ablations": ablation_table(everything)}
    differences = [(words, comparison.differences[-1]) for _, words, comparison in against_plain(everything)]  # of H
    results.figures.draw_all(found, folder, tables)
    results.figures.difference_plot(differences, folder / "ablations.png", "difference in H, percentage points")
    write_text(results.csv_text(found), folder / "results.csv")
    write(folder / "README.md", (PAGE / "README.md").read_text(encoding="utf-8"), blocks)


def write(path: Path, text: str, blocks: dict[str, str]) -> None:
    """Write a page, with each generated block between its markers.

    Args:
        path: of the page.
        text: with `<!-- NAME -->` ... `<!-- /NAME -->` where blocks go.
        blocks: name -> Markdown.
    """
    for name, block in blocks.items():
        marked = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- /{re.escape(name)} -->)", re.S)
        text = marked.sub(lambda found, block=block: f"{found[1]}\n{block}\n\n{found[2]}", text)
    write_text(text, path)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study and write its page; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--page", action="store_true", help="only write the page, from finished runs")
    parser.add_argument("--folder", type=Path, default=PAGE, help="where the page goes")
    args = parser.parse_args(argv)
    try:
        settings = from_environment(os.environ)
        jobs = plan(settings)
        if args.page:
            check_finished(jobs, settings.output)
        elif code := run_all(jobs, settings.jobs or min(cores(), 4)):
            return code
        make_page(settings.output, args.folder)
    except config.ConfigError as error:
        print("Error: " + "\n".join(error.problems), file=sys.stderr)
        return 1
    except (ValueError, ImportError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    print(f"Written: {args.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
