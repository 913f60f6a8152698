"""Seeds, files, the log, and checkpoints that are damaged or hostile."""

import errno
import io
import os
import platform
import random
import re
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from dassl.utils import (
    CheckpointError,
    Logger,
    atomic_write,
    brief,
    check_writable,
    collect_env_info,
    count_num_param,
    get_rng_state,
    listdir_nohidden,
    load_checkpoint,
    load_pretrained_weights,
    read_json,
    remove_leftovers,
    resume_from_checkpoint,
    save_checkpoint,
    set_random_seed,
    set_rng_state,
    setup_logger,
    tolist_if_not,
    write_json,
    write_text,
)


def draws():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_seeds():
    set_random_seed(0)  # zero is a seed
    first = draws()
    set_random_seed(0)
    assert draws() == first
    random.seed(0)
    assert random.random() == first[0]
    set_random_seed(2**32 - 1)
    state = random.getstate()
    for bad in (-1, 2**32, 1.5, True, None):
        with pytest.raises(ValueError, match="between 0 and"):
            set_random_seed(bad)
    assert random.getstate() == state


def test_rng_state_round_trip_as_plain_data(tmp_path):
    set_random_seed(1)
    random.gauss(0, 1), np.random.randn()  # leaves a cached second normal in both
    torch.save(get_rng_state(), tmp_path / "rng.pt")
    expected = random.gauss(0, 1), np.random.randn(), draws()
    set_random_seed(2)
    set_rng_state(torch.load(tmp_path / "rng.pt", weights_only=True))
    assert (random.gauss(0, 1), np.random.randn(), draws()) == expected


def test_what_killed_processes_left_of_a_file_goes_with_its_next_success(tmp_path):
    old, new, other, own = (f".0123456789a{x}.tmp.x.bin" for x in "bcde")
    other, own = other.replace("x.bin", "y.bin"), "my.tmp.x.bin"
    for name in (old, new, other, own):
        (tmp_path / name).touch()
    for name in (old, other, own):
        os.utime(tmp_path / name, (0, 0))
    with atomic_write(tmp_path / "x.bin") as temporary:
        Path(temporary).write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([new, other, own, "x.bin"])


def test_atomic_write_keeps_the_old_file_on_error(tmp_path):
    path = tmp_path / "new" / "a.json"
    write_json({"a": [1]}, str(path))
    assert path.read_text() == '{\n    "a": [\n        1\n    ]\n}' and read_json(path) == {"a": [1]}
    with pytest.raises(TypeError):
        write_json({"a": object()}, path)
    with pytest.raises(UnicodeEncodeError):
        write_text("half \udcff", path)
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as temporary:
        with open(temporary, "w") as file:
            file.write("half")
        raise KeyboardInterrupt
    assert read_json(path) == {"a": [1]} and os.listdir(path.parent) == ["a.json"]


def test_bare_file_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_json([1], "a.json")
    setup_logger("log.txt")
    print("seen")
    assert read_json("a.json") == [1] and (tmp_path / "log.txt").read_text() == "seen\n"


def test_small_helpers(tmp_path):
    for name in ("b", ".hidden", "a"):
        (tmp_path / name).touch()
    assert listdir_nohidden(str(tmp_path), sort=True) == ["a", "b"] and set(listdir_nohidden(str(tmp_path))) == {
        "a",
        "b",
    }
    assert tolist_if_not(1) == [1] and tolist_if_not([1]) == [1]
    model = torch.nn.Linear(2, 3)
    assert count_num_param(model) == 9 and count_num_param(params=[{"params": [model.bias]}, model.weight]) == 9
    assert torch.__version__ in collect_env_info() and "Pillow" in collect_env_info()


def test_unwritable_output_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    for use in (check_writable, setup_logger):
        with pytest.raises(OSError, match="Cannot write to the output folder.*file/run"):
            use(str(tmp_path / "file" / "run"))
    if os.geteuid():  # root may write anywhere
        tmp_path.chmod(0o500)
        with pytest.raises(OSError, match="Permission denied"):
            check_writable(tmp_path / "run")
        tmp_path.chmod(0o700)


