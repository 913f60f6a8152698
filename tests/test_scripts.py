"""The scripts, with a stand-in for Python that notes how it is called; the real thing is in test_end_to_end.py."""

import os
import shutil
import subprocess
from pathlib import Path

import mocoop
import pytest
from mocoop import methods
from mocoop.commands.protocol import SETTINGS

ROOT = Path(mocoop.__file__).parent
FAKE = """#!/usr/bin/env bash
echo "$*" >>"$CALLS"
if [[ $1 == - ]]; then  # the question whether the project, or what it needs, is installed
    [[ -n ${INSTALLED:-} ]]
    exit
fi
if [[ "$1 $2" == "-m venv" ]]; then
    mkdir -p "$3/bin" && cp "$0" "$3/bin/python"
fi
[[ -z ${CRASH:-} ]]
"""
PYTEST = "-m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder"


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
        env = {**kept, "PYTHON": str(fake), "CALLS": str(calls), "OUTPUT": "out", "INSTALLED": "1", **env}
        call = ["bash", *[str(root / args[0]), *map(str, args[1:])]]
        done = subprocess.run(call, cwd=cwd, env=env, capture_output=True, text=True, timeout=60)
        noted = [call for call in calls.read_text().splitlines() if not call.startswith("- ")]
        return done.returncode, done.stdout + done.stderr, noted

    run.cwd = cwd
    return run


USAGE = "usage: bash scripts/test_with.sh PYTHON [REQUIREMENT ...], e.g. python3.10 torch==2.4.1 torchvision==0.19.1"
METHODS = [row.script for row in methods.OURS]


@pytest.mark.parametrize("step", ["base2new_train", "base2new_test", "fewshot", "xd_train", "xd_test"])
def test_each_method_has_each_script_and_it_names_itself(script, step):
    for method in METHODS:
        name = f"scripts/{method}/{step}.sh"
        code, _, calls = script(name, "dtd", 2, "TRAINER.COOP.CTX_INIT", "a photo of a")
        assert code == 0
        assert calls == [f"{ROOT} protocol {step} {method} dtd 2 TRAINER.COOP.CTX_INIT a photo of a"]
        assert f"\nbash {name} DATASET SEED [KEY VALUE ...]; settings" in script(name, "--help")[1]


