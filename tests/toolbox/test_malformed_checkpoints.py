"""Checkpoints from strangers and from runs that went wrong: one message or a run as usual, nothing in between."""

import math
import os
import random
import time
import warnings
import zipfile

import pytest
import torch
from dassl.errors import ExpectedError
from dassl.utils import load_checkpoint, set_random_seed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

FOLDER = "prompt_learner"
OPTS = ["OPTIM.NAME", "adamw", "TRAIN.CHECKPOINT_FREQ", 2, "TEST.NO_TEST", True]


def deep(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


def laughs(levels):
    value = ["ha"] * 10
    for _ in range(levels):
        value = [value] * 10
    return value


def cyclic():
    value = []
    value.append(value)
    return value


def edit(path, value):
    """A change of a checkpoint: the entry at `path` ("optimizer.param_groups.0.lr") becomes `value`, or goes."""

    def change(checkpoint):
        *parents, last = [int(key) if key.isdigit() else key for key in path.split("/")]
        node = checkpoint
        for parent in parents:
            node = node[parent]
        if value is GONE:
            del node[last]
        else:
            node[last] = value(node[last]) if callable(value) else value

    return change


GONE = object()
ODD = [None, True, -1, 10**30, 1.5, math.nan, 1j, "x", b"x", [], {}, {"a": 1}, [[]], {1, 2}, torch.zeros(3), deep(200)]
NUMBERS = [None, True, -0.1, math.nan, math.inf, 1j, 10**400, "x", [], {}]
LR, GROUP, RATES = "optimizer/param_groups/0/lr", "optimizer/param_groups/0", "scheduler/base_lrs"
MOMENT, WEIGHT, BIAS = "optimizer/state/0/exp_avg", "state_dict/1.weight", "state_dict/1.bias"
LACKING = ["state_dict", "epoch", BIAS, "optimizer/state", "optimizer/param_groups", LR, f"{GROUP}/params", MOMENT]
LACKING += ["optimizer/state/1/step", RATES, "scheduler/last_epoch", "rng/python", "rng/numpy", "rng/torch", "rng/cuda"]


def quantized(weight):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)


def added(name, value):
    return edit("state_dict", lambda state: {**state, name: value})


# Kind of damage -> changes of a good checkpoint, each of which must be refused.
REFUSED = {
    "entries that are missing": [edit(path, GONE) for path in LACKING],
    "epochs": [edit("epoch", value) for value in [*ODD, 5, 10**12]],
    "parameters of other types": [edit("state_dict", value) for value in ODD]
    + [edit(WEIGHT, value) for value in [*ODD, torch.Tensor.long, torch.Tensor.to_sparse, quantized]]
    + [added("odd", torch.zeros(1)), added(3, torch.zeros(1)), added("_extra_state", "text"), edit(WEIGHT, torch.t)],
    "parameters that are NaN or complex": [edit(WEIGHT, lambda w: w * math.nan), edit(WEIGHT, lambda w: w * 1j)],
    "a terabyte out of four bytes": [edit(WEIGHT, lambda w: torch.zeros(1).expand(2**38))],
    "optimizers of other types": [edit("optimizer", value) for value in ODD[1:]]
    + [edit(path, value) for path in ("optimizer/param_groups", GROUP, f"{GROUP}/params") for value in ODD]
    + [edit(f"{GROUP}/params", [0])],
    "learning rates": [edit(LR, value) for value in [*NUMBERS, torch.tensor(1j)]],
    "settings of the optimizer": [edit(f"{GROUP}/betas", value) for value in [(math.nan, 0.9), "ab", 1j, []]]
    + [edit(f"{GROUP}/weight_decay", value) for value in (math.nan, "x", 1j)],
    "moments": [edit("optimizer/state/0", value) for value in ODD if value != {}]
    + [edit(MOMENT, value) for value in [torch.zeros(7), lambda v: v * math.nan, lambda v: v * 1j, "x", None, 1j]]
    + [edit("optimizer/state/0/step", value) for value in ("x", math.nan, 1j, -1)],
    "schedules": [edit("scheduler", value) for value in ODD[1:]]
    + [edit(RATES, value) for value in [*ODD, [math.nan], [-1.0], [math.inf], [1j], ["x"]]]
    + [edit("scheduler/last_epoch", value) for value in (None, True, "x", 1.5, 10**30, -5, [], 1j, math.nan)],
    "gradient scalers": [edit("scaler", value) for value in ([], 1, "x", {"scale": math.nan}, {"scale": "x"})],
    "random states": [edit("rng", value) for value in ODD[1:] if value != {}]
    + [edit(path, value) for path in ("rng/python", "rng/numpy", "rng/torch") for value in ODD]
    + [edit("rng/cuda", value) for value in ODD if value not in ([], {})]
    + [edit("rng/numpy/1", value) for value in (10**9, -1)],
    "results": [edit("best_result", value) for value in NUMBERS[1:] if value != -0.1]
    + [edit("val_result", value) for value in NUMBERS[1:] if value != -0.1],
    "aliases and loops": [edit("optimizer/state/0", {"a": laughs(12)}), added("_extra_state", {"a": laughs(12)})]
    + [edit("scheduler/_last_lr", cyclic()), added("_extra_state", {"a": deep(200)})],
}


