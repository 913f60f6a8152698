"""Collect the drawings of the miniature world from icon packages and fonts, for pretraining and for the data sets.

    python scripts/demo/miniature_collect.py --npm FOLDER/node_modules --out output/miniature

writes `drawings.npz`: all drawings (RGBA, 64 x 64), with domain, name, designer, style and side of each.
`miniature_pack.py` makes the data sets' files from the ones of the task side. Needs resvg-py, fontTools and the
packages that `docs`' page of sources lists; nothing of that is needed to run the demo.
"""

from __future__ import annotations

import argparse
import glob
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import resvg_py
from fontTools.ttLib import TTFont
from miniature_sources import (
    CAPITALS,
    EMOJI,
    FLAGS,
    ICONS,
    LETTER_FACES,
    LOGOS,
    MUSIC,
    SCRIPTS,
    VEXFLOW,
    ZODIAC,
    ZODIAC_EMOJI,
    Face,
)
from mocoop.datasets.miniature_classes import CLASSES
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

SIDE = 64


@dataclass(frozen=True)
class Source:
    """One drawing that can be rendered: an SVG text, or a font file with a character."""

    domain: str
    name: str
    designer: str
    style: str
    side: str
    svg: str = ""
    font: str = ""
    char: str = ""


def fitted(image: Image.Image) -> np.ndarray | None:
    """Crop an RGBA image to its ink and fit it into the square. None if there is no ink."""
    box = image.getchannel("A").point(lambda a: 255 if a > 24 else 0).getbbox()
    if box is None:
        return None
    image = image.crop(box)
    ratio = SIDE / max(image.size)
    width, height = (max(1, round(side * ratio)) for side in image.size)
    canvas = Image.new("RGBA", (SIDE, SIDE))
    canvas.paste(image.resize((width, height), Image.Resampling.BOX), ((SIDE - width) // 2, (SIDE - height) // 2))
    return np.asarray(canvas)


def drawn(source: Source) -> np.ndarray | None:
    """The drawing as RGBA, uint8 [64, 64, 4]; None where the package draws nothing."""
    if source.svg:
        try:
            png = resvg_py.svg_to_bytes(svg_string=source.svg, width=2 * SIDE, skip_system_fonts=True)
        except ValueError:
            return None
        return fitted(Image.open(io.BytesIO(bytes(png))).convert("RGBA"))
    font = ImageFont.truetype(source.font, 2 * SIDE)
    left, top, right, bottom = font.getbbox(source.char)
    if right <= left or bottom <= top:
        return None
    glyph = Image.new("L", (right - left + 8, bottom - top + 8))
    ImageDraw.Draw(glyph).text((4 - left, 4 - top), source.char, fill=255, font=font)
    image = Image.new("RGBA", glyph.size)
    image.putalpha(glyph)
    return fitted(image)


@cache
def iconify(npm: Path, package: str) -> dict[str, str]:
    """Icon name -> SVG text of an @iconify-json package."""
    data = json.loads((npm / "@iconify-json" / package / "icons.json").read_text())
    icons = {}
    for name, icon in data["icons"].items():
        width, height = (icon.get(key, data.get(key, 16)) for key in ("width", "height"))
        view = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
        icons[name] = (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'width="{width}" height="{height}" viewBox="{view}">{icon["body"]}</svg>'
        )
    return icons


def words(stem: str) -> str:
    """An icon's name as words, without numbers that only count drawings of one thing."""
    stem = stem.replace("turkiye", "turkey")
    return re.sub(r"( 0?\d)+$", "", stem.replace("-", " ").replace("_", " ")).strip()


def icon_sources(npm: Path) -> Iterator[Source]:
    """Pictograms of one or two words."""
    for designer, (side, plain, suffixes) in ICONS.items():
        for name, svg in iconify(npm, designer).items():
            suffix = next((s for s in suffixes if name.endswith(s)), None)
            style = suffixes[suffix] if suffix else plain
            stem = words(name.removesuffix(suffix) if suffix else name)
            if style and len(stem.split()) <= 2 and re.fullmatch(r"[a-z][a-z ]+", stem) and "rounded" not in stem:
                yield Source("thing", stem, designer, style, side, svg)


def emoji_sources(npm: Path) -> Iterator[Source]:
    """Emoji of up to three words, without skin tones and families; zodiac signs go to the sky."""
    known = {re.sub("[^a-z]", "", name): name for name in iconify(npm, "twemoji") if "skin" not in name}
    for designer, side in EMOJI.items():
        for name, svg in iconify(npm, designer).items():
            name = known.get(name, name) if designer == "fxemoji" else name
            stem = words(re.sub(r"-[12]$", "", name))
            style = "monochrome" if designer in ("emojione-monotone", "fluent-emoji-high-contrast") else "colourful"
            if stem in ZODIAC_EMOJI:
                yield Source("sky", ZODIAC[ZODIAC_EMOJI.index(stem)], designer, style, side, svg)
            elif (
                len(stem.split()) <= 3
                and re.fullmatch(r"[a-z][a-z ]+", stem)
                and not re.search(r"skin|flag|family|couple|kiss|medium|light|dark|clock|oclock|thirty|button", stem)
                and not re.match(r"(man|woman|men|women|person|people|regional|squared?) ", stem)
            ):
                yield Source("emoji", stem, designer, style, side, svg)


def logo_name(designer: str, name: str) -> str | None:
    """A brand's name in small letters without spaces and marks, as Simple Icons spells it; None for other files."""
    if designer == "vscode-icons":
        if not name.startswith("file-type-"):
            return None
        name = name.removeprefix("file-type-").removeprefix("light-")
    if re.search(r"wordmark|folder|square|circle$", name):
        return None
    name = re.sub(r"-(icon|original|plain|line|dark|light|colored|file|lang|js|alt)$", "", name)
    return re.sub(r"[^a-z]", "", name)


def logo_sources(npm: Path) -> Iterator[Source]:
    """Logos of brands and programming languages; what is only a file's pictogram (a key, a map) is none."""
    brands = {logo_name("simple-icons", name) for name in iconify(npm, "simple-icons")}
    pictograms = {words(name) for name in iconify(npm, "lucide")}
    for designer, side in LOGOS.items():
        icons = iconify(npm, designer)
        for name, svg in icons.items():
            stem = logo_name(designer, name)
            if not stem or len(stem) < 2 or (stem in pictograms and stem not in brands):
                continue
            if designer == "logos" and f"{name}-icon" in icons:
                continue
            mono = "currentColor" in svg and not re.search(r'fill="#', svg)
            yield Source("logo", stem, designer, "monochrome" if mono else "colourful", side, svg)


def flag_sources(npm: Path) -> Iterator[Source]:
    """Flags of countries. The emoji's names give the words for the codes of the other designers."""
    regions = country_names(npm)
    for designer, side in FLAGS.items():
        for name, svg in iconify(npm, designer).items():
            if name.startswith("flag-") and not name.startswith("flag-for-") and "-" in name and designer != "flag":
                stem = words(name.removeprefix("flag-"))
            elif name.startswith("flag-for-"):
                stem = words(name.removeprefix("flag-for-"))
            else:
                stem = regions.get(re.sub(r"-(1x1|4x3)$", "", name), "")
            style = "round" if designer == "circle-flags" else "rectangular"
            if stem in regions.values():
                yield Source("flag", stem, designer, style, side, svg)


@cache
def country_names(npm: Path) -> dict[str, str]:
    """Two-letter code -> the country's name as the emoji spell it; codes are told by the emoji's code points."""
    chars = json.loads((npm / "@iconify-json" / "twemoji" / "chars.json").read_text())
    regions = {}
    for points, name in chars.items():
        codes = [int(point, 16) - 0x1F1E6 for point in points.split("-")]
        if len(codes) == 2 and all(0 <= code < 26 for code in codes) and name.startswith("flag-"):
            regions["".join(chr(97 + code) for code in codes)] = words(name.removeprefix("flag-"))
    return regions


def face_files(face: Face, npm: Path) -> list[str]:
    """Existing files of a font family."""
    patterns = [p if p.startswith("/") else str(npm / p) for p in face.files]
    return sorted({file for pattern in patterns for file in glob.glob(pattern, recursive=True)})


@cache
def characters(file: str) -> frozenset[int]:
    """Code points of a font file."""
    return frozenset(TTFont(file, lazy=True, fontNumber=0).getBestCmap() or ())


def font_sources(npm: Path) -> Iterator[Source]:
    """Letters and symbols of the fonts. STIX's letters come from the files that have the whole alphabet."""
    tables = [*SCRIPTS, *(("letter", face.style, CAPITALS, [face]) for face in LETTER_FACES)]
    for domain, style, table, faces in tables:
        for face in faces:
            for file in face_files(face, npm):
                known = characters(file)
                if sum(code in known for code in table.values()) < 0.4 * len(table):
                    continue
                designer = f"culmus-{Path(file).stem.split('CLM')[0]}" if face.designer == "culmus" else face.designer
                for name, code in table.items():
                    if code in known:
                        yield Source(domain, name, designer, style or "plain", face.side, font=file, char=chr(code))
    for designer, side in VEXFLOW.items():
        file = str(npm / "@vexflow-fonts" / designer / f"{designer}.otf")
        for name, code in MUSIC.items():
            if code in characters(file):
                yield Source("music", name, designer, "plain", side, font=file, char=chr(code))


def chosen(sources: list[Source], popular: int) -> list[Source]:
    """For tasks: the classes' names. For pretraining: names that two designers draw or that two domains have.

    Of a designer's many drawings of one name and style only the first `popular` are kept.
    """
    designers: dict[tuple[str, str], set[str]] = {}
    domains: dict[str, set[str]] = {}
    for s in sources:
        if s.side == "pretrain":
            designers.setdefault((s.domain, s.name), set()).add(s.designer)
            domains.setdefault(s.name, set()).add(s.domain)
    kept, counts = [], {}
    for s in sources:
        key = (s.domain, s.name, s.designer, s.style, s.side)
        counts[key] = counts.get(key, 0) + 1
        if s.side == "task" and s.name not in CLASSES.get(s.domain, ()):
            continue
        common = s.domain not in ("thing", "emoji", "logo", "flag") or s.side == "task"
        common = common or len(designers[s.domain, s.name]) > 1 or len(domains[s.name]) > 1
        if common and counts[key] <= popular:
            kept.append(s)
    return kept


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--npm", type=Path, required=True, help="node_modules with the packages of miniature_sources")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    sources = [
        source
        for collect in (icon_sources, emoji_sources, logo_sources, flag_sources, font_sources)
        for source in collect(args.npm)
    ]
    sources = chosen(sources, 3)
    pictures, records = [], []
    for source in tqdm(sources, desc="drawing"):
        picture = drawn(source)
        if picture is not None:
            pictures.append(picture)
            records.append((source.domain, source.name, source.designer, source.style, source.side))
    np.savez(args.out / "drawings.npz", pictures=np.stack(pictures), records=np.array(records))
    print(f"{len(records)} drawings")


if __name__ == "__main__":
    main()