def test_log_is_copied_continued_and_never_overwritten(tmp_path, capsys):
    log, console = tmp_path / "run" / "log.txt", sys.stdout
    setup_logger(str(tmp_path / "run"))
    assert sys.stdout.write("first ü\n") == 8
    assert log.read_text(encoding="utf-8") == "first ü\n"  # not buffered: a killed job keeps its tail
    setup_logger(str(tmp_path / "run"))  # does not nest
    assert sys.stdout.console is console
    print("second")
    text = log.read_text(encoding="utf-8")
    assert re.fullmatch(r"first ü\n\n-+ resumed [\d :-]+ -+\nsecond\n", text)
    (tmp_path / "run" / "DONE").touch()
    setup_logger(str(tmp_path / "run"))
    print("third")
    (other,) = (path for path in (tmp_path / "run").iterdir() if path.name.startswith("log.txt-"))
    assert log.read_text(encoding="utf-8") == text and other.read_text() == "third\n"
    sys.stdout = console
    assert capsys.readouterr().out == "first ü\nsecond\nthird\n"
    setup_logger(None)
    assert sys.stdout is console


def test_logger_is_a_stream_and_leaves_the_console_open(tmp_path):
    console = open(tmp_path / "console", "w", encoding="utf-8")
    with Logger(tmp_path / "log.txt", console) as logger:
        assert logger.isatty() is False and logger.encoding == "utf-8" and logger.fileno() == console.fileno()
        print("line", file=logger)
    del logger
    assert not console.closed
    console.close()
    assert (tmp_path / "console").read_text() == (tmp_path / "log.txt").read_text() == "line\n"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


@pytest.mark.parametrize("console", [Terminal(), io.StringIO()])
def test_while_brief_a_terminal_sees_notes_and_warnings_and_the_log_everything(tmp_path, monkeypatch, console):
    monkeypatch.setattr(sys, "stdout", console)
    setup_logger(str(tmp_path))
    everything = "before\nlong\nNote: one\nmore\nWarning: two\nand a half line, now whole\nafter\n"
    print("before")
    with brief():
        print("long\nNote: one\nmore")
        print("Warn", end="")
        print("ing: two")
        print("and a half line", end="")
    print(", now whole\nafter")
    sys.stdout.close()
    assert (tmp_path / "log.txt").read_text() == everything
    seen = "before\nNote: one\nWarning: two\n, now whole\nafter\n" if console.isatty() else everything
    assert console.getvalue() == seen


def test_brief_without_a_logger_of_ours_prints_everything(tmp_path, monkeypatch):
    class DasslsLogger(Terminal):
        file = None

    for console in (Terminal(), DasslsLogger()):
        monkeypatch.setattr(sys, "stdout", console)
        with brief():
            print("line")
        assert console.getvalue() == "line\n"


def plain_state(model, epoch=3):
    return {"state_dict": model.state_dict(), "epoch": epoch, "optimizer": None, "scheduler": None, "val_result": None}


def test_checkpoint_tree_pointer_and_untouched_state(tmp_path, capsys):
    model = torch.nn.DataParallel(torch.nn.Linear(2, 2))
    state = plain_state(model)
    save_checkpoint(state, str(tmp_path / "m"), is_best=True)
    assert sorted(os.listdir(tmp_path / "m")) == ["checkpoint", "model-best.pth.tar", "model.pth.tar-3"]
    assert (tmp_path / "m" / "checkpoint").read_text() == "model.pth.tar-3\n"
    assert capsys.readouterr().out == f"Checkpoint saved to {tmp_path / 'm' / 'model.pth.tar-3'}\n"
    assert list(state["state_dict"]) == ["module.weight", "module.bias"]
    saved = load_checkpoint(tmp_path / "m" / "model.pth.tar-3")
    assert list(saved["state_dict"]) == ["weight", "bias"] and saved["epoch"] == 3
    fresh = torch.nn.Linear(2, 2)
    assert resume_from_checkpoint(str(tmp_path / "m"), fresh) == 3
    assert torch.equal(fresh.weight, model.module.weight)


