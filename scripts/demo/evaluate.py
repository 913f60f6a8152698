"""The properties of the miniature world, as a table: what was asked of it before it was built, and what is measured.

    python scripts/demo/evaluate.py --root data --output output --card clip/miniature/MODEL_CARD.md

prints Markdown and, with --card, puts it between the "measured" marks of that file. Zero-shot numbers are computed
here. CoOp's are read from finished runs below --output, made by

    SHOTS="1 16" bash scripts/run_protocol.sh fewshot DATASET coop "1 2 3"
    bash scripts/run_protocol.sh base2new DATASET coop "1 2 3"

for every data set (configs/datasets/mini_*.yaml); until all have them P5 and P6 stay open.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from benchmark_plan import ABLATION_SETS, AVERAGED, groups_of
from evaluate_icons import percent, sizes
from mocoop.clip.miniature_model import WEIGHTS, load_miniature
from mocoop.clip.preprocess import DEMO_PREPROCESS
from mocoop.datasets import miniature, splits
from open_clip import CLIP, get_tokenizer
from PIL import Image
from tabulate import tabulate
from torch import Tensor

PHOTO, CONFIG = "a photo of a {}.", "miniature"
BEGIN, END = "<!-- measured by scripts/demo/evaluate.py -->", "<!-- end of measured -->"
SETS = {name: recipe for name, recipe in miniature.RECIPES.items() if recipe.counts[0]}
SHIFTS = [name for name in miniature.RECIPES if name not in SETS]
# Domains whose names mean the same: an icon of a bell and the emoji of a bell. Icon sets also draw brands.
RELATED = {"thing": {"emoji"}, "emoji": {"thing"}, "logo": {"thing"}}
DISPUTABLE = {"braille", "logo"}  # a letter in Braille is the same letter; many logos are drawings of their name
NEAR = 0.97  # cosine of two drawings that look the same
COLOURFUL = ("emoji", "flag", "logo")  # compared by colours on white, the others by where there is ink
ALONE = [f"{what}, {which}" for which in ("averaged sets", "ablations' sets") for what in ("base", "new", "H")]
OWN, AVERAGE, BEST = "the set's own template", "MoCoOp's templates, averaged", "the best of MoCoOp's groups"


@dataclass(frozen=True)
class Measured:
    """What is measured on one data set; accuracies in percent on the test images of all classes.

    Attributes:
        classes: their number.
        shared, strictly: percent of names that mean something else in another domain, and in one not of DISPUTABLE.
        own, photo, ensemble: accuracy with the set's template, with "a photo of a {}.", with the mean of the set's
            template and those of its looks.
        looks: look -> accuracy of its images with its own template, and on average over the templates of all looks.
        base, new: accuracy with the set's template on either half, among the classes of that half.
        untrained: what prompts give without training (OWN, AVERAGE, BEST) -> accuracy on either half.
        copies, drawings: test drawings that look like a training drawing of their class, and all of them.
    """

    classes: int
    shared: float
    strictly: float
    own: float
    photo: float
    ensemble: float
    looks: dict[str, tuple[float, float]]
    base: float
    new: float
    untrained: dict[str, tuple[float, float]]
    copies: int
    drawings: int

    @property
    def interaction(self) -> float:
        """Mean over looks of: own template minus average template."""
        return float(np.mean([own - average for own, average in self.looks.values()]))


@torch.no_grad()
def image_features(model: CLIP, paths: Sequence[Path], chunk: int = 250) -> Tensor:
    """Normalised features of images that already have the backbone's size, [N, D]."""
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (DEMO_PREPROCESS.mean, DEMO_PREPROCESS.std))
    features = []
    for start in range(0, len(paths), chunk):
        pixels = np.stack([np.asarray(Image.open(path)) for path in paths[start : start + chunk]])
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        features.append(model.encode_image((images - mean) / std, normalize=True))
    return torch.cat(features)


@torch.no_grad()
def text_features(model: CLIP, template: str, names: Sequence[str]) -> Tensor:
    """Normalised features of one template for every class name, [C, D]."""
    return model.encode_text(get_tokenizer("ViT-B-32")([template.format(name) for name in names]), normalize=True)


