"""CONTRIBUTING's lists are true: a method, a data set and a backbone are added by them, in a copy, and used.

Every list's addition touches the files that the list names, and no other.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import mocoop
import pytest

ROOT = Path(mocoop.__file__).parent
pytestmark = pytest.mark.slow


def insert(path, place, text):
    """Put a text before a place that the file has once."""
    old = path.read_text()
    assert old.count(place) == 1, f"{path}: {place!r} stands there {old.count(place)} times"
    path.write_text(old.replace(place, text + place))


def write(path, text):
    assert not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


# --- a method without prompts of its own: one learned shift of zero-shot CLIP's class features

METHOD = '''"""Shift: zero-shot CLIP's class features, moved by one learned vector. Of no paper."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from ..clip import Backbone
from .base import PromptTrainer
from .model import PromptModel, accuracy
from .prompts import template_features


class ShiftModel(PromptModel):
    """Trains `shift` [D]."""

    method = "Shift"

    def __init__(self, backbone: Backbone, names: Sequence[str], others: Sequence[str] = (), words: str = "", **shared):
        super().__init__(backbone, names, others, **shared)
        self.words = words
        self.shift = nn.Parameter(torch.zeros(self.encoder.output_width))

    def encode_classes(self) -> Tensor:
        """[C, D]."""
        parts = self.encoder, self.backbone.tokenizer, [self.words + " {}."], self.names
        return F.normalize(self.once("text", lambda: template_features(*parts)[0]) + self.shift, dim=-1)

    def loss(self, features: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy."""
        logits = self.logit_scale * features @ self.encode_classes().T
        return F.cross_entropy(logits, label), {"acc": accuracy(logits, label)}

    def arguments(self) -> dict[str, object]:
        """What rebuilds it."""
        return {"words": self.words}


class Shift(PromptTrainer):
    """The trainer."""

    model_class = ShiftModel

    @staticmethod
    def arguments(cfg: CfgNode) -> dict[str, object]:
        """The model's arguments."""
        return {"words": cfg.TRAINER.SHIFT.WORDS}
'''
ROW = """SHIFT = Method(
    name="Shift",
    script="shift",
    trainer="mocoop.trainers.shift:Shift",
    model="mocoop.trainers.shift:ShiftModel",
    keys={"WORDS": Key("a photo of a", "words before the class name", words), "PREC": PREC},
    configs=(("*", "demo"),),
)
"""
METHOD_TEST = """import torch


def test_the_start_is_zero_shot_clip(make_trainer, batch):
    ours, clip = make_trainer("Shift").model, make_trainer("ZeroshotCLIP").model
    torch.testing.assert_close(ours(batch[0]), clip(batch[0]))
    loss, _ = ours.loss(ours.encode_image(batch[0]), batch[1])
    loss.backward()
    assert ours.shift.grad.abs().max() > 0
"""


def add_method(root):
    write(root / "trainers/shift.py", METHOD)
    insert(root / "methods.py", "OURS = (", ROW)
    insert(root / "methods.py", "MOCOOP)\n", "SHIFT, ")
    config = (ROOT / "configs/trainers/CoOp/demo.yaml").read_text().partition("TRAINER:\n")[0].replace("CoOp", "Shift")
    write(root / "configs/trainers/Shift/demo.yaml", config + 'TRAINER:\n  SHIFT:\n    WORDS: "an icon of a"\n')
    write(root / "tests/trainers/test_shift.py", METHOD_TEST)
    write(root / "docs/shift.md", "# Shift\n\n    bash scripts/run_protocol.sh base2new DATASET shift\n")
    row = "| `Shift` | none | `scripts/shift/` | [docs/shift.md](docs/shift.md) |\n"
    insert(root / "README.md", "| `MoCoOp` | Du", row)
    insert(root / "CHANGELOG.md", "\n## 0.1.0", "- The method Shift.\n")


# --- a data set

DATA_SET = '''"""Blocks: squares of one colour."""

from pathlib import Path

from . import splits
from .base import SplitDataset


class Blocks(SplitDataset):
    """Label = rank of the folder name."""

    dataset_dir = "blocks"

    @classmethod
    def read(cls, folder: Path) -> tuple[Path, splits.Split]:
        """Read the split from the folder of the data set. Returns (image folder, split)."""
        images = splits.require(folder / "images")

        def build() -> splits.Split:
            return splits.split_folder(splits.list_folder(images))

        return images, splits.load_split(folder / "split_zhou_Blocks.json", images, build)
'''
DATA_SET_CONFIG = """# Blocks: 2 templates in 2 groups, one expert each. Not of any paper.
DATASET:
  NAME: Blocks
TRAINER:
  ZSCLIP:
    TEMPLATE: "an icon of a {}."
  MOCOOP:
    PROMPT_GROUPS:
      - - "an icon of a {}."
      - - "a solid icon of a {}."
"""
SOURCE = """    "Blocks": Source(
        (File("blocks.zip", ("https://blocks.example/blocks.zip",), makes=same("images")),),
        *(4, 20, 8, 12),
    ),
"""
WRITER = """def blocks(root):
    class_folders(root / "blocks" / "images", {name: 10 for name in ("apple", "bell", "camera", "dog")})
    return root / "blocks"


"""


def add_data_set(root):
    write(root / "datasets/blocks.py", DATA_SET)
    insert(root / "plugin.py", '    "DemoIcons":', '    "Blocks": "mocoop.datasets.blocks:Blocks",\n')
    write(root / "configs/datasets/blocks.yaml", DATA_SET_CONFIG)
    insert(root / "datasets/sources.py", '    "ImageNetV2": Source(', SOURCE)
    insert(root / "runs/protocols.py", '"demo_symbols", "demo_objects"', '"blocks", ')
    insert(root / "tests/datasets/miniatures.py", "WRITERS = {", WRITER)
    insert(root / "tests/datasets/miniatures.py", '    "ImageNetV2": imagenetv2,', '    "Blocks": blocks,\n')
    expected = '    "Blocks": (["apple", "bell", "camera", "dog"], 20, 8, 12),\n'
    insert(root / "tests/datasets/test_benchmark.py", '    "ImageNetV2": ([', expected)
    insert(
        root / "docs/DATASETS.md", "| ImageNetV2 | `imagenetv2`", "| Blocks | `blocks` | `blocks` | 4 | 20 | 8 | 12 |\n"
    )


# --- a backbone: a new kind of name

LOADER = '''def _rounded() -> nn.Module:
    """The demo backbone with weights rounded to half precision."""
    return _embedded("demo").half()


'''
BACKBONE_TEST = """

def test_rounded_equals_the_rounded_demo():
    original = clip.load_backbone("demo").model.half().float()
    assert_same_features(clip.load_backbone("demo-rounded").model, original, 48)
"""


def add_backbone(root):
    names, backbones = root / "clip/names.py", root / "clip/backbones.py"
    insert(names, "    openai: str | None = None\n", "    rounded: bool = False\n")
    parsing = '    if name == "demo-rounded":\n        return ParsedName(rounded=True)\n'
    insert(names, "    if is_demo(name):\n", parsing)
    size = "    if parsed.rounded:\n        return DEMO_PREPROCESS\n"
    insert(backbones, "    if parsed.embedded:\n        return DEMO_PREPROCESS", size)
    loading = "    if parsed.rounded:\n        return frozen_backbone(name, _rounded(), preprocess_of(name), device)\n"
    insert(backbones, "    if parsed.embedded:\n        return frozen_backbone", loading)
    insert(backbones, "def _embedded(name: str) -> nn.Module:", LOADER)
    tests = root / "tests/clip/test_backbones.py"
    tests.write_text(tests.read_text() + BACKBONE_TEST)


ADDITIONS = {"A method": add_method, "A data set": add_data_set, "A backbone": add_backbone}
CALLED = {"<method>": "shift", "<Name>": "Shift", "<config>": "demo", "<name>": "blocks"}


def listed(heading):
    """The files that a numbered list of CONTRIBUTING names; what it puts in brackets is only to be read."""
    section = (ROOT / "CONTRIBUTING.md").read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    items = re.findall(r"^\d\. .*(?:\n .*)*", section, re.M)
    words = re.findall(r"`([^`]+)`", re.sub(r"\([^()]*\)", "", "\n".join(items)))
    for placeholder, name in CALLED.items():
        words = [word.replace(placeholder, name) for word in words]
    return {word for word in words if re.search(r"\w\.(py|md|yaml|sh)$", word)}


def files(root):
    """Name -> content of all files of a checkout but for what Python leaves."""
    paths = (path for path in root.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def extended(tmp_path_factory, copy_checkout):
    """A copy of the checkout, called mocoop, with all three added; and which files each addition touched."""
    copy = copy_checkout(tmp_path_factory.mktemp("copy") / "mocoop")
    touched, before = {}, files(copy)
    for heading, add in ADDITIONS.items():
        add(copy)
        after = files(copy)
        touched[heading] = {name for name in after if before.get(name) != after[name]}
        before = after
    return copy, touched


def call(*words, cwd):
    """Run Python with these words where `mocoop` is what lies in the folder above; returns what it printed."""
    env = {key: value for key, value in os.environ.items() if key not in ("DATA", "OUTPUT", "CFG", "TAG", "SHOTS")}
    env["PYTHONPATH"] = str(cwd.parent)
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("heading", ADDITIONS)
def test_a_list_names_what_is_touched(extended, heading):
    assert listed(heading) == extended[1][heading]


def test_what_was_added_trains_and_is_in_the_table(extended, tmp_path):
    """A run of the new method on the new data set with the new backbone, then the results."""
    copy, _ = extended
    make = "import sys; sys.path.append('tests/datasets'); import miniatures; miniatures.write('Blocks', sys.argv[1])"
    call("-c", make, tmp_path, cwd=copy)
    run = tmp_path / "output/fewshot/blocks/shots_2/Shift/demo/seed1"
    data, method = "configs/datasets/blocks.yaml", "configs/trainers/Shift/demo.yaml"
    arguments = [
        "--root",
        tmp_path,
        "--trainer",
        "Shift",
        "--seed",
        1,
        "--output-dir",
        run,
        "--backbone",
        "demo-rounded",
    ]
    options = ["DATASET.NUM_SHOTS", 2, "OPTIM.MAX_EPOCH", 1, "OPTIM.WARMUP_EPOCH", 0]
    files = ["--dataset-config-file", data, "--config-file", method]
    call("train.py", *arguments, *files, *options, cwd=copy)
    result = json.loads((run / "results.json").read_text())["test"]
    assert result["images"] == 12 and result["classes"] == 4
    model = json.loads((run / "model.json").read_text())
    assert (model["method"], model["backbone"]) == ("Shift", "demo-rounded")
    table = call("-m", "mocoop.results", tmp_path / "output", cwd=copy)
    (row,) = (line.split() for line in table.splitlines() if "Shift" in line)
    assert row[:2] == ["blocks", "Shift"] and f"{result['accuracy']:.2f}" in row


def test_the_suite_takes_what_was_added(extended):
    """The tests that came along, and those that hold for every method, data set and backbone."""
    tests = ["tests/trainers/test_shift.py", "tests/test_configs.py", "tests/datasets/test_benchmark.py"]
    chosen = "shift or Shift or locks or rounded or table or how_many"
    out = call("-m", "pytest", "-q", *tests, "tests/clip/test_backbones.py", "-k", chosen, cwd=extended[0])
    passed = int(re.search(r"(\d+) passed", out)[1])
    assert passed >= 10, out
    assert "mocoop.trainers.shift" in call("-c", "import mocoop; print(mocoop.ShiftModel.__module__)", cwd=extended[0])