@pytest.fixture()
def half_done(make_cfg, build, tmp_path):
    """(Path of the checkpoint of a toy run that stopped after two of four epochs, function that makes its trainer)."""
    trainer = build(make_cfg(*OPTS))
    trainer.stop_before = 2
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    return tmp_path / "run" / FOLDER / "model.pth.tar-2", lambda: build(make_cfg(*OPTS))


def outcome(action, folder):
    """Do what reads a checkpoint; "refused" or "as usual", within bounded time."""
    began = time.monotonic()
    try:
        action()
    except Exception as error:
        assert isinstance(error, ExpectedError | FileNotFoundError), repr(error)
        assert 20 < len(str(error)) < 3000 and (str(folder) in str(error) or "OPTIM" in str(error)), str(error)
        return "refused"
    finally:
        assert time.monotonic() - began < 30
    return "as usual"


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_missing_or_of_another_kind_is_refused(half_done, record, kind, capsys):
    path, trainer = half_done
    files = {file: file.read_bytes() for file in path.parents[1].rglob("*") if file.is_file()}
    accepted = []
    # torch 2.4 reads fewer kinds of entries; a file with others is read without its states, as Dassl's own are.
    without_states = "only its parameters and epoch were read"
    old = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 5)
    for number, change in enumerate(REFUSED[kind]):
        for file, content in files.items():
            file.write_bytes(content)
        checkpoint = load_checkpoint(path)
        change(checkpoint)
        torch.save(checkpoint, path)
        capsys.readouterr()
        usual = outcome(trainer().train, path.parent.parent) != "refused"
        if usual and not (old and without_states in capsys.readouterr().out):
            accepted.append(number)
    assert accepted == []
    record("malformed checkpoints, resumed", kind, "refused with one message", tries=len(REFUSED[kind]))


def test_damaged_files_are_refused_by_name(half_done, record):
    path, trainer = half_done
    good = path.read_bytes()
    lengths = [0, 1, 3, 4, 30, *random.Random(0).sample(range(len(good)), 30), len(good) - 1]
    for length in lengths:
        path.write_bytes(good[:length])
        for action in (trainer().train, lambda: trainer().load_model(str(path.parent.parent), epoch=2)):
            assert outcome(action, path) == "refused"
    record("malformed checkpoints, resumed", "truncated files", "refused with one message", tries=len(lengths))
    record("malformed checkpoints, tested", "truncated files", "refused with one message", tries=len(lengths))


def test_an_archive_that_unpacks_to_more_than_it_holds(half_done, record):
    path, trainer = half_done
    with zipfile.ZipFile(path) as archive:
        parts = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
        archive.writestr("archive/data/999", bytes(2**26))
    assert path.stat().st_size < 2**20
    assert outcome(trainer().train, path) == "refused"
    record("malformed checkpoints, resumed", "a packed archive", "refused with one message")


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"\xff\xfe\n", b"nothing\n", b"x" * 10**6, b"../../../etc/passwd\n", b"\n"]
)
def test_a_damaged_pointer(half_done, record, content):
    path, trainer = half_done
    (path.parent / "checkpoint").write_bytes(content)
    assert outcome(trainer().train, path.parent) == "refused"
    record("malformed checkpoints, resumed", "the file that names the last one", "refused with one message")


def test_a_pipe_or_a_device_is_no_checkpoint(half_done, record):
    path, trainer = half_done
    for make in (lambda: os.mkfifo(path), lambda: path.symlink_to("/dev/zero"), path.mkdir):
        path.unlink()
        make()
        assert outcome(trainer().train, path) == "refused"
        if path.is_dir():
            path.rmdir()
    record("malformed checkpoints, resumed", "pipe, device, folder", "refused with one message", tries=3)


GOOD = {}  # path -> content, as hypothesis calls a test many times with one fixture
NASTY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_subnormal=False)
    | st.text(max_size=9)
    | st.complex_numbers(allow_subnormal=False)
    | st.binary(max_size=3)
    | st.sampled_from([torch.zeros(2), torch.full((2,), math.nan), torch.ones(2, dtype=torch.bool), torch.zeros(())]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3),
    max_leaves=5,
)


def entries(value, path=()):
    """Paths of all entries of a checkpoint; of long lists the first ones."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, inner in list(items)[:8]:
        yield (*path, key)
        yield from entries(inner, (*path, key))


def replaced(value, path, new):
    """A copy of nested dicts, lists and tuples with another value at a path."""
    if not path:
        return new
    inner = replaced(value[path[0]], path[1:], new)
    if isinstance(value, dict):
        return {**value, path[0]: inner}
    return type(value)([*value[: path[0]], inner, *value[path[0] + 1 :]])


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_entry_replaced_by_anything(half_done, record, data):
    path, trainer = half_done
    path.write_bytes(GOOD.setdefault(path, path.read_bytes()))
    checkpoint = load_checkpoint(path)
    for _ in range(data.draw(st.integers(1, 2))):
        where = data.draw(st.sampled_from(sorted(set(entries(checkpoint)), key=str)))
        checkpoint = replaced(checkpoint, where, data.draw(NASTY))
    torch.save(checkpoint, path)
    set_random_seed(0)
    one = trainer()
    ended = outcome(one.train, path.parent.parent)
    if ended == "as usual":
        assert one.start_epoch <= 4 and all(bool(torch.isfinite(p).all()) for p in one.model.parameters())
    record("malformed checkpoints, resumed", "any entry replaced by anything", ended)
