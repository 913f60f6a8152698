"""Exported files: equal to the model for every method, enough by themselves, never half written."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mocoop
import numpy as np
import pytest
import torch
from mocoop import Classifier, methods
from mocoop.classifier import export
from mocoop.classifier.training import Plan, settings
from mocoop.commands.main import main
from mocoop.toolbox.dassl.errors import WrongValue

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
writes_onnx = pytest.mark.skipif(not export.torch_writes_onnx(), reason="torch exports to ONNX from 2.6 on")

ROOT = Path(mocoop.__file__).parent
NAMES = ["cat", "sea or lake", "tree_house"]
TRAINED = {"CoOp": {"n_ctx": 4}, "CoCoOp": {"n_ctx": 3}, "LASP": {"groups": 2}}


def untrained(backbone, method, **given):
    """A classifier with the method's start, moved a little so that nothing is zero, with a temperature."""
    row = methods.named(method)
    clf = Classifier(method, backbone, device="cpu", workers=1)
    model = Plan(row, backbone, NAMES, *settings(row, "tiny", {**TRAINED.get(method, {}), **given})).model(seed=1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    clf.accept(model, NAMES)
    clf.temperature_, clf.threshold_, clf.fit_, clf.tried_ = 1.7, 0.4, {}, []
    return clf


def noise(count, size=32):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(5))


def expected(clf, images):
    """Features, logits, probabilities and expert weights as the model itself gives them."""
    with torch.no_grad():
        features = clf.model.encode_image(images)
        logits = clf.model.logits(features)
        found = [features, logits, (logits / clf.temperature_).softmax(dim=1)]
        return [*found, clf.model.route(features)[1]] if clf.model.method == "MoCoOp" else found


def run_onnx(path, images):
    return ort.InferenceSession(str(path)).run(None, {"image": images.numpy()})


@writes_onnx
@pytest.mark.slow
@pytest.mark.parametrize("method", methods.table())
def test_onnx_equals_the_model_for_batches_of_any_size(method, tiny_backbone, tmp_path):
    clf, path = untrained(tiny_backbone, method), tmp_path / "model.onnx"
    assert export.write_onnx(clf, path) == ""
    outputs = [output.name for output in ort.InferenceSession(str(path)).get_outputs()]
    assert outputs == ["features", "logits", "probabilities", *(["expert_weights"] if method == "MoCoOp" else [])]
    for count in (1, 5):
        for ours, found in zip(expected(clf, noise(count)), run_onnx(path, noise(count)), strict=True):
            np.testing.assert_allclose(found, ours.numpy(), atol=1e-4, rtol=1e-4)
    words = tiny_backbone.text.token_embedding.weight.numel()
    assert path.stat().st_size < 4 * words / 4  # no token embedding, let alone the text tower
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]


@writes_onnx
def test_onnx_says_what_one_needs_to_use_it(tiny_backbone, tmp_path):
    clf = untrained(tiny_backbone, "MoCoOp")
    export.write_onnx(clf, tmp_path / "model.onnx")
    props = onnx.load(str(tmp_path / "model.onnx")).metadata_props
    found = json.loads({entry.key: entry.value for entry in props}["mocoop"])
    assert found.pop("versions") == {"mocoop": mocoop.__version__, "torch": torch.__version__}
    assert found == {
        "labels": NAMES,
        "size": 32,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "interpolation": "bicubic",
        "temperature": 1.7,
        "threshold": 0.4,
        "method": "MoCoOp",
        "backbone": "tiny",
        "experts": [group[0] for group in clf.model.groups],
        "precision": "fp32",
    }


@writes_onnx
@pytest.mark.slow
def test_a_convolutional_tower(tmp_path):
    from mocoop.clip import Backbone, Preprocess, Tokenizer
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    torch.manual_seed(0)
    vision = CLIPVisionCfg(layers=(1, 1, 1, 1), width=8, head_width=16, image_size=64)
    model = CLIP(24, vision, CLIPTextCfg(context_length=77, width=32, heads=2, layers=2)).eval().requires_grad_(False)
    half = (0.5, 0.5, 0.5)
    clf = untrained(Backbone("tiny", model, Preprocess(64, half, half), Tokenizer()), "CoOp")
    export.write_onnx(clf, tmp_path / "model.onnx")
    found = run_onnx(tmp_path / "model.onnx", noise(3, 64))
    np.testing.assert_allclose(found[2], expected(clf, noise(3, 64))[2].numpy(), atol=1e-4)


