"""`mocoop <command>` as a user calls it: what there is, how fast it starts, and that all ways in are the same code."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import mocoop
import pytest
from mocoop import methods
from mocoop.clip.names import OPENAI
from mocoop.commands import main as commands
from mocoop.commands.list import dataset_files
from mocoop.plugin import all_keys

ROOT = Path(mocoop.__file__).parent
WAYS = {
    "module": ["-m", "mocoop"],
    "checkout": [str(ROOT)],
    "console script": ["-c", "import sys; from mocoop.commands.main import main; sys.exit(main())"],
}


def start(*args, cwd, **env):
    """Run python in a folder: its exit code, output and errors."""
    call = [sys.executable, *map(str, args)]
    done = subprocess.run(call, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture()
def listed(capsys):
    """A function that gives the rows of `mocoop list WHAT` below its head."""

    def read(what):
        assert commands.main(["list", what]) == 0
        return capsys.readouterr().out.splitlines()[1:]

    return read


def test_usage_names_every_command(capsys):
    for args in ([], ["--help"], ["-h"]):
        assert commands.main(args) == 0
        out = capsys.readouterr().out
        assert [line.split()[0] for line in out.splitlines() if line.startswith("  ")] == list(commands.COMMANDS)
    assert commands.main(["--version"]) == 0 and capsys.readouterr().out == f"mocoop {mocoop.__version__}\n"


def test_a_command_that_there_is_not(capsys):
    assert commands.main(["protocl"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("Error: no command 'protocl'; did you mean protocol?\n\nusage: mocoop COMMAND")


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_each_command_says_what_it_does_and_imports_nothing_slow(name, tmp_path):
    code = f"import sys; from mocoop.commands.main import main; sys.argv[1:] = [{name!r}, '--help']\n"
    code += "try: main()\nexcept SystemExit as end: assert not end.code\n"
    code += "print(bool({'torch', 'tabulate'} & set(sys.modules)))"
    done, out, err = start("-c", code, cwd=tmp_path)
    assert done == 0 and out.startswith("usage: ") and out.endswith("\nFalse\n"), err


def test_lists(listed):
    assert [row.split()[:3] for row in listed("methods")] == [
        [row.name, row.script, "yes" if row.trained else "no"] for row in methods.table().values()
    ]
    files = {row.split()[0]: row.split()[1] for row in listed("datasets")}
    assert files["eurosat"] == "configs/datasets/eurosat.yaml" and len(files) == len(dataset_files())
    assert all((ROOT / path).is_file() for path in files.values())
    keys = {row.split()[0]: row for row in listed("keys")}
    assert set(keys) == set(all_keys())
    assert keys["TRAINER.MOCOOP.TOPK"].split(maxsplit=2)[1:] == ["2", all_keys()["TRAINER.MOCOOP.TOPK"].meaning]
    backbones = [row.strip() for row in listed("backbones")]
    assert {*OPENAI, "demo", "ViT-B-16/laion2b_s34b_b88k"} <= set(backbones)


def test_a_list_that_there_is_not(capsys):
    with pytest.raises(SystemExit) as end:
        commands.main(["list", "networks"])
    assert end.value.code == 2 and "invalid choice: 'networks'" in capsys.readouterr().err


def test_all_ways_in_are_the_same_code(tmp_path):
    calls = (["list", "methods"], ["train", "--trainer", "x"], ["results", "nothing"], ["bench"], ["protocol", "run"])
    for call in calls:
        answers = {way: start(*first, *call, cwd=tmp_path, COLUMNS="100") for way, first in WAYS.items()}
        assert len(set(answers.values())) == 1, answers


def test_the_old_ways_in_are_the_same_code(tmp_path):
    wrong = ["--trainer", "MoCop"]
    assert start(ROOT / "train.py", *wrong, cwd=tmp_path) == start("-m", "mocoop", "train", *wrong, cwd=tmp_path)
    assert start("-m", "mocoop.results", "no", cwd=tmp_path) == start("-m", "mocoop", "results", "no", cwd=tmp_path)


METHOD = """
from mocoop.methods import Method

ROW = Method(name="Theirs", script="theirs", trainer="their_package.trainer:Theirs", model="their_package:Model")
"""


def test_a_method_of_another_package_is_listed_and_needs_no_script(tmp_path):
    site = tmp_path / "site"
    (site / "their_package-1.dist-info").mkdir(parents=True)
    (site / "their_package-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1\n")
    (site / "their_package-1.dist-info/entry_points.txt").write_text("[mocoop.methods]\nTheirs = their_row:ROW\n")
    (site / "their_row.py").write_text(METHOD)
    env = {"cwd": tmp_path, "PYTHONPATH": str(site)}
    assert "\nTheirs " in start("-m", "mocoop", "list", "methods", **env)[1]
    assert " theirs" in start("-m", "mocoop", "protocol", "--help", **env)[1]
    code, _, err = start("-m", "mocoop", "protocol", "fewshot", "theirs", "eurosat", "1", **env)
    assert code == 1 and err == "Error: no default config for Theirs on eurosat; set CFG\n"


def user_seconds(*args, cwd):
    """Processor time that a start takes in its own code, the least of three (other processes disturb it)."""
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        start(*args, cwd=cwd)
        spent.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before)
    return min(spent)


@pytest.mark.parametrize(
    "call",
    [["-c", "import mocoop"]]
    + [["-m", "mocoop", *words] for words in (["--help"], ["list", "methods"], ["train", "--trainer", "x"])],
    ids=" ".join,
)
def test_a_start_takes_no_time(call, tmp_path):
    assert user_seconds(*call, cwd=tmp_path) < 0.3


def test_processes_that_are_spawned_use_the_same_checkout(copy_checkout, tmp_path):
    """Nothing need be installed: a worker finds the checkout by the path of the file that was started."""
    copy = copy_checkout(tmp_path / "my-copy")
    (copy / "commands/main.py").write_text(
        "import multiprocessing\nimport mocoop\n\ndef work():\n    return mocoop.__file__\n\n"
        "def main():\n    with multiprocessing.get_context('spawn').Pool(1) as pool:\n        print(pool.apply(work))\n"
    )
    assert start(copy, cwd=tmp_path) == (0, f"{copy / '__init__.py'}\n", "")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("predict", "goes on from what was saved last."),
        ("fit", "Make room; the same command trains from the start."),
        ("export", "Make room, and call the same command again."),
        ("report", "Make room, and call the same command again."),
    ],
)
def test_a_full_disk_is_answered_with_what_the_command_does_next(monkeypatch, capsys, name, said):
    def full(argv):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(f"mocoop.commands.{name}.main", full)
    assert commands.main([name]) == 1
    assert capsys.readouterr().err.rstrip().endswith(said)


@pytest.mark.parametrize(
    ("name", "said"),
    [("fit", "chunk=64"), ("compare", "batch_size=8"), ("predict", "--batch-size"), ("protocol", "TRAIN.TEXT_CHUNK")],
)
def test_lack_of_memory_is_answered_with_settings_that_the_command_has(monkeypatch, capsys, name, said):
    def used_up(argv):
        raise MemoryError("cannot allocate memory")

    monkeypatch.setattr(f"mocoop.commands.{name}.main", used_up)
    assert commands.main([name]) == 1
    err = capsys.readouterr().err
    assert err.startswith("Error: Out of memory (cannot allocate memory).\n") and said in err
    assert ("TRAIN.TEXT_CHUNK" in err) == (name == "protocol")
