"""The README's picture of a report: parts of the page side by side, as a browser shows it.

    mocoop fit FOLDER --backbone demo --out RUN
    mocoop report RUN --images FOLDER
    python scripts/report_picture.py RUN/report.html docs/report.webp

FOLDER has a folder of images per class. Needs playwright (the extra `test`) and chromium.
"""

import argparse
import io
import shutil
from pathlib import Path

from PIL import Image

WIDTH, HEIGHT, GAP = 920, 1000, 24  # pixels of a part, and between
PARTS = ("header", "#mistakes", "#experts")  # what stands at the top of each


def shots(report: Path) -> list[Image.Image]:
    """A picture of each part."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(report.resolve().as_uri())
        whole = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
        tops = [page.locator(part).first.bounding_box()["y"] - 28 for part in PARTS]
        browser.close()
    return [whole.crop((0, int(top), WIDTH, int(top) + HEIGHT)) for top in tops]


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("picture", type=Path)
    args = parser.parse_args()
    parts = shots(args.report)
    page = Image.new("RGB", (len(parts) * (WIDTH + GAP) - GAP, HEIGHT), "#8a8f98")
    for number, part in enumerate(parts):
        page.paste(part, (number * (WIDTH + GAP), 0))
    page.resize((page.width * 2 // 3, page.height * 2 // 3), Image.Resampling.LANCZOS).save(args.picture, quality=82)
    print(f"{args.picture}: {args.picture.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