def test_a_failed_save_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    model = torch.nn.Linear(2, 2)
    save_checkpoint(plain_state(model), tmp_path)
    before = (tmp_path / "model.pth.tar-3").read_bytes()

    def full(state, file):
        file.write(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="model.pth.tar-3"):
        save_checkpoint(plain_state(model), tmp_path)
    assert (tmp_path / "model.pth.tar-3").read_bytes() == before and len(os.listdir(tmp_path)) == 2


class Payload:
    """Pickles as a call that would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_missing_truncated_and_hostile_checkpoints(tmp_path):
    model = torch.nn.Linear(2, 2)
    path = tmp_path / "model.pth.tar-3"
    with pytest.raises(ValueError):
        load_checkpoint(None)
    with pytest.raises(FileNotFoundError, match="model.pth.tar-3"):
        load_checkpoint(path)
    with pytest.raises(FileNotFoundError, match="checkpoint"):
        resume_from_checkpoint(tmp_path, model)
    save_checkpoint(plain_state(model), tmp_path)
    whole = path.read_bytes()
    for content in (b"", b"text", whole[:50], whole[: len(whole) // 2], whole[:-30]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"model\.pth\.tar-3.*truncated, damaged"):
            load_checkpoint(path)
    marker = tmp_path / "ran"
    for zipped, word in ((True, "refused, because reading it would run code.*system"), (False, "refused")):
        hostile = {**plain_state(model), "optimizer": Payload(marker)}
        torch.save(hostile, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match=word):
            load_checkpoint(path)
    assert not marker.exists()
    torch.save([1], path)
    with pytest.raises(CheckpointError, match="expected a dict, found a list"):
        load_checkpoint(path)
    torch.save({"weights": {}}, path)
    with pytest.raises(CheckpointError, match="expected the keys state_dict and epoch"):
        resume_from_checkpoint(tmp_path, model)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("schedule", ["cosine", "step", "multi"])
def test_legacy_checkpoint_with_a_pickled_scheduler(tmp_path, capsys, optimizer, schedule):
    """What Dassl's warm-up leaves in a file: the inner scheduler as an object, with its optimiser."""
    model = torch.nn.Linear(3, 2)
    kinds = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}
    optim = kinds[optimizer](model.parameters(), lr=0.1)
    kinds = torch.optim.lr_scheduler
    sched = {
        "cosine": lambda: kinds.CosineAnnealingLR(optim, 5),
        "step": lambda: kinds.StepLR(optim, 2),
        "multi": lambda: kinds.MultiStepLR(optim, [1, 2]),
    }[schedule]()
    model(torch.ones(1, 3)).sum().backward()
    optim.step()
    sched.step()
    state_dict = model.state_dict()
    state_dict["tied"] = model.weight.t()  # a view with strides into shared storage
    state_dict["half"] = torch.arange(4, dtype=torch.float16)[2:]
    state_dict["parameter"] = model.weight
    state_dict["empty"] = torch.empty(0)
    legacy = {"state_dict": state_dict, "epoch": 7, "optimizer": optim.state_dict(), "scheduler": {"successor": sched}}
    torch.save({**legacy, "val_result": None}, tmp_path / "model.pth.tar-7")
    read = load_checkpoint(tmp_path / "model.pth.tar-7")
    assert read["epoch"] == 7 and read["optimizer"] is None and read["scheduler"] is None
    assert isinstance(read["state_dict"], OrderedDict) and list(read["state_dict"]) == list(state_dict)
    for name, value in state_dict.items():
        assert torch.equal(read["state_dict"][name], value) and read["state_dict"][name].dtype == value.dtype
    assert "only its parameters and epoch were read" in capsys.readouterr().out
    torch.save({**legacy, "val_result": Payload(tmp_path / "ran")}, tmp_path / "model.pth.tar-7")
    with pytest.raises(CheckpointError, match="refused"):
        load_checkpoint(tmp_path / "model.pth.tar-7")
    assert not (tmp_path / "ran").exists()


