"""TorchScript archives: OpenAI's kind is read exactly; what strangers may put into one is refused and never runs."""

import io
import os
import pickle
import random
import subprocess
import sys
import zipfile

import pytest
import torch
from mocoop import clip
from mocoop.clip import torchscript
from mocoop.clip.weights import WeightsError, read_state_dict
from safetensors.torch import save_file
from torch import nn

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit")
MARKS = ("input_resolution", "context_length", "vocab_size")


def refused(path, reason=""):
    """Read a file; returns the one-line message with which it is refused."""
    with pytest.raises(WeightsError, match=reason) as error:
        read_state_dict(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


# --- honest archives -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("kind", ["vit", "rn"])
def test_tensors_are_those_that_torch_loads(make, tmp_path, kind, half):
    make.torchscript(make.clip(kind), make.sizes[kind], tmp_path / "a.pt")
    if half:
        torch.jit.load(tmp_path / "a.pt").half().save(str(tmp_path / "a.pt"))
    expected = torch.jit.load(tmp_path / "a.pt").state_dict()
    found, from_openai = read_state_dict(tmp_path / "a.pt")
    assert from_openai and set(found) == set(expected) - set(MARKS) and len(found) > 50
    assert all(torch.equal(found[k], expected[k]) and found[k].dtype == expected[k].dtype for k in found)


def test_views_shared_storages_and_shared_modules(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.far = nn.Linear(2, 3), nn.Linear(3, 2)
            self.one.weight = nn.Parameter(torch.arange(24.0).reshape(4, 6)[1:, 2:4])  # offset 8, strides 6 and 1
            self.far.weight = nn.Parameter(self.one.weight.detach().t())  # the same numbers, transposed
            self.register_buffer("none", torch.empty(0, 4))
            self.register_buffer("flags", torch.tensor([True, False]))

        def forward(self, x):
            return self.far(self.one(x)) * self.flags

    torch.jit.trace(Net(), torch.zeros(1, 2)).save(str(tmp_path / "a.pt"))
    found, _ = read_state_dict(tmp_path / "a.pt")
    weight = torch.tensor([[8.0, 9.0], [14.0, 15.0], [20.0, 21.0]])
    assert torch.equal(found["one.weight"], weight) and torch.equal(found["far.weight"], weight.t())
    assert found["none"].shape == (0, 4) and found["flags"].tolist() == [True, False]


# --- archives that run code ------------------------------------------------------------------------------------------


class Writes(nn.Module):
    """Writes a file of its choice when it is loaded."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    @torch.jit.export
    def __getstate__(self):
        return self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]):
        self.weight, self.training = state[0], state[1]
        torch.save(self.weight, "code-ran")

    def forward(self, x):
        return x * self.weight


class Loops(Writes):
    """Never ends when it is loaded."""

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]):
        self.weight, self.training = state[0], state[1]
        while bool(self.weight.sum() > 0):
            self.weight = self.weight + 1


LOAD = "import sys, torch; torch.jit.load(sys.argv[1])"
READ = "import sys; from mocoop import clip; clip.load_backbone(sys.argv[1])"


@pytest.mark.parametrize("module", [Writes, Loops])
def test_code_in_an_archive_does_not_run(tmp_path, module, record):
    """In processes of their own: torch's own way does run it, or the test would say nothing."""
    torch.jit.script(module()).save(str(tmp_path / "evil.pt"))

    def start(code, name, timeout):
        return subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code, name],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    if module is Loops:
        with pytest.raises(subprocess.TimeoutExpired):
            start(LOAD, "evil.pt", 8)
    else:
        start(LOAD, "evil.pt", 60)
        os.remove(tmp_path / "code-ran")
    for name in ("evil.pt", "evil.pt@ViT-B/16"):
        done = start(READ, name, 60)
        assert "evil.pt is refused: reading it would run code that the file names (__torch__" in done.stderr
        assert f"{module.__name__}.__setstate__" in done.stderr
        record("archives of weights", f"TorchScript whose __setstate__ {module.__name__.lower()}", "refused, not run")
    assert [path.name for path in tmp_path.iterdir()] == ["evil.pt"]


# --- archives by hand ------------------------------------------------------------------------------------------------


def archive(path, tree, storages=(b"\x00\x00\x80\x3f" * 4,), compress=(), extra=()):
    """A TorchScript archive of one data.pkl and storages."""
    with zipfile.ZipFile(path, "w") as file:
        members = {"a/data.pkl": tree, "a/constants.pkl": b"\x80\x02).", "a/version": b"3\n", **dict(extra)}
        members |= {f"a/data/{key}": content for key, content in enumerate(storages)}
        for name, content in members.items():
            file.writestr(name, content, zipfile.ZIP_DEFLATED if name in compress else zipfile.ZIP_STORED)
    return path


def module(**attributes):
    """Pickle of a module: attributes are pickles without head and stop."""
    inside = b"".join(b"X" + len(k).to_bytes(4, "little") + k.encode() + v for k, v in attributes.items())
    return b"c__torch__.net\nNet\n)\x81}(" + inside + b"ub"


def numbers(count, size, stride, offset=0, key="0", storage="FloatStorage"):
    """Pickle of a tensor."""

    def plain(value):
        return pickle.dumps(value, 2)[2:-1].replace(b"q\x00", b"").replace(b"q\x01", b"")

    saved = b"(" + plain("storage") + f"ctorch\n{storage}\n".encode() + plain(key) + plain("cpu") + plain(count) + b"tQ"
    tensor = plain(offset) + b"(" + b"".join(map(plain, size)) + b"t(" + b"".join(map(plain, stride)) + b"t"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + saved + tensor + b"\x89ccollections\nOrderedDict\n)RtR"


def whole(body):
    return b"\x80\x02" + body + b"."


def test_archive_by_hand_is_read(tmp_path):
    """What the malformed ones below differ from."""
    tree = whole(module(w=numbers(4, (2, 1), (2, 1), 1), training=b"\x88", sub=module(v=numbers(4, (4,), (1,)))))
    content = torch.arange(4.0).numpy().tobytes()
    state, from_openai = read_state_dict(archive(tmp_path / "a.pt", tree, [content]))
    assert {key: value.tolist() for key, value in state.items()} == {"w": [[1.0], [3.0]], "sub.v": [0.0, 1.0, 2.0, 3.0]}
    assert not from_openai


def nested(levels):
    body = module(w=numbers(4, (4,), (1,)))
    for _ in range(levels):
        body = module(m=body)
    return body


def fan(levels):
    """Modules that hold the next one twice, under two names: 2^levels names."""
    body = module(w=numbers(4, (4,), (1,))) + b"q\x00"
    for level in range(1, levels):
        body = b"c__torch__.net\nNet\n)\x81}(X\x01\x00\x00\x00a" + body + b"X\x01\x00\x00\x00bh" + bytes([level - 1])
        body += b"ubq" + bytes([level])
    return body


ITSELF = b"c__torch__.net\nNet\n)\x81q\x00}(X\x01\x00\x00\x00mh\x00ub"
ONE = module(w=numbers(4, (4,), (1,)))
MALFORMED = {
    "names a function": (whole(b"cos\nsystem\nX\x02\x00\x00\x00ls\x85R"), {}, r"would run code .*\(os.system\)"),
    "names builtins": (whole(b"cbuiltins\nexec\nX\x01\x00\x00\x001\x85R"), {}, r"would run code .*builtins.exec"),
    "names a part of torch": (whole(b"ctorch.hub\nload\n)R"), {}, r"would run code .*torch.hub.load"),
    "module within itself": (whole(ITSELF), {}, "endless"),
    "modules 60 deep": (whole(nested(60)), {}, "endless"),
    "two names for each of 40 levels": (whole(fan(40)), {}, "endless"),
    "memo of 4 thousand million places": (whole(ONE[:-1] + b"r\xff\xff\xff\xff" + b"b"), {}, "places in memory"),
    "text longer than the file": (b"\x80\x02X\xff\xff\xff\x7fabc.", {}, "truncated or damaged"),
    "cut pickle": (whole(ONE)[:-9], {}, "truncated or damaged"),
    "no pickle": (b"hello", {}, "truncated or damaged"),
    "root is a number": (whole(b"K\x05"), {}, "non-empty dict of tensors"),
    "storage of another length": (whole(module(w=numbers(5, (4,), (1,)))), {}, "has 4 numbers, not 5"),
    "storage that is not there": (whole(module(w=numbers(4, (4,), (1,), key="7"))), {}, "truncated or damaged"),
    "storage of a strange kind": (whole(module(w=numbers(4, (4,), (1,), storage="QInt8Storage"))), {}, "QInt8Storage"),
    "tensor beyond its storage": (whole(module(w=numbers(4, (4,), (2,)))), {}, "truncated or damaged"),
    "tensor before its storage": (whole(module(w=numbers(4, (1,), (1,), -1))), {}, "truncated or damaged"),
    "tensor with stride 0": (whole(module(w=numbers(4, (1 << 40,), (0,)))), {}, "larger than what the file holds"),
    "tensor of a negative size": (whole(module(w=numbers(4, (-1,), (1,)))), {}, "truncated or damaged"),
    "compressed numbers": (whole(ONE), {"compress": ["a/data/0"]}, "compressed or overlap"),
    "compressed tree": (whole(ONE), {"compress": ["a/data.pkl"]}, "compressed or overlap"),
    "numbers in another byte order": (whole(ONE), {"extra": {"a/byteorder": b"middle"}}, "byte order"),
    "tree of 8 MB": (whole(b"0" * (9 << 20)), {}, "larger than 8,388,608 bytes"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_archive_is_refused(tmp_path, name, record):
    tree, options, reason = MALFORMED[name]
    refused(archive(tmp_path / "a.pt", tree, **options), reason)
    record("archives of weights", f"TorchScript: {name}", "refused by name")


def test_members_that_overlap_are_refused(tmp_path, record):
    """Each entry of the zip's directory points at the same megabyte."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a/data.pkl", whole(ONE))
        file.writestr("a/constants.pkl", b"\x80\x02).")
        file.writestr("a/data/0", bytes(1 << 20))
        for key in range(1, 50):
            twin = zipfile.ZipInfo(f"a/data/{key}")
            first = file.getinfo("a/data/0")
            twin.header_offset, twin.CRC = first.header_offset, first.CRC
            twin.file_size = twin.compress_size = first.file_size
            file.filelist.append(twin)
        file._didModify = True
    (tmp_path / "a.pt").write_bytes(buffer.getvalue())
    refused(tmp_path / "a.pt", "compressed or overlap")
    record("archives of weights", "zip whose members overlap (50 MB out of 1)", "refused by name")


def test_zip_that_is_no_checkpoint(tmp_path, record):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as file:
        file.writestr("word/document.xml", "<x/>")
    refused(tmp_path / "a.pt", "is a zip file, but no checkpoint")
    record("archives of weights", "zip without tensors", "refused by name")


# --- damage ----------------------------------------------------------------------------------------------------------


def saved(kind, path):
    state = {f"layer{n}.weight": torch.randn(5, 5, generator=torch.Generator().manual_seed(n)) for n in range(8)}
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "TorchScript":
        torch.manual_seed(0)
        net = nn.Sequential(*(nn.Linear(5, 5) for _ in range(4)))
        torch.jit.trace(net, torch.zeros(1, 5)).save(str(path))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "state dict")
    return path.read_bytes()


KINDS = ["TorchScript", "state dict", "state dict of old torch", "safetensors"]


@pytest.mark.parametrize("kind", KINDS)
def test_file_cut_anywhere_is_refused(tmp_path, kind, record):
    path = tmp_path / "a.pt"
    content = saved(kind, path)
    cuts = random.Random(0).sample(range(len(content)), 60) + [0, 1, 8, 9, 64, len(content) - 1]
    for cut in cuts:
        path.write_bytes(content[:cut])
        refused(path, "truncated or damaged|is not a checkpoint|bytes begin with")
    record("weights", f"{kind} cut short", "refused by name", tries=len(cuts))


@pytest.mark.parametrize("kind", KINDS)
def test_file_with_wrong_bytes_is_refused_or_read(tmp_path, kind, record):
    """Numbers carry no sum in most formats: what is read has the names and kinds of tensors, whatever their values."""
    path, draw = tmp_path / "a.pt", random.Random(1)
    content, read = saved(kind, path), 0
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(draw.choice([1, 1, 4, 40])):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            state, _ = read_state_dict(path)
        except WeightsError as error:
            assert str(path) in str(error)
        else:
            read += 1
            assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())
    assert 0 < read < 150
    record("weights", f"{kind} with wrong bytes", "refused by name, or read as tensors", tries=150)


# --- shapes that lie -------------------------------------------------------------------------------------------------


def lying(make, **shapes):
    state = make.marked(make.clip("vit"), 48)
    return {**state, **{key.replace("__", "."): torch.zeros(shape) for key, shape in shapes.items()}}


SHAPES = {
    "vector for a matrix": {"text_projection": (7,)},
    "matrix for a convolution": {"visual__conv1__weight": (128, 3)},
    "tensor without numbers": {"visual__conv1__weight": (128, 3, 0, 16)},
    "context of a million tokens": {"positional_embedding": (1_000_000, 1)},
    "image tower a million wide": {"visual__conv1__weight": (1_000_000, 3, 1, 1)},
    "width that heads do not divide": {"ln_final__weight": (200,)},
    "text tower of another width": {"ln_final__weight": (64,)},
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_that_are_no_clip(make, tmp_path, name, record):
    path = tmp_path / "a.pt"
    torch.save(lying(make, **SHAPES[name]), path)
    with pytest.raises(ValueError, match=str(path)):
        clip.load_backbone(str(path))
    record("weights", f"shapes of no CLIP: {name}", "refused by name, nothing allocated")


def test_limits_leave_room_for_the_largest_models(make, tmp_path):
    """ViT-L/14 has 24 + 12 blocks of 12 tensors and 7 modules each."""
    model = make.clip("vit")
    make.torchscript(model, 48, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as file:
        tree = next(member for member in file.infolist() if member.filename.endswith("/data.pkl"))
    assert tree.file_size / 4 * 36 < torchscript.MAX_TREE / 50
    assert len(list(model.modules()) + list(model.state_dict())) / 4 * 36 < torchscript.MAX_NAMES / 4
