import os
import pickle
import re
import sys

import pytest
import torch
from mocoop.clip.weights import WeightsError, load_strictly, read_state_dict
from safetensors.torch import save_file
from torch import nn

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(2.0, dtype=torch.float16)}


class Evil:
    def __reduce__(self):
        return os.mkdir, ("code-ran",)


def equal(found, expected):
    return list(found) == list(expected) and all(
        torch.equal(found[k], expected[k]) and found[k].dtype == expected[k].dtype for k in expected
    )


def test_formats_are_told_by_content_not_by_suffix(tmp_path):
    torch.save(STATE, tmp_path / "zip.safetensors")
    torch.save(STATE, tmp_path / "legacy.bin", _use_new_zipfile_serialization=False)
    save_file(STATE, tmp_path / "safe.pt")
    for name in ("zip.safetensors", "legacy.bin", "safe.pt"):
        state, from_openai = read_state_dict(tmp_path / name)
        assert equal(dict(sorted(state.items())), STATE) and not from_openai


@pytest.mark.parametrize("first", [b"\x80", b"PK", b"\x80\x02", b"<!"])
def test_safetensors_whose_length_looks_like_another_format(tmp_path, first):
    """The file begins with the length of its header: 128 bytes, or 19,280, or 640, or 8,508."""
    length = int.from_bytes(first, "little")
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(length)
    (tmp_path / "a.pt").write_bytes(length.to_bytes(8, "little") + header + b"\x00\x00\x80\x3f")
    assert equal(read_state_dict(tmp_path / "a.pt")[0], {"a": torch.ones(1)})


def test_training_checkpoint_is_unwrapped(tmp_path):
    wrapped = {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in STATE.items()}, "optimizer": {}}
    torch.save(wrapped, tmp_path / "a.pt")
    assert equal(read_state_dict(tmp_path / "a.pt")[0], STATE)


def test_marks_of_openai_are_taken_out_and_reported(tmp_path):
    marks = {name: torch.tensor(1) for name in ("input_resolution", "context_length", "vocab_size")}
    torch.save({**STATE, **marks}, tmp_path / "a.pt")
    state, from_openai = read_state_dict(tmp_path / "a.pt")
    assert equal(state, STATE) and from_openai


def test_file_that_would_run_code_is_refused_and_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Evil()}, "zip.pt")
    torch.save({"a": Evil()}, "legacy.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Evil()))
    torch.save(nn.Linear(2, 2), "module.pt")
    for name, wanted in (("zip.pt", "mkdir"), ("legacy.pt", "mkdir"), ("plain.pt", "mkdir"), ("module.pt", "Linear")):
        with pytest.raises(WeightsError, match=f"{name} is refused: .* would run code .*{wanted}.*tensors only"):
            read_state_dict(name)
    assert not (tmp_path / "code-ran").exists()


@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.parametrize("kind", ["zip", "legacy", "torchscript", "safetensors"])
@pytest.mark.parametrize("share", [0.5, 0.99])
def test_truncated_files_are_named_with_their_size(tmp_path, make, kind, share):
    path = tmp_path / "a.pt"
    state = {"a": torch.randn(1000)}
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "torchscript":
        torch.jit.trace(nn.Linear(50, 50), torch.zeros(1, 50)).save(str(path))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    size = int(path.stat().st_size * share)
    os.truncate(path, size)
    with pytest.raises(WeightsError, match=re.escape(f"{path} ({size} bytes) is truncated or damaged")) as error:
        read_state_dict(path)
    assert "weights_only" not in str(error.value)  # torch advises to load it unsafely


def test_what_is_no_checkpoint(tmp_path):
    for content, shown in ((b"<!DOCTYPE html><html>", "<!DOCTYPE html>"), (b"", "0 bytes"), (b"\x00" * 99, "99 bytes")):
        (tmp_path / "a.pt").write_bytes(content)
        with pytest.raises(WeightsError, match=f"a.pt is not a checkpoint: .*{shown}"):
            read_state_dict(tmp_path / "a.pt")
    for content, shown in ((torch.zeros(2), "holds Tensor"), ({}, "holds dict"), ({"a": torch.ones(1), "b": 3}, "b")):
        torch.save(content, tmp_path / "a.pt")
        with pytest.raises(WeightsError, match=shown):
            read_state_dict(tmp_path / "a.pt")


def test_missing_file_is_named_absolutely(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"no weights file at {tmp_path}/no.pt$"):
        read_state_dict("no.pt")
    with pytest.raises(FileNotFoundError, match=r"\(a folder\)"):
        read_state_dict(tmp_path)


def test_strict_loading_lists_every_mismatch_and_changes_nothing():
    model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2), nn.BatchNorm1d(2))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = {key: torch.ones_like(value) for key, value in before.items() if key != "1.weight"}
    state |= {"0.weight": torch.ones(2, 4), **{f"extra{i}": torch.ones(1) for i in range(6)}}
    with pytest.raises(WeightsError) as error:
        load_strictly(model, state, "the file")
    assert str(error.value).splitlines() == [
        "the file: the weights do not belong to this architecture; nothing was loaded.",
        "  1 missing: 1.weight",
        "  6 unexpected: extra0, extra1, extra2, extra3, extra4, …",
        "  1 of another shape: 0.weight [2, 4] (expected [2, 3])",
    ]
    assert equal(model.state_dict(), before)


def test_derived_buffers_of_traced_archives_are_not_weights():
    model = nn.Linear(3, 2)
    model.register_buffer("attn_mask", torch.zeros(2), persistent=False)
    load_strictly(model, {**model.state_dict(), "attn_mask": torch.ones(2)}, "the file")
    assert model.attn_mask.sum() == 0


def test_half_weights_become_float32():
    model = nn.Linear(3, 2)
    state = {"weight": torch.full((2, 3), 0.1, dtype=torch.float16), "bias": torch.zeros(2, dtype=torch.float16)}
    load_strictly(model, state, "the file")
    assert model.weight.dtype == torch.float32
    assert torch.equal(model.weight, torch.full((2, 3), 0.0999755859375))  # 0.1 rounded to 11 bits


def test_logit_scale_may_be_a_vector_of_one():
    model = nn.Module()
    model.logit_scale = nn.Parameter(torch.tensor(0.0))
    load_strictly(model, {"logit_scale": torch.tensor([4.5])}, "the file")
    assert model.logit_scale.item() == 4.5 and model.logit_scale.shape == ()


def test_no_unsafe_unpickling_in_the_package():
    """No file of clip/ may call torch.load without weights_only=True."""
    folder = os.path.dirname(sys.modules[read_state_dict.__module__].__file__)
    calls = []
    for file in sorted(os.listdir(folder)):
        if file.endswith(".py"):
            with open(os.path.join(folder, file), encoding="utf-8") as text:
                calls += re.findall(r"torch\.load\(.*\)|pickle\.loads?\(.*\)", text.read())
    assert calls == ['torch.load(file, map_location="cpu", weights_only=True)']
