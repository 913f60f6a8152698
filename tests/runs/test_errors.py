"""Which errors are printed as one message (runs/errors.py)."""

import ast
import builtins
import errno
import os
from pathlib import Path
from types import SimpleNamespace

import mocoop
import pytest
import torch
from mocoop import config
from mocoop.clip import WeightsError
from mocoop.config.merge import read_value
from mocoop.datasets.errors import DataError, DataMissing
from mocoop.runs import errors

ROOT = Path(mocoop.__file__).parent


def caught(function):
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def test_errors_raised_on_purpose_by_the_project():
    error = caught(lambda: config.parse_opts(["SEED"]))
    assert errors.explain(error) == str(error) and "has no value" in str(error)


def test_a_key_error_raised_on_purpose_is_printed_without_quotes():
    from dassl.utils import Registry

    assert errors.explain(caught(lambda: Registry("R").get("x"))).startswith('"x" is not registered')


def test_operating_system_errors_from_anywhere(tmp_path):
    assert str(tmp_path / "a") in errors.explain(caught(lambda: open(tmp_path / "a")))
    assert errors.explain(DataMissing("imagenet is missing")) == "imagenet is missing"


@pytest.mark.parametrize(
    "function",
    [
        lambda: {}["key"],
        lambda: config.flatten(None),  # an AttributeError inside the project, from no raise statement
        lambda: torch.zeros(2) @ torch.zeros(3),
        lambda: int("x"),
        lambda: read_value("1", 0).nothing,
    ],
)
def test_faults_keep_their_traceback(function):
    assert errors.explain(caught(function)) is None


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
)
def test_lack_of_memory_names_the_setting(error):
    assert "TRAIN.TEXT_CHUNK" in errors.explain(error)


def test_every_error_for_the_user_carries_the_mark():
    """In these folders an explanation without it would come with a traceback. A TypeError is a programmer's."""
    for folder in ("classifier", "clip", "config", "datasets", "trainers"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                raised = node.exc.func if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) else None
                if isinstance(raised, ast.Name) and isinstance(getattr(builtins, raised.id, None), type):
                    marked = issubclass(getattr(builtins, raised.id), OSError | TypeError | AttributeError)
                    assert marked, f"{path}, line {node.lineno}: {raised.id}"
    assert issubclass(DataError, errors.ExpectedError) and issubclass(WeightsError, errors.ExpectedError)
    assert errors.explain(DataError("told")) == "told"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_however_deep_it_lies(code):
    def fail():
        try:
            raise OSError(code, "No room")
        except OSError as error:
            raise RuntimeError("unexpected pos 704 vs 598") from error

    message = errors.explain(caught(fail))
    assert message.startswith("The disk is full (unexpected pos") and "same command goes on" in message
    assert "disk" not in errors.explain(OSError(errno.EACCES, "Permission denied"))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device without room")
@pytest.mark.parametrize("write", ["checkpoint", "json"])
def test_writes_to_a_full_disk_say_so_and_leave_what_was_there(tmp_path, monkeypatch, write):
    from mocoop.toolbox.dassl.utils import tools, torchtools

    (tmp_path / "a").write_text("before")
    monkeypatch.setattr(tools.uuid, "uuid4", lambda: SimpleNamespace(hex="0" * 32))
    (tmp_path / f".{'0' * 12}.tmp.a").symlink_to("/dev/full")  # where the temporary file would be
    state = {"state_dict": {"w": torch.zeros(100_000)}, "epoch": 1}
    calls = {
        "checkpoint": lambda: torchtools.save_checkpoint(state, tmp_path, model_name="a"),
        "json": lambda: tools.write_json(["x" * 10**6], tmp_path / "a"),
    }
    assert errors.explain(caught(calls[write])).startswith("The disk is full (")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]
