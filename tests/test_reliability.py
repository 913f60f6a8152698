"""The table of what was tried, written by runs of a small suite of its own."""

import subprocess
import sys

import pytest

SUITE = """
import pytest
@pytest.mark.parametrize("n", [1, 2])
def test_kills(record, n): record("kills", "before a | write", "went on", tries=n)
def test_archive(record): record("archives", "link", "refused")
def test_hole(record):
    record("archives", "device", "refused")
    assert False
"""
EXPECTED = r"""## Archives: 2 tries

| tried | times | what came of it |
|---|---:|---|
| device | 1 | FAILED |
| link | 1 | refused |

## Kills: 3 tries

| tried | times | what came of it |
|---|---:|---|
| before a \| write | 3 | went on |
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_trials_are_counted_and_a_failed_test_is_told(tmp_path, workers):
    (tmp_path / "test_small.py").write_text(SUITE)
    spread = []
    if workers:
        pytest.importorskip("xdist")
        spread = ["-n", str(workers)]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "mocoop.tests.reliability", *spread]
    subprocess.run([*command, "--reliability", "docs/new.md"], cwd=tmp_path, capture_output=True)
    assert (tmp_path / "docs" / "new.md").read_text().endswith("\n\n" + EXPECTED)
    assert len(list((tmp_path / "docs").iterdir())) == 1


def test_without_the_option_nothing_is_written(tmp_path):
    (tmp_path / "test_small.py").write_text(SUITE)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "mocoop.tests.reliability", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "1 failed, 3 passed" in done.stdout
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["test_small.py"]
