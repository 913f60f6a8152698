"""Sheets of small pictures: what an expert is given."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from PIL import Image, ImageDraw, ImageOps

from ..toolbox.dassl.utils.images import ImageError
from .experts import ExpertRecord
from .images import to_image

SIDE, GAP, TEXT = 128, 8, 16  # pixels


def thumbnail(path: str, side: int = SIDE) -> Image.Image | None:
    """The middle of an image as a square of `side` pixels; None if it is gone or cannot be read any more."""
    try:
        return ImageOps.fit(to_image(path, path), (side, side), Image.Resampling.LANCZOS)
    except (ImageError, OSError):
        return None


def expert_sheet(expert: ExpertRecord, columns: int = 6) -> Image.Image:
    """The images that an expert weighs most in, each with its weight below, as one picture.

    Args:
        expert: of `Routing`; columns: pictures in a row.
    """
    return sheet(((given.image, f"{given.weight:.2f}") for given in expert.images), columns)


def sheet(pictures: Iterable[tuple[str, str]], columns: int) -> Image.Image:
    """Pictures in rows, on white; one that cannot be read any more is an empty frame.

    Args:
        pictures: path and text below; columns: pictures in a row.
    """
    listed = list(pictures)
    rows = -(-len(listed) // columns)
    step = SIDE + GAP, SIDE + TEXT + GAP
    page = Image.new("RGB", (GAP + columns * step[0], GAP + max(rows, 1) * step[1]), "white")
    for number, (path, text) in enumerate(listed):
        corner = GAP + number % columns * step[0], GAP + number // columns * step[1]
        place_picture(page, thumbnail(path), text, corner)
    return page


def place_picture(page: Image.Image, picture: Image.Image | None, text: str, corner: Sequence[int]) -> None:
    """Put one picture and its text on a page, with its upper left corner at (x, y)."""
    x, y = corner
    pen = ImageDraw.Draw(page)
    if picture is None:
        pen.rectangle([x, y, x + SIDE - 1, y + SIDE - 1], outline="#999999")
    else:
        page.paste(picture, (x, y))
    pen.text((x + 2, y + SIDE + 2), text, fill="black")