def vocabulary(path: Path) -> dict[str, set[str]]:
    """Name -> the domains that have it, in pretraining or as a class."""
    domains = defaultdict(set)
    for known in (json.loads(path.read_text()), miniature.CLASSES):
        for domain, names in known.items():
            for name in names:
                domains[name].add(domain)
    return domains


def shared_names(domain: str, domains: dict[str, set[str]], without: Collection[str] = ()) -> float:
    """Percent of a data set's names that mean something else in an unrelated domain; some domains do not count."""
    own = {domain} | RELATED.get(domain, set()) | set(without)
    names = miniature.CLASSES[domain]
    return 100 * sum(bool(domains[name] - own) for name in names) / len(names)


def measure(model: CLIP, name: str, root: Path, domains: dict[str, set[str]]) -> Measured:
    """Zero-shot accuracies of a data set."""
    recipe, folder = miniature.RECIPES[name], miniature.make(name, root)
    items = splits.read_split(folder / f"split_zhou_{name}.json", folder / "images").test
    features = image_features(model, [folder / "images" / item.path for item in items])
    labels, names = torch.tensor([item.label for item in items]), sorted(miniature.CLASSES[recipe.domain])
    half = (len(names) + 1) // 2

    def accuracy(text: Tensor, chosen: Tensor, first: int = 0) -> float:
        return percent((features[chosen] @ text.T).argmax(1) + first == labels[chosen])

    everything, base = torch.ones(len(items), dtype=torch.bool), labels < half
    own, photo = (text_features(model, template, names) for template in (recipe.template, PHOTO))
    of_look = {look.name: text_features(model, look.template, names) for look in recipe.looks}
    seen = [Path(item.path).name.split("_")[3] for item in items]
    looks = {}
    for look, text in of_look.items():
        chosen = torch.tensor([other == look for other in seen])
        average = np.mean([accuracy(other, chosen) for other in of_look.values()])
        looks[look] = (accuracy(text, chosen), float(average))
    of_group = group_features(model, recipe.folder, names)
    banks = {OWN: own[None], AVERAGE: averaged(of_group), BEST: torch.stack([averaged(group)[0] for group in of_group])}
    untrained = {}
    for what, bank in banks.items():
        best = torch.einsum("nd,gcd->gnc", features, bank).amax(0)
        halves = ((base, best[:, :half], 0), (~base, best[:, half:], half))
        untrained[what] = tuple(percent(s[of].argmax(1) + first == labels[of]) for of, s, first in halves)
    return Measured(
        len(names),
        shared_names(recipe.domain, domains),
        shared_names(recipe.domain, domains, DISPUTABLE),
        accuracy(own, everything),
        accuracy(photo, everything),
        accuracy(F.normalize(torch.stack([own, *of_look.values()]).mean(0), dim=-1), everything),
        looks,
        accuracy(own[:half], base),
        accuracy(own[half:], ~base, half),
        untrained,
        *near_copies(recipe.domain),
    )


def group_features(model: CLIP, folder: str, names: Sequence[str]) -> list[list[Tensor]]:
    """The features [C, D] of each template of each of MoCoOp's groups of a data set."""
    return [[text_features(model, template, names) for template in group] for group in groups_of(folder)]


def averaged(features: Sequence) -> Tensor:
    """The normalised mean [1, C, D] of features [C, D], listed or in lists."""
    every = [one for part in features for one in (part if isinstance(part, list) else [part])]
    return F.normalize(torch.stack(every).mean(0), dim=-1)[None]


def near_copies(domain: str) -> tuple[int, int]:
    """How many test drawings look the same (NEAR) as a training drawing of their class, and how many there are."""
    known = miniature.drawings(domain)
    art = torch.from_numpy(miniature.sheet(domain)[0]).float() / 255
    ink = (1 - art[..., :3]) * art[..., 3:] if domain in COLOURFUL else art[..., 3]
    ink = F.normalize(ink.flatten(1), dim=1)
    sides = defaultdict(lambda: {"train": [], "test": []})
    for index, (name, _, _, side) in enumerate(known):
        sides[name][side].append(index)
    closest = [float((ink[test] @ ink[of["train"]].T).max()) for of in sides.values() for test in of["test"]]
    return sum(cosine > NEAR for cosine in closest), len(closest)