@pytest.fixture(scope="module")
def run(fitted, tmp_path_factory):
    """The folder of a run of MoCoOp on the demo backbone, trained on `photos`."""
    folder = tmp_path_factory.mktemp("run")
    fitted("MoCoOp").save(folder / "classifier.safetensors")
    return folder


@writes_onnx
@pytest.mark.slow
@pytest.mark.parametrize(("precision", "most"), [("fp16", 0.6), ("int8", 0.6)])
def test_smaller_numbers_are_smaller_and_measured(precision, most, run, photos, fitted, tmp_path, capsys):
    clf, path = fitted("MoCoOp"), tmp_path / "model.onnx"
    call = ["export", str(run), "--out", str(path), "--images", str(photos)]
    assert main([*call, "--precision", precision]) == 0
    rows = dict(re.split(r"\s{2,}", line) for line in capsys.readouterr().out.splitlines() if "  " in line)
    assert rows["images"] == "12" and rows["accuracy, torch"] == f"{100 * clf.score(str(photos)):.2f}%"
    tower = sum(p.numel() for p in clf.model.backbone.visual.parameters())
    assert path.stat().st_size < most * 4 * tower
    session = ort.InferenceSession(str(path))
    batch = torch.stack([clf.preprocess(mocoop_image(p)) for p in sorted((photos / "test").rglob("*.png"))])
    (answers,) = session.run(["probabilities"], {"image": batch.numpy()})
    ours = clf.predict_proba(sorted(map(str, (photos / "test").rglob("*.png"))))
    same = 100 * (answers.argmax(1) == ours.argmax(1)).mean()
    assert rows["same answer"] == f"{same:.2f}%" and same >= 75
    assert float(rows["largest difference of probabilities"]) == pytest.approx(np.abs(answers - ours).max(), rel=0.1)


def test_folders_with_underscores_are_measured_as_the_classes_of_a_run_of_train_py(fitted, photos, tmp_path):
    clf = copy.copy(fitted("MoCoOp"))
    first, *others = clf.classes_.tolist()
    clf.classes_ = np.array([f"{first} two words", *others])
    for path in sorted((photos / "test").rglob("*.png")):
        label = path.parent.name.replace(first, f"{first}_two_words")
        (tmp_path / label).mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / label)

    class Session:
        def run(self, names, inputs):
            with torch.no_grad():
                return [(clf.model(torch.from_numpy(inputs["image"])) / clf.temperature_).softmax(dim=1).numpy()]

    assert "same answer                          100.00%" in export.measure(clf, Session(), str(tmp_path), "ONNX fp32")


def mocoop_image(path):
    from PIL import Image

    return Image.open(path).convert("RGB")


