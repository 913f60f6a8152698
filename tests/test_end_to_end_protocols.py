"""All four protocols with all methods through scripts/run_protocol.sh, on tiny data sets of a user's own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import mocoop
import pytest
from mocoop import methods, results
from PIL import Image

ROOT = Path(mocoop.__file__).parent
METHODS = tuple(row.script for row in methods.OURS)
pytestmark = pytest.mark.slow


def write_dataset(folder, name, classes, shade):
    """A folder of coloured squares, four for training and two for testing a class, and the yaml file that names it."""
    for part, count in (("train", 4), ("test", 2)):
        for label, word in enumerate(classes):
            for number in range(count):
                path = folder / name / part / word / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (50, 50), (60 * label, shade, 40 * number)).save(path)
    yaml = folder / f"{name}.yaml"
    yaml.write_text(
        f"DATASET: {{NAME: ImageFolder, ROOT: {folder / name}}}\n"
        "TRAINER: {MOCOOP: {PROMPT_GROUPS: [['an icon of a {}.'], ['a solid icon of a {}.'], ['a {}.']]}}\n"
    )
    return yaml


@pytest.fixture(scope="module")
def run_protocol(tmp_path_factory):
    """A function that runs a protocol on the source and gives exit code, stdout and stderr; `.output` has the runs."""
    folder = tmp_path_factory.mktemp("protocols")
    source = write_dataset(folder, "source", ("apple", "bell", "camera", "dog"), 10)
    targets = [
        write_dataset(folder, "target", ("fish", "key"), 90),
        write_dataset(folder, "shifted", ("apple", "bell"), 200),
    ]
    env = {key: value for key, value in os.environ.items() if key not in ("DATA", "OUTPUT", "TAG", "SOURCE")}
    env |= {"PYTHON": sys.executable, "OUTPUT": str(folder / "out"), "CFG": "demo", "JOBS": "2"}

    def run(protocol, methods=METHODS, **more):
        call = ["bash", str(ROOT / "scripts/run_protocol.sh"), protocol, str(source), " ".join(methods), "1"]
        done = subprocess.run(call, cwd=folder, env={**env, **more}, capture_output=True, text=True, timeout=900)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout, done.stderr

    run.output, run.targets = folder / "out", targets
    return run


def accuracies(output, *parts):
    """Method -> accuracy of the runs below a folder of the output."""
    paths = sorted(output.joinpath(*parts).glob("*/demo/seed1/results.json"))
    return {path.parts[-4]: json.loads(path.read_text())["test"]["accuracy"] for path in paths}


def test_base_to_new(run_protocol):
    code, out, err = run_protocol("base2new", SHOTS="1")
    assert code == 0, err
    base = accuracies(run_protocol.output, "base2new/train_base/source/shots_1")
    new = accuracies(run_protocol.output, "base2new/test_new/source/shots_1")
    assert len(base) == len(new) == len(METHODS)
    for method, accuracy in base.items():
        line = next(line for line in out.splitlines() if f" {method} " in line and f"{accuracy:.2f}" in line)
        h = results.harmonic(accuracy, new[method])
        assert line.split()[-1] == f"{h:.2f}" and "±" not in line
    again = run_protocol("base2new", SHOTS="1")
    assert again[0] == 0 and again[1].count("done already") == 2 * len(METHODS)
    assert out.splitlines()[-3:] == again[1].splitlines()[-3:]


def test_few_shot(run_protocol):
    code, out, err = run_protocol("fewshot", SHOTS="1 2")
    assert code == 0, err
    one, two = (accuracies(run_protocol.output, f"fewshot/source/shots_{shots}") for shots in (1, 2))
    assert len(one) == len(METHODS) - 2 and len(two) == len(METHODS)  # what trains nothing is run once
    assert "1 shot" in out and "2 shots" in out


def test_cross_dataset_and_domain_generalization_share_their_models(run_protocol):
    target, shifted = run_protocol.targets
    code, out, err = run_protocol("cross_dataset", TARGETS=str(target), SHOTS="2")
    assert code == 0, err
    assert len(accuracies(run_protocol.output, "source/source/shots_2")) == len(METHODS)
    assert len(accuracies(run_protocol.output, "cross_dataset/source/target/shots_2")) == len(METHODS)
    code, out, err = run_protocol("domain_generalization", TARGETS=str(shifted), SHOTS="2")
    assert code == 0, err
    assert out.count("done already") == len(METHODS) and "shifted" in out
    assert len(accuracies(run_protocol.output, "domain_generalization/source/shifted/shots_2")) == len(METHODS)


def test_more_shots_than_images_are_all_images(run_protocol):
    code, out, err = run_protocol("fewshot", ["coop"], SHOTS="9")
    assert code == 0, err
    log = (run_protocol.output / "fewshot/source/shots_9/CoOp/demo/seed1/log.txt").read_text()
    said = "Note: fewer than 9 training images, all of them used: apple (4), bell (4), camera (4), dog (4)\n"
    assert said in log and "# train_x  16" in log


def test_no_new_classes_in_a_data_set_of_one_class(tmp_path, run_protocol):
    own = write_dataset(tmp_path, "single", ("apple",), 10)
    call = ["bash", str(ROOT / "scripts/zsclip/base2new_test.sh"), str(own), "1"]
    env = {**os.environ, "PYTHON": sys.executable, "OUTPUT": str(tmp_path / "out"), "CFG": "demo", "SHOTS": "1"}
    done = subprocess.run(call, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "expected at least two" in done.stderr
