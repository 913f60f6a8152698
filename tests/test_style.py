"""What every file must satisfy: lint, format, and nothing in it that belongs to one machine."""

import re
import subprocess
import sys
from pathlib import Path

import mocoop
import pytest

ROOT = Path(mocoop.__file__).parent


def tracked_files():
    done = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True)
    if done.returncode != 0 or not done.stdout:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff(command):
    pytest.importorskip("ruff")
    done = subprocess.run([sys.executable, "-m", "ruff", *command, "."], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["mocoop", "main"])
def test_a_checkout_may_have_any_name(name, copy_checkout, tmp_path):
    pytest.importorskip("ruff")
    copy_checkout(tmp_path / name)
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "."]
    done = subprocess.run(command, cwd=tmp_path / name, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_paths_of_one_machine_and_no_registry():
    # spelled so that this file does not find itself
    words = ["/wo" + "rk/", "/ro" + "ot/", "/tmp" + "/venv", "index" + "-url", "pypi" + r"\.org/simple"]
    pattern = re.compile("|".join(words))
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        assert not pattern.search(text), f"{path}: {pattern.search(text)[0]}"


def test_no_large_files():
    assert [path for path in tracked_files() if path.stat().st_size > 6_000_000] == []


def test_local_links_of_the_documents_lead_somewhere():
    for document in [path for path in tracked_files() if path.suffix == ".md"]:
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)|src=\"([^\"]+)\"", document.read_text()):
            target = link[0] or link[1]
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document}: {target}"


def test_commands_in_the_documents_name_files_that_exist():
    for document in [path for path in tracked_files() if path.suffix == ".md"]:
        for path in re.findall(r"(?<![\w/.-])(?:configs|scripts)/[\w/-]+\.(?:yaml|sh|py)", document.read_text()):
            assert (ROOT / path).is_file(), f"{document}: {path}"