def test_a_copied_folder_is_another_methods(script, tmp_path):
    """Also when called from inside the folder."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    shutil.copytree(ROOT / "scripts/coop", tmp_path / "scripts/mine")
    assert script("scripts/mine/xd_train.sh", "dtd", 1, root=tmp_path)[2] == [
        f"{tmp_path} protocol xd_train mine dtd 1"
    ]
    script.cwd.rmdir()
    script.cwd.symlink_to(tmp_path / "scripts/mine")
    assert script("fewshot.sh", "dtd", 1, root=Path("."))[2] == [f"{tmp_path} protocol fewshot mine dtd 1"]


def test_a_whole_protocol(script):
    code, _, calls = script("scripts/run_protocol.sh", "fewshot", "dtd", "coop mocoop", "1 2")
    assert code == 0 and calls == [f"{ROOT} protocol run fewshot dtd coop mocoop 1 2"]


def test_a_failure_is_passed_on(script):
    assert script("scripts/coop/base2new_train.sh", "dtd", 1, CRASH="1")[0] == 1


def test_the_demo_uses_an_environment_that_has_the_project(script):
    code, out, calls = script("scripts/demo.sh", INSTALLED="1", SEEDS="1 2", METHODS="zsclip mocoop")
    assert code == 0
    assert calls[-1] == f"{ROOT}/scripts/demo/demo.py zsclip mocoop 1 2"
    assert not any("pip" in call or "venv" in call for call in calls)
    assert script("scripts/demo.sh", INSTALLED="1")[2][-1].endswith("demo.py zsclip coop mocoop 1 2 3")
    older = script("scripts/demo.sh", INSTALLED="1", DATASET="demo_icons")[2]
    assert older[-1] == f"{ROOT} protocol run base2new demo_icons zsclip coop mocoop 1 2 3"


def test_the_environment_is_made_once_and_renewed_when_setup_changes(script, tmp_path):
    copy = tmp_path / "copy"
    (copy / "scripts").mkdir(parents=True)
    for name in ("scripts/lib.sh", "scripts/test.sh", "setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, copy / name)

    def test(**env):
        return script("scripts/test.sh", "tests/x.py", root=copy, **{"INSTALLED": "", **env})[2]

    pip, pytest_ = f"-m pip install -e {copy}[test]", f"{PYTEST} tests/x.py"
    assert test()[-3:] == [f"-m venv {copy}/.venv", pip, pytest_]
    assert test() == [pytest_]
    (copy / "setup.py").write_text((copy / "setup.py").read_text() + "\n")
    assert test() == [pip, pytest_]
    assert not any("pip" in call for call in test(INSTALLED="1"))
    (copy / "setup.py").write_text((copy / "setup.py").read_text() + "\n")
    own = {"PYTHON": f"{copy}/.venv/bin/python", "INSTALLED": "1"}  # what is installed there may lack a new requirement
    assert test(**own) == [pip, pytest_]


def test_a_protocol_on_a_fresh_clone_makes_the_environment(script, tmp_path):
    copy = tmp_path / "copy"
    (copy / "scripts").mkdir(parents=True)
    for name in ("scripts/lib.sh", "scripts/run_protocol.sh", "setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, copy / name)
    code, _, calls = script("scripts/run_protocol.sh", "fewshot", "dtd", root=copy, INSTALLED="")
    made = [f"-m venv {copy}/.venv", f"-m pip install -e {copy}", f"{copy} protocol run fewshot dtd"]
    assert code == 0 and calls[-3:] == made


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_says_what_a_script_does_and_starts_nothing(script, word):
    for path in sorted((ROOT / "scripts").rglob("*.sh")):
        if path.name == "lib.sh":
            continue
        code, out, calls = script(path.relative_to(ROOT), word)
        assert code == 0 and calls == [], path
        head = path.read_text().splitlines()[1].removeprefix("# ").replace("METHOD ", f"{path.parent.name} ")
        assert out.startswith(head + "\n"), path
        assert ("\nSHOTS    training images per class" in out) == ("ettings" in out), path
    assert "\nSHOTS " in script("scripts/demo.sh", "--help")[1]
    assert "\nSHOTS " not in script("scripts/test.sh", "--help")[1]


def test_the_demo_refuses_arguments_that_it_would_ignore(script):
    code, out, calls = script("scripts/demo.sh", "--seeds", 1)
    assert code == 1 and out == "Error: no arguments are expected, found: --seeds 1\n" and calls == []


def test_lib_sh_lists_the_settings_of_mocoop_protocol():
    assert "\n# " + SETTINGS.replace("\n", "\n# ") + "\n" in (ROOT / "scripts/lib.sh").read_text()


def test_a_round_of_the_tests_is_in_a_clone_with_the_versions_asked_for(script, tmp_path):
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    fake = str(tmp_path / "python")
    rounds = tmp_path / "rounds"
    rounds.mkdir()
    code, _, calls = script("scripts/test_with.sh", fake, "torch==2.4.1", "torchvision==0.19.1", TMPDIR=str(rounds))
    assert code == 0 and list(rounds.iterdir()) == []  # nothing stays
    folder = Path(calls[0].removeprefix("-m venv ")).parent
    assert folder.parent == rounds
    assert calls[1:] == [
        f"-m pip install -e {folder}/mocoop[test] torch==2.4.1 torchvision==0.19.1",
        *("-m pip list", "-V", PYTEST),
    ]
    code, out, _ = script("scripts/test_with.sh", fake, TMPDIR=str(rounds), CRASH="1")
    assert code == 1 and list(rounds.iterdir()) == []
    assert script("scripts/test_with.sh")[:2] == (1, f"Error: {USAGE}\n")
    assert script("scripts/test_with.sh", "python0")[:2] == (1, "Error: no interpreter python0\n")


def test_scripts_are_short_and_name_no_registry():
    for path in sorted((ROOT / "scripts").rglob("*.sh")):
        text = path.read_text()
        assert "index" + "-url" not in text and "http" not in text, path
        if path.parent.name in METHODS:
            code = [line for line in text.splitlines() if not line.startswith("#")]
            assert len(code) <= 5 and "lib.sh" in code[0], path
