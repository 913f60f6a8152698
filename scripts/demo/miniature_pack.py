"""Make the data sets' drawings (`datasets/miniature/`) from the collected ones of the task side.

    python scripts/demo/miniature_pack.py --drawings output/miniature/drawings.npz --out datasets/miniature

One sheet (PNG) and one index (JSON) per data set. Training and test drawings of a class are by different designers.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from pathlib import Path

import numpy as np
from miniature_sources import SAME
from mocoop.datasets.miniature_classes import CLASSES
from PIL import Image

SEED, COLUMNS, SIDE = 1, 32, 64
LIMITS = {"train": 6, "test": 4}  # drawings of a class, where each style counts for itself in letters and scripts


def designers_of_test(designers: list[str], rng: random.Random) -> set[str]:
    """A third of a class's designers, at least one."""
    shuffled = sorted(designers)
    rng.shuffle(shuffled)
    return set(shuffled[: max(1, round(len(shuffled) / 3))])


def divided(domain: str, records: list[tuple[int, str, str, str]]) -> list[dict]:
    """Which drawings a data set uses, with class, designer, style and part.

    Args:
        domain: whose data set it is.
        records: number, name, designer and style of each drawing of the domain.
    """
    of_class: dict[tuple[str, str], list[tuple[int, str, str]]] = defaultdict(list)
    for number, name, designer, style in records:
        # the styles of letters are alphabets, drawn by different hands: each has its own division
        key = (name, style if domain in ("letter", "greek") else "")
        of_class[key].append((number, SAME.get(designer, designer), style))
    chosen = []
    for (name, group), drawings in sorted(of_class.items()):
        rng = random.Random(f"{SEED} {domain} {name} {group}")
        tested = designers_of_test(sorted({designer for _, designer, _ in drawings}), rng)
        for part in ("train", "test"):
            own = [drawing for drawing in drawings if (drawing[1] in tested) == (part == "test")]
            limit = LIMITS[part] if not group else LIMITS[part] // 2
            for number, designer, style in spread(own, limit, rng):
                chosen.append({"number": number, "name": name, "designer": designer, "style": style, "part": part})
    return chosen


def spread(drawings: list[tuple[int, str, str]], limit: int, rng: random.Random) -> list[tuple[int, str, str]]:
    """Up to `limit` drawings of as many designers and styles as there are: one of each in turn."""
    queues: dict[tuple[str, str], list] = defaultdict(list)
    for drawing in drawings:
        queues[drawing[1:]].append(drawing)
    order = sorted(queues)
    rng.shuffle(order)
    taken: list = []
    while len(taken) < limit and any(queues.values()):
        for key in order:
            if queues[key] and len(taken) < limit:
                taken.append(queues[key].pop(0))
    return taken


def sheet(art: np.ndarray) -> Image.Image:
    """Drawings side by side: grey coverage with 16 levels if all have one colour, else 255 colours with alpha.

    Args:
        art: RGBA, uint8 [N, 64, 64, 4].
    """
    rows = -(-len(art) // COLUMNS)
    canvas = np.zeros((rows * SIDE, COLUMNS * SIDE, 4), np.uint8)
    for index, picture in enumerate(art):
        y, x = SIDE * (index // COLUMNS), SIDE * (index % COLUMNS)
        canvas[y : y + SIDE, x : x + SIDE] = picture
    if (art[..., :3].max(-1) * (art[..., 3] > 127)).max() < 40:
        return Image.fromarray((canvas[..., 3].astype(int) * 15 // 255 * 17).astype(np.uint8))
    return Image.fromarray(canvas).quantize(255, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drawings", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with np.load(args.drawings) as data:
        records, pictures = data["records"].tolist(), data["pictures"]
    for domain, names in CLASSES.items():
        own = [
            (k, name, designer, style)
            for k, (of, name, designer, style, side) in enumerate(records)
            if of == domain and side == "task" and name in names
        ]
        chosen = divided(domain, own)
        for part in ("train", "test"):
            if missing := set(names) - {c["name"] for c in chosen if c["part"] == part}:
                raise SystemExit(f"{domain}: no {part} drawings of {sorted(missing)}")
        sheet(pictures[[c["number"] for c in chosen]]).save(args.out / f"{domain}.png", optimize=True)
        index = [[c["name"], c["designer"], c["style"], c["part"]] for c in chosen]
        lines = ",\n".join(json.dumps(row) for row in index)
        (args.out / f"{domain}.json").write_text(f"[\n{lines}\n]\n")
        print(domain, len(names), "classes", len(chosen), "drawings", (args.out / f"{domain}.png").stat().st_size)


if __name__ == "__main__":
    main()
