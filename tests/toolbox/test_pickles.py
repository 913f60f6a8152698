"""Pickles made to keep their reader busy without end are refused before they are unpickled; honest ones pass."""

import io
import pickle
import random
import subprocess
import sys
import zipfile

import pytest
import torch
from dassl.utils import pickles
from dassl.utils.pickles import check_pickle, check_pickles
from dassl.utils.schema import Unfit

TWICE = b"0h\x00h\x00\x86q\x00"  # drop what is on the stack, put (t, t) there and remember it as t
BOMB = b")q\x00" + TWICE * 60
LISTED = b"](" + b"K\x01q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"e"
KEY = b"\x80\x02}" + BOMB + b"K\x01s."
READ = "import sys\nfrom mocoop.clip.weights import read_state_dict\nread_state_dict(sys.argv[1])"
LOAD = "import sys\nfrom mocoop.toolbox.dassl.utils import load_checkpoint\nload_checkpoint(sys.argv[1])"
LEGACY = "import sys\nfrom mocoop.toolbox.dassl.utils.legacy import read_legacy\nread_legacy(sys.argv[1])"
ENDLESS = {
    "TorchScript with such a key": (READ, KEY, ["constants.pkl"]),
    "TorchScript, a module with such a key": (
        READ,
        b"\x80\x02c__torch__\nM\n)\x81" + KEY[2:-1] + b"b.",
        ["constants.pkl"],
    ),
    "weights with such a key": (READ, KEY, []),
    "checkpoint with such a key": (LOAD, b"\x80\x02}X\x01\x00\x00\x00l" + LISTED + b"sh\x00K\x01s.", []),
    "old checkpoint with such a key": (LEGACY, KEY, []),
}


def zipped(path, tree, others=()):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", tree)
        for name in ("version", *others):
            archive.writestr(f"a/{name}", b"3\n" if name == "version" else b"\x80\x02).")
    return path


def check(body):
    check_pickle(io.BytesIO(b"\x80\x02" + body + b"."))


@pytest.mark.parametrize("name", ENDLESS)
def test_tuples_in_tuples_as_a_key_do_not_hang(tmp_path, record, name):
    """In a process of its own, which would never end."""
    code, tree, others = ENDLESS[name]
    path = zipped(tmp_path / "a.pt", tree, others)
    command = [sys.executable, "-W", "ignore", "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 1 and "tuples that hold each other to more than 10,000 values" in done.stderr
    record("pickles without end", name, "refused before it is unpickled")


@pytest.mark.parametrize(
    ("name", "body"),
    {
        "key": b"}" + BOMB + b"K\x01s",
        "keys": b"}(" + BOMB + b"K\x01u",
        "set": b"\x8f(" + BOMB + b"\x90",
        "frozen set": b"(" + BOMB + b"\x91",
        "pairs of an OrderedDict": b"ccollections\nOrderedDict\n](" + BOMB + b"K\x01\x86e\x85R",
        "copied by DUP": b")" + b"2\x86" * 60,
        "in places of protocol 4": b")\x94"
        + b"".join(b"h" + bytes([n]) * 1 + b"h" + bytes([n]) + b"\x86\x94" for n in range(60)),
        "tuples of one, a million deep": b")" + b"\x85" * 10**6,
        "name of a storage": b"(X\x07\x00\x00\x00storage)\x85\x85\x85" + b"K\x01" * 12 + b"tQ",
        "name of a storage, a list": b"(X\x07\x00\x00\x00storage]tQ",
        "given back by a call": b")q\x00" + b"0ctorch.jit._pickle\nbuild_intlist\nh\x00h\x00\x86\x85Rq\x00" * 60,
        "memo of 4 thousand million places": b"Nr\xff\xff\xff\xff",
        "steps without end": b"N0" * 1000,
    }.items(),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_way_to_such_tuples_is_refused(record, monkeypatch, name, body):
    if name == "steps without end":
        monkeypatch.setattr(pickles, "MOST_STEPS", 2000)
    with pytest.raises(Unfit, match="its pickle"):
        check(body)
    record("pickles without end", name, "refused before it is unpickled")


@pytest.mark.parametrize("body", [b"", b"0", b"(", b"K\x01e", b"h\x00", b"(K\x01\x86", b"X\xff\xff\xff\x7fa", b"\xff"])
def test_what_is_no_pickle_is_no_pass(body):
    with pytest.raises(ValueError, match="."):
        check(body)


@pytest.mark.parametrize("protocol", range(6))
def test_honest_pickles_pass(protocol):
    shared = tuple(range(20))
    value = {"rng": random.Random(0).getstate(), "many": list(range(10**5)), (1, "a"): {1, 2}, "shared": [shared] * 99}
    check_pickle(io.BytesIO(pickle.dumps(value, protocol)))


@pytest.mark.parametrize("zipped_by_torch", [True, False])
def test_both_formats_of_torch_are_looked_through(tmp_path, zipped_by_torch):
    """All pickles of the old format too: a bomb in any of its five is found."""
    path = tmp_path / "a.pt"
    state = {f"{n}.weight": torch.ones(3, 3).t() for n in range(300)}
    torch.save({"state_dict": state, "epoch": 1}, path, _use_new_zipfile_serialization=zipped_by_torch)
    check_pickles(path)
    if not zipped_by_torch:
        path.write_bytes(b"\x80\x02K\x01." * 4 + KEY)
        with pytest.raises(Unfit, match="tuples"):
            check_pickles(path)
