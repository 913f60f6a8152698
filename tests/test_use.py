"""docs/USE.md: every command in it, in its order, on pictures of the demo world."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import mocoop
import pytest
from mocoop.classifier.export import torch_writes_onnx

USE = Path(mocoop.__file__).parent / "docs/USE.md"
CLASSES = ("bus", "cat", "tree", "dog")


def commands():
    """The lines that start with `mocoop`, of the page's bash blocks; a line that ends with a backslash goes on."""
    blocks = re.findall(r"^```bash\n(.*?)^```", USE.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith("mocoop ")]


def words(line):
    """The arguments of a line; what follows a # is none."""
    return shlex.split(line, comments=True)[1:]


@pytest.fixture(scope="module")
def place(demo_root, tmp_path_factory):
    """A folder with photos/train, photos/test and new, as the page has them."""
    place = tmp_path_factory.mktemp("use")
    (place / "new").mkdir()
    for number, name in enumerate(CLASSES):
        for part in ("train", "test"):
            (place / "photos" / part / name).mkdir(parents=True)
            for image in sorted((demo_root / "demo_icons/images" / name).glob(f"{part}_*"))[:6]:
                shutil.copy(image, place / "photos" / part / name)
        shutil.copy(next((demo_root / "demo_icons/images" / name).glob("val_*")), place / "new" / f"{number}.png")
    return place


ALL = """
import json, sys
from mocoop.commands.main import main
for words in json.load(sys.stdin):
    print("$ mocoop", *words, flush=True)
    if code := main(words):
        sys.exit(code)
"""


@pytest.mark.slow
def test_every_command_of_the_page_works_in_its_order(place):
    """One process for all: torch is imported once."""
    given = [words(line) for line in commands()]
    if not torch_writes_onnx():  # the other formats are written all the same
        given = [call for call in given if call[0] != "export" or "--format" in call]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    call = [sys.executable, "-c", ALL]
    done = subprocess.run(
        call, cwd=place, env=env, input=json.dumps(given), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert {"classifier.safetensors", "evaluation.json", "per_class.csv", "confusion.csv"} <= set(
        os.listdir(place / "run")
    )
    assert len((place / "new.csv").read_text().splitlines()) == 1 + len(CLASSES)
    assert "MoCoOp" in (place / "photos_comparison/comparison.md").read_text()


def test_the_page_has_the_commands_that_it_is_about():
    """The first is `fit`, the last `export`, as its words about the tests say."""
    used = [words(line)[0] for line in commands()]
    assert (used[-1], {"serve", "push", "pull"} & set(used)) == ("export", set())
    assert used[:2] == ["fit", "fit"] and {"fit", "evaluate", "predict", "compare"} <= set(used)


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path):
    cells = json.loads((USE.parent / "use.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    ended = "assert (again.predict_proba([image]) == clf.predict_proba([image])).all(), 'saved and loaded, it differs'"
    (tmp_path / "cells.py").write_text("\n\n".join([*code, ended]))
    call = [sys.executable, "cells.py"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "it brings" in done.stdout and (tmp_path / "notebook_demo/icons.safetensors").is_file()
