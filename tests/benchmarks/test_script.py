"""scripts/benchmarks.sh asks for every case that has a target; a stand-in for Python notes how it is called."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import mocoop
from mocoop.benchmarks import report, step

ROOT = Path(mocoop.__file__).parent
FAKE = """#!/usr/bin/env bash
echo "$*" >>"$CALLS"
"""


def test_every_target_is_measured(tmp_path):
    fake, calls = tmp_path / "python", tmp_path / "calls"
    fake.write_text(FAKE)
    fake.chmod(0o755)
    env = {**os.environ, "PYTHON": str(fake), "CALLS": str(calls), "OUTPUT": str(tmp_path / "out"), "REPEATS": "4"}
    env["PAGE"] = str(tmp_path / "page.md")
    done = subprocess.run(["bash", str(ROOT / "scripts/benchmarks.sh")], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [shlex.split(line) for line in calls.read_text().splitlines() if line.startswith("-m mocoop.benchmarks")]
    parsed = [step.build_parser().parse_args(line[2:]) for line in lines if line[1] == "mocoop.benchmarks.step"]
    cases = [{"case": vars(step.make_case(args))} for args in parsed]
    assert [target.text for target in report.TARGETS if len(target.of(cases)) != 1] == []
    assert {args.repeats for args in parsed[:-1]} == {4} and parsed[-1].repeats == 1
    assert [line[1].rpartition(".")[2] for line in lines[-2:]] == ["scale", "report"]
    assert set(lines[-1]) >= {str(args.json) for args in parsed}


def test_without_output_the_measurements_lie_in_the_checkout(tmp_path):
    (tmp_path / "scripts").mkdir()
    for name in ("scripts/lib.sh", "scripts/benchmarks.sh", "setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    env = {key: value for key, value in os.environ.items() if key != "OUTPUT"} | {"PYTHON": shutil.which("true")}
    done = subprocess.run(["bash", str(tmp_path / "scripts/benchmarks.sh")], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "output/benchmarks").is_dir() and done.stdout.splitlines()[
        -1
    ] == f"{tmp_path}/docs/PERFORMANCE.md"
