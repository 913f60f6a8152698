"""`mocoop explain RUN [IMAGES]`: what the prompts have become, and why images are answered as they are."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import add_reading, add_run, open_run, positive

if TYPE_CHECKING:
    from ..classifier.classifier import Classifier
    from ..classifier.experts import Routing
    from ..classifier.images import Skipped

SHOWN = 8  # prompts whose words are printed: with vectors for each class there are as many as classes
NAME = "explanation.json"


def build_parser() -> argparse.ArgumentParser:
    """The arguments."""
    parser = argparse.ArgumentParser(
        prog="mocoop explain",
        description="Without images: the words nearest to every context vector, and how images are routed. With "
        "images: the experts of each, their weights, what each would answer alone, and the answer without it.",
    )
    add_run(parser)
    parser.add_argument("pictures", metavar="IMAGE", nargs="*", help="an image, or a folder of images")
    parser.add_argument("--maps", metavar="DIR", type=Path, help="write similarity maps of the IMAGEs here (ViT)")
    parser.add_argument(
        "--images",
        metavar="FOLDER",
        help="labelled images, a folder for each class: routing by class, and accuracy with each expert left out",
    )
    parser.add_argument("--words", type=positive, default=5, help="words for each vector (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all of it to this file")
    parser.add_argument("--out", metavar="DIR", type=Path, help=f"write {NAME} and a sheet of pictures per expert here")
    add_reading(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Explain; returns the exit code, 1 if an image could not be read."""
    args = build_parser().parse_args(argv)
    if args.maps and not args.pictures:
        build_parser().error("--maps needs images to map: mocoop explain RUN IMAGE --maps DIR")
    classifier = open_run(args)
    found = {"run": args.run, "method": classifier.model.method, "backbone": classifier.model.backbone.name}
    if args.images or not args.pictures:
        found |= explain_model(classifier, args)
    from ..toolbox.dassl.utils import printable

    skipped: list[Skipped] = []
    if args.pictures:
        found["images"] = explain_images(classifier, args, skipped)
    write(found, args)
    for entry in skipped:
        print(printable(f"Error: {entry.reason}"), file=sys.stderr)
    return 1 if skipped else 0


# ---- the model
# ---------------------------------------------------------------------------------------------------------------


def explain_model(classifier: Classifier, args: argparse.Namespace) -> dict[str, object]:
    """Print words and routing; returns them as plain data."""
    model = classifier.model
    print(f"{model.method} on {model.backbone.name}, {len(model.names)} classes\n")
    words = explain_words(classifier, args.words)
    routing = explain_routing(classifier, args)
    if routing is not None and args.out:
        write_sheets(routing, args.out)
    return {"words": words, "routing": None if routing is None else routing.to_dict()}


def explain_words(classifier: Classifier, count: int) -> list[dict[str, object]]:
    """Print the nearest words of every context vector, or why there are none; returns them."""
    from ..classifier.words import WARNING, why_no_words

    if why := why_no_words(classifier.model):
        print(f"{why}.\n")
        return []
    prompts = classifier.words(count)
    print("Nearest words, with distances", *prompts[:SHOWN], sep="\n")
    if len(prompts) > SHOWN:
        print(f"... and {len(prompts) - SHOWN} more prompts (--json FILE has all)")
    print(f"\n{WARNING}\n")
    return [prompt.to_dict() for prompt in prompts]


def explain_routing(classifier: Classifier, args: argparse.Namespace) -> Routing | None:
    """Print which experts labelled images go to; returns it, None without a router or images."""
    from ..classifier.experts import has_router, no_router

    if not has_router(classifier.model):
        print(f"{no_router(classifier.model)}.")
    elif args.images:
        routing = classifier.routing(args.images, batch_size=args.batch_size, unreadable="skip")
        print(routing)
        return routing
    else:
        print("Experts", *(f"  {g}  {group[0]}" for g, group in enumerate(classifier.model.groups, 1)), sep="\n")
        print("Which images each gets, and what it is good for, needs labelled images: --images FOLDER")
    return None


# ---- images
# ------------------------------------------------------------------------------------------------------------------


def explain_images(classifier: Classifier, args: argparse.Namespace, skipped: list[Skipped]) -> list[dict[str, object]]:
    """Print why each image is answered as it is, and write maps; returns it as plain data.

    Args:
        skipped: gets the images that cannot be read.
    """
    from ..classifier.experts import has_router, no_router
    from ..classifier.images import each_image
    from ..classifier.similarity import check_vit

    if args.maps:
        check_vit(classifier.model)  # (before anything is computed)
    if not has_router(classifier.model):
        print(f"{no_router(classifier.model)}.\n")
    paths = [path for given in args.pictures for path in each_image(given)]
    found, names = [], {}
    for explanation in classifier.explain_each(paths, "skip", skipped):
        print(f"{explanation}\n")
        record = explanation.to_dict()
        if args.maps:
            record["map"] = str(write_map(classifier, explanation.image, args.maps, names))
        found.append(record)
    return found


def write_map(classifier: Classifier, image: str, folder: Path, taken: dict[str, int]) -> Path:
    """Write the similarity map of an image as a PNG; images of one name get numbers.

    Args:
        folder: that it goes to; taken: name -> how often it was used.
    """
    from ..toolbox.dassl.utils import atomic_write, printable

    stem = Path(image).stem
    taken[stem] = taken.get(stem, 0) + 1
    path = folder / f"{stem}{'' if taken[stem] == 1 else f'_{taken[stem]}'}_map.png"
    with atomic_write(path) as temporary:
        classifier.similarity(image).overlay().save(temporary)
    print(printable(f"Map of {image}: {path}") + "\n")
    return path


# ---- files
# -------------------------------------------------------------------------------------------------------------------


def write_sheets(routing: Routing, folder: Path) -> None:
    """A sheet of pictures for each expert, expert_1.png and so on."""
    from ..classifier.sheets import expert_sheet
    from ..toolbox.dassl.utils import atomic_write

    for g, expert in enumerate(routing.experts, 1):
        with atomic_write(folder / f"expert_{g}.png") as temporary:
            expert_sheet(expert).save(temporary)
    print(f"\nSheets of pictures: {folder}/expert_1.png to expert_{len(routing.experts)}.png")


def write(found: dict[str, object], args: argparse.Namespace) -> None:
    """Write what was found to the files that were asked for."""
    from ..toolbox.dassl.utils import write_json

    for path in filter(None, (args.json, args.out and args.out / NAME)):
        write_json(found, path)
        print(f"Written: {path}")
