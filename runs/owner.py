"""Which process is at work in a run's folder, for processes on other machines. Nothing here imports torch.

The lock of `folder.hold` ends with its process and holds on one machine; on a file system that several machines share
it holds between them only where that system passes locks on (NFS 4 does; Lustre, BeeGFS and NFS with `nolock` or
`local_lock` often do not), and a process cannot find out. So its holder also keeps `.owner` there: made by a call
that fails if it is there already, which holds on all of them, and rewritten every few seconds. A file whose content
changes while it is watched has a living owner. No clock is compared with that of another machine.
"""

import json
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..config import ConfigError
from ..toolbox.dassl.utils import write_json
from ..trainers.records import OWNER

BEAT = 5.0  # seconds between two signs of life
WATCHED = 30.0  # seconds without one after which an owner counts as dead
HOST, BOOT, JOB, STARTS = "host", "boot", "job", "restarts"


def this_process() -> dict[str, object]:
    """What the owner's file says of this process, without its signs of life."""
    task = "_".join(filter(None, (os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID"))))
    job = task or os.environ.get("SLURM_JOB_ID", "")
    starts = os.environ.get("SLURM_RESTART_COUNT", "0")
    return {HOST: socket.gethostname(), BOOT: boot(), "pid": os.getpid(), JOB: job, STARTS: starts}


def boot() -> str:
    """What tells machines of one name apart, and a machine from itself before it was started again; "" if unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def on_this_machine(owner: dict[str, object]) -> bool:
    """Whether an owner is, or was, a process of this machine."""
    return (owner.get(HOST), owner.get(BOOT)) == (socket.gethostname(), boot())


def read_owner(folder: Path) -> dict[str, object] | None:
    """What the owner's file says; None if there is none. A file that is being made counts as one without content."""
    try:
        text = (folder / OWNER).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        found = json.loads(text)
    except ValueError:
        found = {}
    return found if isinstance(found, dict) else {}


def is_gone(owner: dict[str, object], locked: bool) -> bool:
    """Whether an owner is known to be gone without watching it.

    Args:
        locked: whether we have the folder's lock, which an owner on this machine would have.
    """
    if on_this_machine(owner):
        return locked
    this = this_process()
    again = bool(this[JOB]) and owner.get(JOB) == this[JOB]
    return again and owner.get(STARTS) != this[STARTS]  # Slurm has ended this very task and started it again


def beats(folder: Path, owner: dict[str, object]) -> bool:
    """Watch an owner until it shows a sign of life, or has gone, or too much time has passed; whether it is alive."""
    deadline = time.monotonic() + WATCHED
    while time.monotonic() < deadline:
        time.sleep(0.5)
        now = read_owner(folder)
        if now != owner:
            return now is not None
    return False


def check_alone(folder: Path, locked: bool) -> None:
    """Return when no other machine is at work in a folder; remove what a dead owner has left.

    Args:
        folder, locked: see `is_gone`.

    Raises:
        ConfigError: another process is at work there.
    """
    owner = read_owner(folder)
    if owner is None:
        return
    if not is_gone(owner, locked) and beats(folder, owner):
        raise ConfigError([f"another process is at work in {folder} ({described(owner)}); wait for it, or end it"])
    (folder / OWNER).unlink(missing_ok=True)


def described(owner: dict[str, object]) -> str:
    """An owner in words."""
    job = f", Slurm job {owner[JOB]}" if owner.get(JOB) else ""
    return f"process {owner.get('pid', '?')} on {owner.get(HOST, 'some machine')}{job}"


def clock(folder: Path) -> float:
    """The time by the clock that stamps the files of a folder, a file server's where there is one; else ours.

    Args:
        folder: that other machines write to as well.
    """
    probe = folder / f".probe-{uuid.uuid4().hex}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with suppress(OSError):
            probe.unlink()


def is_at_work(folder: Path) -> bool:
    """Whether some process seems to be at work in a run's folder: a look at it, without waiting; `hold` makes sure."""
    owner = read_owner(folder)
    if owner is None or is_gone(owner, locked=False):
        return False
    if on_this_machine(owner) and Path("/proc/self").exists() and not Path(f"/proc/{owner.get('pid')}").exists():
        return False
    try:  # its number may be another process's by now, e.g. in a container that was started again
        return clock(folder) - (folder / OWNER).stat().st_mtime < WATCHED
    except OSError:
        return False


@contextmanager
def owning(folder: Path, locked: bool) -> Iterator[None]:
    """Keep the owner's file of a folder for this process.

    Should another process take the folder all the same (this one was stopped for long, its disk was away), this process
    is interrupted at its next sign of life.

    Args:
        folder, locked: see `is_gone`.

    Raises:
        ConfigError: another process is at work there.
    """
    check_alone(folder, locked)
    path, this = folder / OWNER, this_process()
    try:
        file = open(path, "x", encoding="utf-8")  # noqa: SIM115 (closed below; only this call can find another's file)
    except FileExistsError:
        raise ConfigError([f"another process has just begun work in {folder}; wait for it, or end it"]) from None
    try:
        with file:
            file.write(json.dumps(this | {"beat": 0}))
    except OSError:  # a full disk: an empty file would pass for a process that is at work
        path.unlink(missing_ok=True)
        raise
    over = threading.Event()
    thread = threading.Thread(target=keep_beating, args=(folder, this, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        if is_ours(read_owner(folder), this):
            path.unlink(missing_ok=True)


def is_ours(owner: dict[str, object] | None, this: dict[str, object]) -> bool:
    """Whether an owner is the process that `this` describes."""
    return owner is not None and all(owner.get(key) == value for key, value in this.items())


def keep_beating(folder: Path, this: dict[str, object], over: threading.Event) -> None:
    """Rewrite the owner's file until `over` is set; interrupt this process once the file is another's."""
    beat = 0
    while not over.wait(BEAT):
        beat += 1
        with suppress(OSError):  # a full disk or one that is away for a while; the next beat may succeed
            if not is_ours(read_owner(folder), this):
                print(f"Another process has taken {folder}: this one ends.", flush=True)
                os.kill(os.getpid(), signal.SIGINT)
                return
            write_json(this | {"beat": beat}, folder / OWNER)
