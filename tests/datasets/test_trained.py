"""One epoch of MoCoOp and of LASP on the miniature of every data set, two runs at a time; two by the real script."""

import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import mocoop
import pytest
from mocoop.plugin import DATASETS
from PIL import Image

ROOT = Path(mocoop.__file__).parent
TINY = "OPTIM.MAX_EPOCH 1 OPTIM.WARMUP_EPOCH 0 INPUT.FEATURE_VIEWS 0 DATALOADER.TRAIN_X.BATCH_SIZE 4".split()
pytestmark = pytest.mark.slow

# Registry name: (base classes, their training images with two shots, their test images), by hand from miniatures.py.
# The four shifts have test images only: all classes, trained on what they test.
EXPECTED = {
    "ImageNet": (2, 4, 4),
    "Caltech101": (3, 6, 6),
    "OxfordPets": (2, 4, 4),
    "StanfordCars": (2, 4, 4),
    "OxfordFlowers": (2, 4, 4),
    "Food101": (2, 4, 4),
    "FGVCAircraft": (2, 4, 4),
    "SUN397": (2, 4, 4),
    "DescribableTextures": (2, 4, 4),
    "EuroSAT": (5, 10, 10),
    "UCF101": (2, 4, 4),
    "ImageNetV2": (12, 24, 24),
    "ImageNetSketch": (4, 12, 12),
    "ImageNetA": (3, 6, 6),
    "ImageNetR": (3, 6, 6),
}
SHIFTS = ("ImageNetV2", "ImageNetSketch", "ImageNetA", "ImageNetR")
BY_SCRIPT = ("ImageNet", "ImageNetV2")


def config_name(name):
    """The name of configs/datasets, which is that of the module."""
    return DATASETS[name].split(":")[0].rpartition(".")[2]


def train(name, data):
    """By the script of the method."""
    env = {key: value for key, value in os.environ.items() if key not in ("TAG", "SOURCE", "TARGETS", "JOBS")}
    env |= {"DATA": str(data), "OUTPUT": str(data / "runs"), "CFG": "demo", "SHOTS": "2", "PYTHON": sys.executable}
    call = ["bash", str(ROOT / "scripts/mocoop/base2new_train.sh"), config_name(name), "1", *TINY]
    return subprocess.run(
        call, cwd=data, env=env | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=1200
    )


def train_all(data):
    """What the scripts do, in one process with two workers; a finished run is skipped."""
    code = f"""
        import sys
        from pathlib import Path
        from mocoop.runs.protocols import Experiment, Settings, base2new_train
        from mocoop.commands.protocol import run_all

        settings = Settings(Path({str(data)!r}), Path({str(data / "runs")!r}), shots=(2,), config="demo")
        runs = [(method, name) for method in ("MoCoOp", "LASP") for name in {[config_name(name) for name in EXPECTED]}]
        jobs = [base2new_train(Experiment(method, name, 1, settings, {tuple(TINY)}))[0] for method, name in runs]
        sys.exit(run_all(jobs, 2))
    """
    call = [sys.executable, "-c", dedent(code)]
    return subprocess.run(call, capture_output=True, text=True, timeout=1200, cwd=data)


def run_folder(data, name, method):
    return data / "runs/base2new/train_base" / config_name(name) / f"shots_2/{method}/demo/seed1"


@pytest.fixture(scope="module")
def runs(tmp_path_factory, miniature):
    """The data root, after all runs."""
    data = tmp_path_factory.mktemp("trained")
    for name in EXPECTED:
        miniature(name, data)
    for name in BY_SCRIPT:
        done = train(name, data)
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
        assert (run_folder(data, name, "MoCoOp") / "DONE").exists()
    done = train_all(data)
    assert done.returncode == 0 and "Traceback" not in done.stdout + done.stderr, done.stderr
    assert done.stdout.count("done already: ") == len(BY_SCRIPT)
    return data


@pytest.mark.parametrize("name", EXPECTED)
def test_one_epoch(name, runs):
    classes, train_images, test_images = EXPECTED[name]
    folder = run_folder(runs, name, "MoCoOp")
    printed = (folder / "log.txt").read_text()
    assert "Traceback" not in printed
    assert (folder / "DONE").exists() and (folder / "prompt_learner/model.pth.tar-1").exists()
    (epoch,) = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert epoch["epoch"] == 1 and epoch["loss"] > 0 and epoch["loss_text"] >= 0 and epoch["loss_gate"] > 0
    test = json.loads((folder / "results.json").read_text())["test"]
    assert (test["classes"], test["images"]) == (classes, test_images) and 0 <= test["accuracy"] <= 100
    table = {line.split()[-2]: line.split()[-1] for line in printed.splitlines() if line.startswith("# ")}
    assert int(table["train_x"]) == train_images
    warning = f"Warning: {test_images} of the {test_images} test images of {name} are trained on"
    note = f"{name} has test images only: SUBSAMPLE_CLASSES base has no effect"
    assert (warning in printed) == (note in printed) == (name in SHIFTS)


def test_lasp_trains_on_every_data_set(runs):
    """Its released code fails on OxfordPets and the four shifts, which do not tell it all class names."""
    for name, (classes, _, images) in EXPECTED.items():
        folder = run_folder(runs, name, "LASP")
        test = json.loads((folder / "results.json").read_text())["test"]
        assert (test["classes"], test["images"]) == (classes, images)
        (epoch,) = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert epoch["loss_text"] > 0


def test_a_folder_of_ones_own_with_every_method(tmp_path):
    """Class folders alone, with a names file: base-to-new from training to the table."""
    own = tmp_path / "mushrooms"
    for label, folder in enumerate(("n01", "n02", "n 03")):
        for number in range(5):
            (own / folder).mkdir(parents=True, exist_ok=True)
            mode, color = (("RGB", (80 * label, 9, number)), ("L", 80 * label))[number % 2]
            Image.new(mode, (50, 60), color).save(own / folder / f"{number}.{('png', 'webp')[number % 2]}")
    (own / "classnames.txt").write_text("n01 death cap\nn02 fly agaric\nn 03 chanterelle\n")
    env = {key: value for key, value in os.environ.items() if key not in ("TAG", "SOURCE", "TARGETS", "JOBS")}
    env |= {"DATA": str(own), "OUTPUT": "runs", "CFG": "demo", "SHOTS": "2", "PYTHON": sys.executable}
    call = ["bash", str(ROOT / "scripts/run_protocol.sh"), "base2new", "image_folder", "zsclip coop cocoop lasp mocoop"]
    run = subprocess.run([*call, "1"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=1200)
    assert run.returncode == 0 and "Traceback" not in run.stderr, run.stderr
    for method in ("ZeroshotCLIP", "CoOp", "CoCoOp", "LASP", "MoCoOp"):
        for part, classes in (("train_base", 2), ("test_new", 1)):
            folder = tmp_path / "runs/base2new" / part / "image_folder-mushrooms/shots_2" / method / "demo/seed1"
            test = json.loads((folder / "results.json").read_text())["test"]
            assert (test["classes"], test["images"]) == (classes, 2 * classes)  # 5 images: 2 + 1 + 2
        assert f"{method} " in run.stdout[run.stdout.index("Base-to-new") :]
    classes = [
        [item[2] for item in part] for part in json.loads((own / "split_image_folder.json").read_text()).values()
    ]
    assert set(sum(classes, [])) == {"death cap", "fly agaric", "chanterelle"}