def coop(output: Path, place: str, dataset: str, shots: int) -> float | None:
    """Mean accuracy (%) of CoOp's finished runs over seeds; None if there is none."""
    folder = output / place / dataset / f"shots_{shots}" / "CoOp" / CONFIG
    found = [json.loads(path.read_text())["test"]["accuracy"] for path in sorted(folder.glob("seed*/results.json"))]
    return float(np.mean(found)) if found else None


def gains(measured: dict[str, Measured], output: Path) -> dict[str, list[float | None]]:
    """CoOp minus zero-shot with the set's template: 16 shots, 1 shot, base classes, new classes."""
    result = {}
    for name, m in measured.items():
        folder = miniature.RECIPES[name].folder
        cells = (
            (coop(output, "fewshot", folder, 16), m.own),
            (coop(output, "fewshot", folder, 1), m.own),
            (coop(output, "base2new/train_base", folder, 16), m.base),
            (coop(output, "base2new/test_new", folder, 16), m.new),
        )
        result[name] = [None if found is None else found - zero for found, zero in cells]
    return result


def disjoint(recipe: miniature.Recipe) -> bool:
    """Whether no designer draws a class (in one style) for both training and test images."""
    sides = defaultdict(set)
    for name, designer, style, part in miniature.drawings(recipe.domain):
        sides[name, designer, style if recipe.domain in ("letter", "greek") else ""].add(part)
    return all(len(parts) == 1 for parts in sides.values())


def properties(measured: dict[str, Measured], gained: dict[str, list[float | None]]) -> list[list[str]]:
    """Rows of the table: property, what was asked, what is measured, whether it holds."""
    ms = list(measured.values())
    right = [20 <= m.classes <= 60 for m in ms] + [r.counts[0] >= 24 and r.counts[2] >= 10 for r in SETS.values()]
    right += [disjoint(recipe) for recipe in SETS.values()]
    copies, drawings = sum(m.copies for m in ms), sum(m.drawings for m in ms)
    shared, strictly = [m.shared > 50 for m in ms], [m.strictly > 50 for m in ms]
    context = [m.own - m.photo for m in ms]
    ensemble, zero = np.mean([m.ensemble - m.own for m in ms]), np.mean([m.own for m in ms])
    low, high = min(m.own for m in ms), max(m.own for m in ms)
    rows = [
        ["P1", "8 or more sets of 20 to 60 classes, 24 + 10 images a class, disjoint shapes; 3 shifts",
         f"{len(ms)} sets, {len(SHIFTS)} shifts, disjoint designers; but {copies:,} of {drawings:,} test drawings look "
         "the same as a training one",
         len(ms) >= 8 and all(right) and len(SHIFTS) == 3 and ("in part" if copies else True)],
        ["P2", "in half of the sets most names mean something else elsewhere",
         f"{sum(shared)} of {len(ms)} sets; not counting logos and Braille {sum(strictly)}",
         sum(shared) >= len(ms) / 2 and (sum(strictly) >= len(ms) / 2 or "in part")],
        ["P3", "own template against `a photo of a {}.`: +5 on average, +3 on half of the sets; an ensemble gains",
         f"{np.mean(context):+.1f}; {sum(c >= 3 for c in context)} of {len(ms)} sets; {ensemble:+.1f}",
         np.mean(context) >= 5 and sum(c >= 3 for c in context) >= len(ms) / 2 and ensemble > 0],
        ["P4", "zero-shot 45 to 65 on average, no set below 15 or above 90",
         f"{zero:.1f}, from {low:.1f} to {high:.1f}", 45 <= zero <= 65 and low >= 15 and high <= 90],
    ]  # fmt: skip
    many, one, base, new = zip(*gained.values(), strict=True)
    rows += [
        ["P5", "CoOp gains 8 with 16 shots, loses at most 3 with 1",
         *compared(many, one, lambda a, b: a >= 8 and b >= -3)],
        ["P6", "CoOp gains 5 on base classes and loses on new ones",
         *compared(base, new, lambda a, b: a >= 5 and b < 0)],
        ["P7", "a look's own template against the average of the looks' templates: +2",
         f"{np.mean([m.interaction for m in ms]):+.1f}", np.mean([m.interaction for m in ms]) >= 2],
    ]  # fmt: skip
    words = {"True": "yes", "False": "no", "None": ""}
    return [[*row[:3], words.get(str(row[3]), row[3])] for row in rows]


