"""The scripts, with a stand-in for Python that notes how it is called; the real thing is in test_end_to_end.py."""

import os
import shutil
import subprocess
from pathlib import Path

import mocoop
import pytest
from mocoop import config

ROOT = Path(mocoop.__file__).parent
DATA_SETS = sorted(path.stem for path in (ROOT / "configs/datasets").glob("*.yaml"))
FAKE = """#!/usr/bin/env bash
echo "$*" >>"$CALLS"
if [[ $1 == - ]]; then  # the question whether the project is installed
    [[ -n ${INSTALLED:-} ]]
    exit
fi
if [[ "$1 $2" == "-m venv" ]]; then
    mkdir -p "$3/bin" && cp "$0" "$3/bin/python"
fi
while (($#)); do
    if [[ $1 == --output-dir ]]; then
        mkdir -p "$2" && touch "$2/log.txt"
        [[ -n ${CRASH:-} ]] && exit 1
        touch "$2/DONE"
    fi
    shift
done
exit 0
"""


@pytest.fixture()
def script(tmp_path):
    """A function that runs a script in an empty folder; gives exit code, output, and the lines the stand-in noted."""
    fake, calls = tmp_path / "python", tmp_path / "calls"
    fake.write_text(FAKE)
    fake.chmod(0o755)
    cwd = tmp_path / "elsewhere"
    cwd.mkdir()
    kept = {key: value for key, value in os.environ.items() if key not in ("DATA", "OUTPUT", "CFG", "TAG", "SHOTS")}

    def run(*args, root=ROOT, **env):
        calls.write_text("")
        env = {**kept, "PYTHON": str(fake), "CALLS": str(calls), "OUTPUT": "out", **env}
        call = ["bash", *[str(root / args[0]), *map(str, args[1:])]]
        done = subprocess.run(call, cwd=cwd, env=env, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout + done.stderr, calls.read_text().splitlines()

    run.cwd = cwd
    return run


def test_train_then_test_then_skip(script):
    train, test = "scripts/mocoop/base2new_train.sh", "scripts/mocoop/base2new_test.sh"
    folder = script.cwd / "out/base2new/train_base/eurosat/shots_16/MoCoOp/vit_b16_ep300_batch32/seed2"
    new = script.cwd / "out/base2new/test_new/eurosat/shots_16/MoCoOp/vit_b16_ep300_batch32/seed2"

    code, out, calls = script(test, "eurosat", 2)
    assert code == 1 and f"not finished: {folder}" in out and calls == []

    code, out, calls = script(train, "eurosat", 2, DATA="images")
    assert code == 0 and "starting" in out
    assert calls == [
        f"{ROOT}/train.py --root {script.cwd}/images --seed 2 --trainer MoCoOp"
        f" --dataset-config-file {ROOT}/configs/datasets/eurosat.yaml"
        f" --config-file {ROOT}/configs/trainers/MoCoOp/vit_b16_ep300_batch32.yaml --output-dir {folder}"
        " DATASET.SUBSAMPLE_CLASSES base DATASET.NUM_SHOTS 16"
    ]
    code, out, calls = script(train, "eurosat", 2)
    assert code == 0 and calls == [] and f"done already: {folder}" in out

    code, out, calls = script(test, "eurosat", 2)
    assert code == 0 and len(calls) == 1
    assert f"--output-dir {new} --eval-only --model-dir {folder} DATASET.SUBSAMPLE_CLASSES new" in calls[0]
    assert f"--root {ROOT}/data " in calls[0] and "--load-epoch" not in calls[0]
    assert script(test, "eurosat", 2)[2] == []
    os.utime(folder / "DONE", (2e9, 2e9))  # trained again since
    assert len(script(test, "eurosat", 2)[2]) == 1


def test_a_crash_is_passed_on_and_the_run_goes_on(script):
    train = "scripts/coop/base2new_train.sh"
    code, out, _ = script(train, "dtd", 1, CRASH="1")
    assert code == 1
    code, out, calls = script(train, "dtd", 1)
    assert code == 0 and "going on with" in out and len(calls) == 1


def test_zero_shot_needs_no_training(script):
    code, _, calls = script("scripts/zsclip/base2new_test.sh", "dtd", 1)
    assert code == 0 and "--eval-only DATASET.SUBSAMPLE_CLASSES new" in calls[0] and "--model-dir" not in calls[0]


def test_settings_and_options(script, tmp_path):
    own = tmp_path / "my_icons.yaml"
    code, _, calls = script(
        *("scripts/coop/base2new_train.sh", own, 0, "OPTIM.MAX_EPOCH", 5, "TRAINER.COOP.CTX_INIT", "a photo of a"),
        **{"CFG": "rn50", "SHOTS": "4", "TAG": "short"},
    )
    folder = script.cwd / "out/base2new/train_base/my_icons/shots_4/CoOp/rn50-short/seed0"
    assert code == 0 and f"--dataset-config-file {own} " in calls[0] and f"--output-dir {folder} " in calls[0]
    assert calls[0].endswith("DATASET.NUM_SHOTS 4 OPTIM.MAX_EPOCH 5 TRAINER.COOP.CTX_INIT a photo of a")


@pytest.mark.parametrize("args", [(), ("dtd",)])
def test_usage(script, args):
    code, out, calls = script("scripts/mocoop/base2new_train.sh", *args)
    assert code == 1 and "usage: " in out and calls == []


@pytest.mark.parametrize("method", ["ZeroshotCLIP", "CoOp", "CoCoOp", "LASP", "MoCoOp"])
def test_every_data_set_has_a_default_config_that_exists(method):
    code = f'source scripts/lib.sh; for name in {" ".join(DATA_SETS)}; do echo "$(default_config {method} $name)"; done'
    done = subprocess.run(["bash", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    names = done.stdout.split()
    assert len(names) == len(DATA_SETS) >= 15
    for data, name in zip(DATA_SETS, names, strict=True):
        path = ROOT / f"configs/trainers/{method}/{name}.yaml"
        assert config.read_yaml(path)["MODEL.BACKBONE.NAME"] == ("demo" if data.startswith("demo_") else "ViT-B/16")


def test_the_demo_uses_an_environment_that_has_the_project(script):
    code, out, calls = script("scripts/demo.sh", INSTALLED="1", SEEDS="1 2", METHODS="zsclip mocoop")
    assert code == 0
    trained = [call.split("--trainer ")[1].split()[0] for call in calls if "train.py" in call]
    assert trained == ["ZeroshotCLIP"] * 4 + ["MoCoOp"] * 4
    assert calls[-1] == f"-m mocoop.results {script.cwd}/out --dataset demo_icons"
    assert not any("pip" in call or "venv" in call for call in calls)
    again = script("scripts/demo.sh", INSTALLED="1", SEEDS="1 2", METHODS="zsclip mocoop")[2]
    assert [call.split()[:2] for call in again] == [["-", str(ROOT)], ["-m", "mocoop.results"]]


def test_the_environment_is_made_once_and_renewed_when_setup_changes(script, tmp_path):
    copy = tmp_path / "copy"
    (copy / "scripts").mkdir(parents=True)
    for name in ("scripts/lib.sh", "scripts/test.sh", "setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, copy / name)

    def test(**env):
        return script("scripts/test.sh", "tests/x.py", root=copy, **env)[2]

    pip, pytest_ = f"-m pip install -e {copy}[test]", "-m pytest tests/x.py"
    assert [call for call in test() if not call.startswith("- ")][-3:] == [f"-m venv {copy}/.venv", pip, pytest_]
    assert [call for call in test() if not call.startswith("- ")] == ["-m pytest tests/x.py"]
    (copy / "setup.py").write_text((copy / "setup.py").read_text() + "\n")
    assert [call for call in test() if not call.startswith("- ")] == [pip, pytest_]
    assert not any("pip" in call for call in test(INSTALLED="1"))
    (copy / "setup.py").write_text((copy / "setup.py").read_text() + "\n")
    own = {"PYTHON": f"{copy}/.venv/bin/python", "INSTALLED": "1"}  # what is installed there may lack a new requirement
    assert [call for call in test(**own) if not call.startswith("- ")] == [pip, pytest_]


def test_scripts_are_short_and_name_no_registry():
    for path in sorted((ROOT / "scripts").rglob("*.sh")):
        text = path.read_text()
        assert "index" + "-url" not in text and "http" not in text, path
        if path.parent.name in ("zsclip", "coop", "mocoop"):
            code = [line for line in text.splitlines() if not line.startswith("#")]
            assert len(code) <= 5 and "lib.sh" in code[0], path