def test_legacy_reader_stays_within_the_storage(tmp_path):
    from dassl.utils.legacy import _tensor

    with pytest.raises(RuntimeError):
        _tensor(torch.zeros(4), 2, (3,), (1,), False, None)


def test_checkpoint_of_another_model_is_refused_by_name(tmp_path):
    save_checkpoint(plain_state(torch.nn.Linear(2, 2)), tmp_path)
    with pytest.raises(CheckpointError, match=r"model\.pth\.tar-3.*another method"):
        resume_from_checkpoint(tmp_path, torch.nn.Linear(3, 2))


def test_pretrained_weights_match_by_name_and_shape(tmp_path, capsys):
    source, target = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    target.extra = torch.nn.Linear(1, 1)
    bare = {"module.weight": source.weight.detach(), "bias": torch.zeros(5), "other": torch.zeros(1)}
    torch.save(bare, tmp_path / "bare.pt")
    bias = target.bias.clone()
    load_pretrained_weights(target, tmp_path / "bare.pt")
    assert torch.equal(target.weight, source.weight) and torch.equal(target.bias, bias)
    assert "['bias', 'other']" in capsys.readouterr().out
    torch.save({"state_dict": {"other": torch.zeros(1)}}, tmp_path / "none.pt")
    with pytest.warns(UserWarning, match="nothing was loaded"):
        load_pretrained_weights(target, tmp_path / "none.pt")


def test_freed_memory_is_kept_where_the_c_library_can():
    """In a process of its own: a block of 256 MB stays with the process when it is freed, and serves the next one."""
    code = """
import sys
import torch
from pathlib import Path
from dassl.utils import keep_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

def after_a_large_tensor():
    before = resident()
    torch.ones(2**26)
    return resident() - before

assert after_a_large_tensor() < 2**26
assert keep_freed_memory()
assert after_a_large_tensor() > 2**27
"""
    if platform.libc_ver()[0] != "glibc" or not Path("/proc/self/statm").exists():
        pytest.skip("not glibc on Linux")
    code = "import mocoop\n" + code
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_leftovers_of_killed_writes_are_removed_and_nothing_else(tmp_path):
    code = "import os, sys\nfrom mocoop.toolbox.dassl.utils import atomic_write\n"
    code += "with atomic_write(sys.argv[1]) as temporary:\n    open(temporary, 'w').write('half')\n    os._exit(9)"
    for name in ("results.json", "prompt_learner/model.pth.tar-1"):
        assert subprocess.run([sys.executable, "-c", code, str(tmp_path / name)]).returncode == 9
    kept = [tmp_path / ".mine.tmp.txt", tmp_path / "log.txt", tmp_path / ".hidden/notes"]
    for path in kept:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 5
    remove_leftovers(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device without room")
def test_a_log_without_room_is_named_once_and_given_up(tmp_path, monkeypatch):
    (tmp_path / "log.txt").symlink_to("/dev/full")
    console = io.StringIO()
    monkeypatch.setattr(sys, "stdout", console)
    with pytest.raises(OSError, match=r"No space left on device.*log\.txt") as caught:
        setup_logger(tmp_path)
        print("first")
    assert caught.value.errno == errno.ENOSPC
    print("second")
    sys.stdout.flush()
    assert "second\n" in console.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "no JSON"),
        (b"[" * 10**5, "no JSON"),
        (b"\xff", "no JSON"),
        (b"9" * 5000, "no JSON"),
        (b"x" * 99, "98 byt"),
    ],
)
def test_json_that_cannot_be_read(tmp_path, content, words):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        read_json(tmp_path / "a.json", most_bytes=98 if content.startswith(b"x") else 10**6)
    assert len(str(caught.value)) < 300


def test_json_is_read_from_files_only(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero", "."):
        with pytest.raises(ValueError, match="no regular file"):
            read_json(tmp_path / name)