def compared(
    first: Sequence[float | None], second: Sequence[float | None], holds: Callable[[float, float], bool]
) -> tuple[str, bool | None]:
    """Two mean gains over the data sets that have runs, as text, and whether they are what was asked.

    That is left open (None) until every data set has its runs.
    """
    pairs = [pair for pair in zip(first, second, strict=True) if None not in pair]
    if not pairs:
        return "not run", None
    a, b = np.mean(pairs, axis=0)
    if len(pairs) < len(first):
        return f"{a:+.1f}, {b:+.1f} on {len(pairs)} of {len(first)} sets", None
    return f"{a:+.1f}, {b:+.1f}", holds(a, b)


def without_training(measured: dict[str, Measured]) -> list[list[str]]:
    """Rows: what prompts give alone; base, new and H of the two for the averaged sets, then for the ablations' sets."""
    by_folder = {miniature.RECIPES[name].folder: m.untrained for name, m in measured.items()}
    rows = {what: [what] for what in by_folder[AVERAGED[0]]}
    for what, row in rows.items():
        for folders in (AVERAGED, ABLATION_SETS):
            base, new = np.mean([by_folder[folder][what] for folder in folders], axis=0)
            row += [f"{base:.2f}", f"{new:.2f}", f"{2 * base * new / (base + new):.2f}"]
    return list(rows.values())


def details(measured: dict[str, Measured], gained: dict[str, list[float | None]]) -> list[list[str]]:
    """Rows per data set."""
    rows = []
    for name, m in measured.items():
        zero = [f"{x:.1f}" for x in (m.photo, m.own, m.ensemble, m.interaction, m.base, m.new)]
        zero.insert(0, f"{m.copies} of {m.drawings}")
        moved = ["" if x is None else f"{x:+.1f}" for x in gained.get(name, [None] * 4)]
        rows.append([name, m.classes, f"{m.shared:.0f}", *zero, *moved])
    return rows


def report(model: CLIP, weights: Path, root: Path, output: Path) -> str:
    """Everything, as Markdown."""
    domains = vocabulary(WEIGHTS.with_name("vocabulary.json"))
    measured = {name: measure(model, name, root, domains) for name in SETS}
    gained = gains(measured, output)
    shifts = {name: measure(model, name, root, domains) for name in SHIFTS}
    head = ["data set", "classes", "shared names %", "copies", "photo", "own", "ensemble", "look +", "base", "new"]
    head += ["CoOp 16", "CoOp 1", "CoOp base", "CoOp new"]
    head_of_table = ["", "asked", "measured", "holds"]
    return "\n\n".join(
        [
            sizes(model, weights),
            tabulate(properties(measured, gained), head_of_table, "pipe", disable_numparse=True),
            f"Prompts alone, nothing trained. Means over {len(AVERAGED)} sets, which the benchmark averages, and over "
            f"the {len(ABLATION_SETS)} of its ablations:",
            tabulate(without_training(measured), ["", *ALONE], "pipe", disable_numparse=True),
            "Test drawings that look the same as a training one of their class; zero-shot accuracy by template, the "
            "gain of a look's own template, either half; CoOp minus zero-shot:",
            tabulate(details({**measured, **shifts}, gained), head, "pipe", disable_numparse=True),
        ]
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data"), help="data root; missing sets are drawn")
    parser.add_argument("--output", type=Path, default=Path("output"), help="folder with CoOp's runs")
    parser.add_argument("--weights", type=Path, help="another weights file than the package's")
    parser.add_argument("--card", type=Path, help="Markdown file to put the tables into")
    args = parser.parse_args()
    tables = report(load_miniature(args.weights), args.weights or WEIGHTS, args.root, args.output)
    print(tables)
    if args.card:
        before, rest = args.card.read_text().split(BEGIN)
        args.card.write_text(f"{before}{BEGIN}\n\n{tables}\n\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