SNIPPET = re.search(r"<!-- test: onnx -->\n```python\n(.*?)```", (ROOT / "docs/USE.md").read_text(), re.S)
NO_TORCH = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "open_clip", "mocoop"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
"""


@writes_onnx
@pytest.mark.slow
def test_the_snippet_of_the_docs_predicts_without_torch(run, fitted, images, tmp_path):
    from PIL import Image

    (tmp_path / "run").mkdir()
    (tmp_path / "new").mkdir()
    assert main(["export", str(run), "--out", str(tmp_path / "run/model.onnx")]) == 0
    Image.open(images[0]).resize((75, 50)).save(tmp_path / "new/0.png")
    done = subprocess.run(
        [sys.executable, "-c", NO_TORCH + SNIPPET[1]], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    label, probability = done.stdout.rsplit(maxsplit=1)
    ours = fitted("MoCoOp").predict_proba([str(tmp_path / "new/0.png")])[0]
    assert label == fitted("MoCoOp").classes_[ours.argmax()] and float(probability) == pytest.approx(
        ours.max(), abs=1e-4
    )


@pytest.mark.parametrize("method", ["ZeroshotCLIP", "CoCoOp", "LASP", "MoCoOp"])
def test_torchscript_equals_the_model(method, tiny_backbone, tmp_path):
    clf, path = untrained(tiny_backbone, method), tmp_path / "model.pt"
    export.write_torchscript(clf, path)
    extra = {"mocoop.json": ""}
    loaded = torch.jit.load(str(path), _extra_files=extra)
    assert json.loads(extra["mocoop.json"])["labels"] == NAMES
    for count in (1, 5):
        for ours, found in zip(expected(clf, noise(count)), loaded(noise(count)), strict=True):
            torch.testing.assert_close(found, ours, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_features_are_the_class_matrix(suffix, tiny_backbone, tmp_path):
    from safetensors.numpy import load_file

    for method in ("CoOp", "LASP"):
        clf, path = untrained(tiny_backbone, method), tmp_path / f"{method}{suffix}"
        export.write_features(clf, path)
        found = dict(np.load(path)) if suffix == ".npz" else load_file(path)
        if suffix == ".npz":
            assert found["labels"].tolist() == NAMES and json.loads(str(found["about"]))["temperature"] == 1.7
        features = expected(clf, noise(2))[0].numpy()
        assert found["features"].shape == (3, 24)
        np.testing.assert_allclose(np.linalg.norm(found["features"], axis=1), 1, atol=1e-5)
        logits = found["logit_scale"] * features @ found["features"].T
        np.testing.assert_allclose(logits, expected(clf, noise(2))[1].numpy(), atol=1e-3)


def test_features_of_experts_and_their_router_answer_as_the_docs_say(tiny_backbone, tmp_path):
    clf = untrained(tiny_backbone, "MoCoOp", topk=2)
    export.write_features(clf, tmp_path / "experts.npz")
    found = np.load(tmp_path / "experts.npz")
    image = expected(clf, noise(1))[0].numpy()[0]
    scores = found["router_weight"] @ image + found["router_bias"]
    best = np.argsort(scores)[-int(found["topk"]) :]
    weights = np.exp(scores[best]) / np.exp(scores[best]).sum()
    logits = found["logit_scale"] * sum(w * found["features"][g] @ image for g, w in zip(best, weights, strict=True))
    np.testing.assert_allclose(logits, expected(clf, noise(1))[1].numpy()[0], atol=1e-3)


def test_what_is_refused(tiny_backbone, tmp_path, run, capsys):
    with pytest.raises(WrongValue, match="CoCoOp makes other class features for every image: export as onnx"):
        export.write_features(untrained(tiny_backbone, "CoCoOp"), tmp_path / "f.npz")
    clf = untrained(tiny_backbone, "CoOp")
    with pytest.raises(WrongValue, match=r"f\.bin: expected a name that ends in \.npz or \.safetensors"):
        export.write_features(clf, tmp_path / "f.bin")
    with pytest.raises(WrongValue, match="precision: expected one of fp32, fp16, int8, found 'int4'"):
        export.write_onnx(clf, tmp_path / "m.onnx", "int4")
    assert main(["export", str(run), "--format", "features", "--precision", "int8"]) == 1
    assert "Error: --precision and --images are for ONNX files" in capsys.readouterr().err
    (run / "broken.safetensors").write_bytes((run / "classifier.safetensors").read_bytes()[:1000])
    assert main(["export", str(run / "broken.safetensors")]) == 1
    assert "is truncated, damaged" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["export", str(run), "--format", "tflite"])
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_replaced_only_if_asked(run, tmp_path, capsys):
    path = tmp_path / "f.npz"
    path.write_text("mine")
    call = ["export", str(run), "--format", "features", "--out", str(path)]
    assert main(call) == 1 and path.read_text() == "mine"
    assert capsys.readouterr().err == f"Error: {path} exists; give another --out, or --overwrite\n"
    assert main([*call, "--overwrite"]) == 0 and "features" in np.load(path)


@pytest.mark.slow
@pytest.mark.parametrize("form", [pytest.param("onnx", marks=writes_onnx), "torchscript", "features"])
def test_a_file_that_answers_otherwise_or_cannot_be_written_is_not_put_in_place(
    form, tiny_backbone, tmp_path, monkeypatch
):
    clf, path = untrained(tiny_backbone, "CoOp"), tmp_path / "model.npz"
    write = {"onnx": export.write_onnx, "torchscript": export.write_torchscript, "features": export.write_features}[
        form
    ]
    path.write_text("mine")
    if form != "features":
        monkeypatch.setattr(export, "TOLERANCE", 0.0 if form == "onnx" else -1.0)
        with pytest.raises(WrongValue, match="gives other features than torch for a batch of 1"):
            write(clf, path, overwrite=True)
        monkeypatch.undo()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        write(clf, path, overwrite=True)
    assert path.read_text() == "mine" and [entry.name for entry in tmp_path.iterdir()] == ["model.npz"]


@pytest.mark.slow
def test_without_the_packages_the_extra_is_named(run, tmp_path):
    code = "import sys; sys.modules['onnxscript'] = None; from mocoop.commands.main import main; sys.exit(main())"
    out = tmp_path / "m.onnx"
    done = subprocess.run(
        [sys.executable, "-c", code, "export", str(run), "--out", str(out)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1 and "pip install 'mocoop[export]'" in done.stderr and "Traceback" not in done.stderr
    assert not out.exists()
