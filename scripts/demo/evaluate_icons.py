"""Size of the demo backbone, and its zero-shot accuracy per demo data set, half, effect and designer.

    python scripts/demo/evaluate_icons.py --root data --card clip/demo/MODEL_CARD.md

prints Markdown tables and, with --card, puts them between the "measured" marks of that file.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mocoop.clip.demo_model import WEIGHTS, load_demo
from mocoop.clip.preprocess import DEMO_PREPROCESS
from mocoop.datasets import demo_icons, splits
from open_clip import CLIP, get_tokenizer
from PIL import Image
from tabulate import tabulate
from torch import Tensor

TEMPLATES = ("an icon of a {}.", "a photo of a {}.", "{}")
BEGIN, END = "<!-- measured by scripts/demo/evaluate_icons.py -->", "<!-- end of measured -->"


@torch.no_grad()
def image_features(model: CLIP, paths: Sequence[Path], chunk: int = 250) -> Tensor:
    """Normalised features of images that already have the backbone's size, [N, D]."""
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (DEMO_PREPROCESS.mean, DEMO_PREPROCESS.std))
    features = []
    for start in range(0, len(paths), chunk):
        pixels = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths[start : start + chunk]])
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        features.append(model.encode_image((images - mean) / std, normalize=True))
    return torch.cat(features)


@torch.no_grad()
def text_features(model: CLIP, template: str, names: Sequence[str]) -> Tensor:
    """Normalised features of one template for every class name, [C, D]."""
    return model.encode_text(get_tokenizer("ViT-B-32")([template.format(name) for name in names]), normalize=True)


def hits(features: Tensor, text: Tensor, labels: Tensor, classes: range) -> Tensor:
    """For the images whose label is among `classes`: whether the nearest of these classes is theirs."""
    chosen = torch.tensor([label in classes for label in labels.tolist()])
    guess = (features[chosen] @ text[classes.start : classes.stop].T).argmax(1) + classes.start
    return guess == labels[chosen]


def percent(right: Tensor) -> float:
    """Share of true entries in percent."""
    return 100 * right.float().mean().item()


def sizes(model: CLIP, weights: Path) -> str:
    """Parameter counts and the size of the weights file, as one Markdown line."""
    table = model.token_embedding.weight
    rows = int((table.detach().abs().sum(1) > 0).sum())
    vision = sum(p.numel() for p in model.visual.parameters())
    stem = sum(p.numel() for p in model.visual.conv1.parameters())
    text = sum(p.numel() for p in model.parameters()) - vision - table.numel()
    return (
        f"Parameters: image tower {vision:,} (of these the stem {stem:,}), text tower {text:,}, token embedding "
        f"{rows * table.shape[1]:,} ({rows:,} stored rows of {len(table):,}). Weights file: "
        f"{weights.stat().st_size / 1e6:.2f} MB. Logit scale: {model.logit_scale.exp().item():.1f}."
    )


def measure(model: CLIP, root: Path) -> str:
    """The two tables of the model card, as Markdown."""
    halves, details = [], defaultdict(dict)
    for name, recipe in demo_icons.RECIPES.items():
        folder = demo_icons.make(name, root)
        items = splits.read_split(folder / f"split_zhou_{name}.json", folder / "images").test
        features = image_features(model, [folder / "images" / item.path for item in items])
        labels, names = torch.tensor([item.label for item in items]), sorted(recipe.names)
        count, half = len(names), (len(names) + 1) // 2
        for template in TEMPLATES:
            text = text_features(model, template, names)
            parts = (range(count), range(half), range(half, count))
            row = [f"{percent(hits(features, text, labels, part)):.1f}" for part in parts]
            halves.append([name, f"`{template}`", count, len(items), *row])
        right = hits(features, text_features(model, TEMPLATES[0], names), labels, range(count))
        pictures = [item.path.rsplit("/", 1)[1].removesuffix(".png").split("_") for item in items]
        for kind, key in (("effect", lambda words: words[4]), ("designer", lambda words: words[2])):
            for value in sorted({key(words) for words in pictures}):
                chosen = right[[key(words) == value for words in pictures]]
                details[f"{kind} {value}"][name] = f"{percent(chosen):.1f} ({len(chosen)})"
    first = tabulate(
        halves,
        ["data set", "template", "classes", "test images", "all classes", "base half", "new half"],
        "pipe",
        disable_numparse=True,
    )
    sets = [name for name, recipe in demo_icons.RECIPES.items() if recipe.counts[0]]
    rows = [[key, *(values.get(name, "") for name in sets)] for key, values in sorted(details.items())]
    rows = [row for row in rows if any(row[1:])]
    second = tabulate(rows, ["", *sets], "pipe", disable_numparse=True)
    return f"{first}\n\nBy effect and designer, `{TEMPLATES[0]}`, all classes (in brackets: images):\n\n{second}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data"), help="data root; missing sets are drawn")
    parser.add_argument("--weights", type=Path, help="another weights file than the package's")
    parser.add_argument("--card", type=Path, help="Markdown file to put the tables into")
    args = parser.parse_args()
    model = load_demo(args.weights)
    tables = f"{sizes(model, args.weights or WEIGHTS)}\n\n{measure(model, args.root)}"
    print(tables)
    if args.card:
        before, rest = args.card.read_text().split(BEGIN)
        args.card.write_text(f"{before}{BEGIN}\n\n{tables}\n\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
