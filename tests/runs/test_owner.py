"""A run's folder belongs to one process of all machines, where the file system has no locks between them."""

import errno
import io
import json
import os
import signal
import socket
import time

import pytest
from mocoop.config import ConfigError
from mocoop.runs import owner

OTHER = {"host": "node7", "pid": 11, "job": "4_2"}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Signs of life every twentieth of a second, and half a second to wait for one."""
    monkeypatch.setattr(owner, "BEAT", 0.05)
    monkeypatch.setattr(owner, "WATCHED", 1.2)
    for name in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_JOB_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)


def left_behind(folder, **more):
    (folder / ".owner").write_text(json.dumps(OTHER | {"beat": 3} | more))


def test_the_file_is_there_while_the_folder_is_owned_and_shows_signs_of_life(tmp_path):
    with owner.owning(tmp_path, True):
        first = owner.read_owner(tmp_path)
        assert first["host"] == socket.gethostname() and first["pid"] == os.getpid()
        deadline = time.monotonic() + 10
        while owner.read_owner(tmp_path)["beat"] < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert owner.read_owner(tmp_path) == first | {"beat": owner.read_owner(tmp_path)["beat"]}
        assert owner.is_at_work(tmp_path)
    assert list(tmp_path.iterdir()) == [] and not owner.is_at_work(tmp_path)


def test_a_dead_owner_on_another_machine_is_watched_then_replaced(tmp_path):
    left_behind(tmp_path)
    began = time.monotonic()
    with owner.owning(tmp_path, True):
        assert time.monotonic() - began > 1
        assert owner.read_owner(tmp_path)["host"] == socket.gethostname()


def test_a_living_owner_on_another_machine_is_left_alone_whatever_its_clock_says(tmp_path, monkeypatch):
    left_behind(tmp_path)
    os.utime(tmp_path / ".owner", (1, 1))
    monkeypatch.setattr(owner.time, "sleep", lambda seconds: left_behind(tmp_path, beat=4))  # its next sign of life
    with pytest.raises(ConfigError, match="at work in .*process 11 on node7, Slurm job 4_2"):
        owner.check_alone(tmp_path, True)
    assert owner.read_owner(tmp_path) == OTHER | {"beat": 4}


def test_an_owner_that_ends_while_it_is_watched_makes_way(tmp_path, monkeypatch):
    left_behind(tmp_path)
    monkeypatch.setattr(owner.time, "sleep", lambda seconds: (tmp_path / ".owner").unlink())
    owner.check_alone(tmp_path, True)


@pytest.mark.parametrize("case", ["this machine", "this task of Slurm"])
def test_an_owner_that_is_known_to_be_gone_is_not_watched(tmp_path, monkeypatch, case):
    if case == "this machine":  # whose lock we have
        left_behind(tmp_path, host=socket.gethostname(), boot=owner.boot(), pid=2**22 + 1)
    else:
        monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "4")
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
        left_behind(tmp_path, restarts="0")
    assert not owner.is_at_work(tmp_path)
    monkeypatch.setattr(owner.time, "sleep", lambda seconds: pytest.fail("watched"))
    with owner.owning(tmp_path, True):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("more", [{"host": socket.gethostname()}, {"boot": owner.boot()}], ids=["name", "boot"])
def test_a_machine_is_known_by_its_name_and_its_boot(tmp_path, monkeypatch, more):
    left_behind(tmp_path, **more)
    monkeypatch.setattr(owner.time, "sleep", lambda seconds: left_behind(tmp_path, beat=4))
    with pytest.raises(ConfigError, match="at work"):
        owner.check_alone(tmp_path, True)


def test_another_process_of_the_same_allocation_is_no_earlier_start_of_this_one(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    left_behind(tmp_path, job="9", restarts="0")
    assert owner.is_at_work(tmp_path)
    monkeypatch.setattr(owner.time, "sleep", lambda seconds: left_behind(tmp_path, job="9", restarts="0", beat=4))
    with pytest.raises(ConfigError, match="at work"):
        owner.check_alone(tmp_path, True)


def test_of_two_that_begin_at_once_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(owner, "check_alone", lambda folder, locked: None)  # neither has seen the other
    with owner.owning(tmp_path, False):
        with pytest.raises(ConfigError, match="another process has just begun work"), owner.owning(tmp_path, False):
            pass
        assert owner.read_owner(tmp_path)["pid"] == os.getpid()


def test_a_process_whose_folder_was_taken_is_interrupted_and_removes_nothing(tmp_path):
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    with pytest.raises(KeyboardInterrupt), owner.owning(tmp_path, True):
        left_behind(tmp_path)
        time.sleep(30)
    assert owner.read_owner(tmp_path) == OTHER | {"beat": 3}


def test_a_disk_that_is_full_for_a_while_changes_nothing(tmp_path, monkeypatch):
    with owner.owning(tmp_path, True):
        monkeypatch.setattr(owner, "write_json", lambda *args: (_ for _ in ()).throw(OSError(28, "full")))
        time.sleep(0.3)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_at_the_start_leaves_no_owner(tmp_path, monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

    def full(path, *args, **kwargs):
        open(path, *args, **kwargs).close()  # what a full disk still does: the file is there, and empty
        return Full()

    monkeypatch.setattr(owner, "open", full, raising=False)
    with pytest.raises(OSError, match="No space left"), owner.owning(tmp_path, locked=True):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "[1]", "{", "{}"])
def test_a_torn_file_counts_as_an_unknown_owner(tmp_path, content):
    (tmp_path / ".owner").write_text(content)
    assert owner.read_owner(tmp_path) == {}
    with owner.owning(tmp_path, True):
        assert owner.read_owner(tmp_path)["pid"] == os.getpid()


def test_a_process_that_has_the_number_of_a_dead_owner_is_not_taken_for_it(tmp_path):
    left_behind(tmp_path, host=socket.gethostname(), boot=owner.boot(), pid=os.getpid())
    assert owner.is_at_work(tmp_path)
    long_ago = owner.clock(tmp_path) - 60
    os.utime(tmp_path / ".owner", (long_ago, long_ago))
    assert not owner.is_at_work(tmp_path)


def test_whether_another_machine_is_at_work_is_told_by_the_clock_of_the_disk(tmp_path):
    left_behind(tmp_path)
    assert owner.is_at_work(tmp_path)
    long_ago = owner.clock(tmp_path) - 60
    os.utime(tmp_path / ".owner", (long_ago, long_ago))
    assert not owner.is_at_work(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".owner"]  # the look has left nothing
    assert not owner.is_at_work(tmp_path / "absent") and abs(owner.clock(tmp_path / "absent") - time.time()) < 60
