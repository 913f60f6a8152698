import json
import resource
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as tries
from hypothesis import strategies as st
from mocoop import Classifier, load, methods
from mocoop.classifier import file
from mocoop.clip import load_backbone
from mocoop.tests.classifier.conftest import QUICK
from mocoop.toolbox.dassl.utils import save_checkpoint
from mocoop.trainers.trained import write_settings
from safetensors import safe_open
from safetensors.torch import load_file, save_file


def parts(path):
    """Tensors and the header of a file."""
    with safe_open(str(path), "pt") as opened:
        return load_file(str(path)), json.loads(opened.metadata()["mocoop"])


def rewrite(path, tensors, header):
    save_file(tensors, str(path), {"mocoop": json.dumps(header)})
    return path


@pytest.fixture(scope="module")
def saved(fitted, tmp_path_factory):
    """A function: method -> its saved file."""
    folder = tmp_path_factory.mktemp("saved")

    def get(method):
        path = folder / f"{method}.safetensors"
        if not path.exists():
            fitted(method).save(path)
        return path

    return get


@pytest.fixture()
def no_text_tower(monkeypatch):
    """A function: from now on any use of the text tower is an error."""

    def refuse(*_):
        raise AssertionError("the text tower was used")

    return lambda: monkeypatch.setattr("mocoop.clip.text.TextEncoder.forward", refuse)


# ---- what comes back


@pytest.mark.parametrize("method", [row.name for row in methods.OURS])
def test_the_round_trip_is_equal_bit_by_bit(method, fitted, saved, images):
    clf, back = fitted(method), load(saved(method), device="cpu")
    assert np.array_equal(back.predict_proba(images), clf.predict_proba(images))
    kept = back.model.kept_class_features()
    assert kept is None or kept.data_ptr() % 64 == 0  # where they lie in the file, products are added in another order
    assert (
        back.classes_.tolist() == clf.classes_.tolist()
        and back.predict(images).tolist() == clf.predict(images).tolist()
    )
    assert back.model.settings() == clf.model.settings() and back.fit_ == json.loads(json.dumps(clf.fit_))
    for name, p in clf.model.named_parameters():
        assert torch.equal(p, dict(back.model.named_parameters())[name])


def test_others_may_read_what_they_may_read_of_a_users_other_files(saved, tmp_path):
    (tmp_path / "plain").touch()
    assert saved("CoOp").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_calibration_and_figures_come_back(demo, listed, tmp_path, images):
    given = {**QUICK, "backbone": demo, "folds": 2}
    clf = Classifier("CoOp", **given, least_precision=0.5).fit(*listed)
    clf.save(tmp_path / "a.safetensors")
    back = load(tmp_path / "a.safetensors")
    assert (back.temperature_, back.threshold_) == (clf.temperature_, clf.threshold_)
    assert back.figures_ == clf.figures_ and back.figures_["held_out"]["images"] == 15
    assert np.array_equal(back.predict_proba(images), clf.predict_proba(images))


def test_layernorms_of_the_image_tower_come_back(demo, photos, images, tmp_path):
    clf = Classifier("MoCoOp", **{**QUICK, "backbone": demo}, finetune_norms=True).fit(str(photos))
    plain = load_backbone("demo").visual.transformer.resblocks[0].ln_1.weight
    assert not torch.equal(clf.model.image_norms["0_ln_1_weight"], plain)
    for embed in ("no", "image", "all"):
        clf.save(tmp_path / f"{embed}.safetensors", embed)
        back = load(tmp_path / f"{embed}.safetensors", device="cpu")
        assert np.array_equal(back.predict_proba(images), clf.predict_proba(images)), embed
        if embed == "image":
            with pytest.raises(ValueError, match="image tower only"):
                back.model.set_classes(["a", "b"])
                back.model.class_features()


@pytest.mark.parametrize("method", ["ZeroshotCLIP", "CoOp", "LASP", "MoCoOp"])
def test_class_features_spare_the_text_tower(method, saved, images, fitted, no_text_tower):
    path, expected = saved(method), fitted(method).predict_proba(images)
    no_text_tower()
    assert np.array_equal(load(path, device="cpu").predict_proba(images), expected)


def test_a_method_with_prompts_for_every_image_says_so(saved, fitted, tmp_path):
    assert "class_features" not in load_file(str(saved("CoCoOp")))
    with pytest.raises(ValueError, match='embed="all"'):
        fitted("CoCoOp").save(tmp_path / "a.safetensors", embed="image")
    assert not list(tmp_path.iterdir())


def test_classes_can_change_after_loading(fitted, saved, images):
    back = load(saved("MoCoOp"), device="cpu").add_classes(["bus"])
    assert back.predict_proba(images).shape == (12, 4)
    kept = back.remove_classes(["bus"]).predict_proba(images)
    assert np.allclose(kept, fitted("MoCoOp").predict_proba(images), atol=1e-5)


def test_numbers_as_labels_stay_numbers(demo, listed, tmp_path):
    paths, labels = listed
    numbers = [3 * (label == "red_ball") for label in labels]
    Classifier("CoOp", **{**QUICK, "backbone": demo}).fit(paths, numbers, {0: "other", 3: "ball"}).save(
        tmp_path / "a.safetensors"
    )
    back = load(tmp_path / "a.safetensors")
    assert back.classes_.dtype.kind == "i" and back.classes_.tolist() == [0, 3]


# ---- CLIP in the file, or named


def test_the_image_tower_alone_in_the_file(fitted, images, tmp_path, monkeypatch):
    clf = fitted("MoCoOp")
    clf.save(tmp_path / "a.safetensors", embed="image")
    monkeypatch.setattr(file, "load_backbone", lambda *_: pytest.fail("CLIP was loaded by its name"))
    back = load(tmp_path / "a.safetensors", device="cpu")
    assert np.array_equal(back.predict_proba(images), clf.predict_proba(images))
    with pytest.raises(ValueError, match="image tower only"):
        back.add_classes(["bus"])
    names = [name for name in load_file(str(tmp_path / "a.safetensors")) if name.startswith("clip/")]
    assert all(name.startswith(("clip/visual.", "clip/logit_scale")) for name in names)
    whole = load(tmp_path / "a.safetensors", device="cpu", backbone=clf.model.backbone)
    assert whole.add_classes(["bus"]).predict_proba(images).shape == (12, 4)


def test_all_of_clip_in_the_file(fitted, images, tmp_path, monkeypatch):
    clf = fitted("CoCoOp")
    clf.save(tmp_path / "a.safetensors", embed="all")
    monkeypatch.setattr(file, "load_backbone", lambda *_: pytest.fail("CLIP was loaded by its name"))
    back = load(tmp_path / "a.safetensors", device="cpu")
    assert np.array_equal(back.predict_proba(images), clf.predict_proba(images))
    assert back.add_classes(["bus"]).predict_proba(images).shape == (12, 4)


def test_a_backbone_of_open_clip_comes_back_from_its_architecture(tmp_path):
    from mocoop.clip import embedded

    config = {
        "embed_dim": 16,
        "vision_cfg": {"layers": 1, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 32},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
        "quick_gelu": True,
    }
    torch.manual_seed(0)
    model, look = embedded.build(config).eval().requires_grad_(False), load_backbone("demo").preprocess
    for keep in (lambda name: True, embedded.image_only):
        state = {name: p for name, p in model.state_dict().items() if keep(name)}
        back = embedded.restore("mine", config, state, replace(look, size=32), "cpu", "a file")
        image = torch.randn(2, 3, 32, 32)
        assert torch.equal(back.visual(image), model.visual(image))
    wrong = {**state, "visual.new": torch.ones(1), "visual.proj": torch.ones(2, 2)}
    with pytest.raises(ValueError, match="2 tensors do not belong"):
        embedded.restore("mine", config, wrong, look, "cpu", "x")
    with pytest.raises(ValueError, match="no CLIP has the architecture"):
        embedded.restore("mine", {"embed_dim": -1}, state, look, "cpu", "x")


def test_another_clip_is_refused(saved, tmp_path):
    other = load_backbone("demo")
    with torch.no_grad():
        other.visual.proj[0, 0] += 1e-3
    with pytest.raises(ValueError, match="made with another CLIP than demo is here"):
        load(saved("MoCoOp"), backbone=other)


def test_a_clip_that_is_called_otherwise_here(saved, images, fitted, tmp_path):
    tensors, header = parts(saved("CoOp"))
    header["model"]["backbone"] = "/gone/away.pt@ViT-B/16"
    path = rewrite(tmp_path / "a.safetensors", tensors, header)
    with pytest.raises(FileNotFoundError, match="away.pt"):
        load(path)
    assert np.array_equal(load(path, "cpu", "demo").predict_proba(images), fitted("CoOp").predict_proba(images))


# ---- writing


def test_a_confusion_matrix_of_many_classes_is_left_out(demo, listed, tmp_path, monkeypatch):
    clf = Classifier("CoOp", **{**QUICK, "backbone": demo, "folds": 2}).fit(*listed)
    clf.figures_["confusion"] = [[15] + [0] * 2, [0] * 3, [0] * 3]
    clf.save(tmp_path / "whole.safetensors")
    size = len(json.dumps(parts(tmp_path / "whole.safetensors")[1], ensure_ascii=False))
    monkeypatch.setattr(file, "MOST_BYTES", size - 1)
    clf.save(tmp_path / "a.safetensors")
    figures = load(tmp_path / "a.safetensors", device="cpu").figures_
    assert figures == {name: value for name, value in clf.figures_.items() if name != "confusion"}


def test_what_could_not_be_loaded_again_is_not_saved(demo, tmp_path):
    clf = Classifier("ZeroshotCLIP", demo).fit(names=["a", "b"])
    clf.temperature_ = 1e-9
    with pytest.raises(ValueError, match="not saved, .* a temperature of 0.001 to 1000"):
        clf.save(tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten_unless_asked(saved, fitted):
    before = saved("CoOp").read_bytes()
    with pytest.raises(FileExistsError, match="overwrite=True"):
        fitted("CoOp").save(saved("CoOp"))
    fitted("CoOp").save(saved("CoOp"), overwrite=True)
    assert saved("CoOp").read_bytes() == before, "the same classifier is the same file"


def test_a_full_disk_leaves_what_was_there(fitted, saved, tmp_path):
    """The process may write 20 kB to a file, and saves over one of its own."""
    target = tmp_path / "a.safetensors"
    target.write_bytes(saved("MoCoOp").read_bytes())
    limits, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        with pytest.raises(OSError, match="cannot write .*a.safetensors.*nothing was changed"):
            fitted("MoCoOp").save(target, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert target.read_bytes() == saved("MoCoOp").read_bytes() and list(tmp_path.iterdir()) == [target]


def test_one_cannot_save_what_is_not_trained(tmp_path):
    with pytest.raises(ValueError, match="not trained yet"):
        Classifier().save(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="embed: expected"):
        Classifier("ZeroshotCLIP", "demo").fit(names=["a", "b"]).save(tmp_path / "a.safetensors", embed="everything")


# ---- hostile files

BROKEN = {
    "later": (lambda h: h.update(format=file.FORMAT + 1), "install a later one"),
    "no format": (lambda h: h.update(format=True), "a format number"),
    "entry missing": (lambda h: h.pop("labels"), "all entries"),
    "one label": (lambda h: h.update(labels=["a"]), "a list of at least two in labels"),
    "labels twice": (lambda h: h.update(labels=["a", "a", "b"]), "labels that differ"),
    "labels too few": (lambda h: h.update(labels=["a", "b"]), "one for each"),
    "labels mixed": (lambda h: h.update(labels=["a", 1, "b"]), "texts or whole numbers"),
    "labels nested": (lambda h: h.update(labels=[["a"], ["b"], ["c"]]), "texts or whole numbers"),
    "names": (lambda h: h["model"].update(names=[1, 2, 3]), "texts of .* in model.names"),
    "unknown method": (lambda h: h["model"].update(method="os.system"), "is not known"),
    "another method": (lambda h: h["model"].update(method="CoOp"), "cannot be used"),
    "unknown argument": (lambda h: h["model"]["arguments"].update(evil=1), "cannot be used"),
    "huge argument": (lambda h: h["model"]["arguments"].update(topk=10**12), "plain arguments"),
    "deep argument": (lambda h: h["model"]["arguments"].update(groups=[[[[[[[[[["a {}"]]]]]]]]]]), "plain arguments"),
    "other groups": (lambda h: h["model"]["arguments"].update(groups=[["a {}"]]), "cannot be used"),
    "no groups": (lambda h: h["model"]["arguments"].update(groups=[]), "cannot be used"),
    "bad template": (lambda h: h["model"]["arguments"].update(groups=[["a"]] * 6), "cannot be used"),
    "topk": (lambda h: h["model"]["arguments"].update(topk="two"), "do not fit|cannot be used"),
    "temperature": (lambda h: h.update(temperature=0), "a temperature of 0.001 to 1000"),
    "temperature of 400 digits": (lambda h: h.update(temperature=10**400), "a temperature of 0.001 to 1000"),
    "tiny temperature": (lambda h: h.update(temperature=1e-320), "a temperature of 0.001 to 1000"),
    "threshold": (lambda h: h.update(threshold="0"), "a threshold"),
    "high threshold": (lambda h: h.update(threshold=10**300), "a threshold of 0 to 2"),
    "no text": (lambda h: h.update(labels=["\ud800", "b", "c"]), "labels of at most 1,000 characters"),
    "a long label": (lambda h: h.update(labels=["a" * 5_000_000, "b", "c"]), "labels of at most 1,000 characters"),
    "a label that numpy cuts": (lambda h: h.update(labels=["a", "a\0", "c"]), "labels of at most"),
    "a large label": (lambda h: h.update(labels=[10**30, 1, 2]), "numbers of at most 2\\^62"),
    "a long name": (lambda h: h["model"].update(names=["a" * 1001, "b", "c"]), "texts of at most 1,000 characters"),
    "fit.images": (lambda h: h.update(fit={"images": "x"}), "a whole number in fit.images"),
    "fit.recipe": (lambda h: h.update(fit={"images": 1, "recipe": 5}), "an object in fit.recipe"),
    "fit.dataset": (lambda h: h.update(fit={"dataset": "\ud800"}), "a text in fit.dataset"),
    "fit": (lambda h: h.update(fit={"recipe": {"lr": 10**400}}), "plain data in fit"),
    "versions": (lambda h: h.update(versions={"torch": "\ud800"}), "plain data in versions"),
    "held_out": (lambda h: h.update(figures={"held_out": "x"}), "finite numbers in figures.held_out"),
    "held_out, a list": (lambda h: h.update(figures={"held_out": [1]}), "finite numbers in figures.held_out"),
    "part of held_out": (lambda h: h.update(figures={"held_out": {"images": 1}}), "figures.held_out: images, accuracy"),
    "confusion": (lambda h: h.update(figures={"confusion": [["a"]]}), "3 x 3 whole numbers in figures.confusion"),
    "per_class": (lambda h: h.update(figures={"per_class": 7}), "in figures.per_class"),
    "reliability": (lambda h: h.update(figures={"reliability": [{"low": 0}]}), "in figures.reliability"),
    "tried": (lambda h: h.update(figures={"tried": 3}), "in figures.tried"),
    "precision": (lambda h: h.update(precision="int1"), "in precision"),
    "clip": (lambda h: h.update(clip=[]), "an object in clip"),
    "no hash": (lambda h: h["clip"].update(sha256=None), "SHA-256"),
    "other hash": (lambda h: h["clip"].update(sha256="0" * 64), "another CLIP"),
    "pixels": (lambda h: h["clip"]["preprocess"].update(size=10**9), "clip.preprocess.size"),
    "std": (lambda h: h["clip"]["preprocess"].update(std=[1, 1, 0]), "clip.preprocess.std"),
    "embedded": (lambda h: h["clip"].update(embedded="all", architecture={"demo": True}), "do not belong"),
    "architecture": (lambda h: h["clip"].update(embedded="all", architecture={"embed_dim": 64}), "no CLIP has"),
    "figures": (lambda h: h.update(figures=1), "an object in figures"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_header_that_is_not_ours_is_refused_in_words(name, saved, tmp_path):
    tensors, header = parts(saved("MoCoOp"))
    change, said = BROKEN[name]
    change(header)
    with pytest.raises(ValueError, match=said) as caught:
        load(rewrite(tmp_path / "a.safetensors", tensors, header), device="cpu")
    assert "a.safetensors" in str(caught.value) and len(str(caught.value)) < 3000


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("trained/router.weight"), "does not fit|cannot be used"),
        (lambda t: t.update({"trained/router.weight": torch.ones(2, 2)}), "does not fit|cannot be used"),
        (lambda t: t.update({"trained/new": torch.ones(2, 2)}), "does not fit|cannot be used"),
        (
            lambda t: t.update({"trained/context": torch.full_like(t["trained/context"], float("nan"))}),
            "finite numbers",
        ),
        (lambda t: t.update({"trained/context": t["trained/context"].half()}), "float32"),
        (lambda t: t.update(class_features=t["class_features"][:, :2].clone()), "class features"),
        (lambda t: t.update(class_features=t["class_features"][:3].clone()), "do not fit"),
        (lambda t: t.update(class_features=t["class_features"].flatten()), "class features"),
        (
            lambda t: [t.pop(name) for name in list(t) if name.startswith("trained/")],
            "cannot be used: it holds no trained MoCoOp",
        ),
    ],
)
def test_tensors_that_are_not_ours_are_refused_in_words(change, said, saved, tmp_path):
    tensors, header = parts(saved("MoCoOp"))
    change(tensors)
    with pytest.raises(ValueError, match=said):
        load(rewrite(tmp_path / "a.safetensors", tensors, header), device="cpu")


@tries(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_refused_or_is_the_same(data, saved, tmp_path_factory, images, demo):
    """Cut anywhere, or with bytes changed anywhere: one message, or nothing that matters changed."""
    whole = bytearray(saved("MoCoOp").read_bytes())
    length = int.from_bytes(whole[:8], "little")
    if data.draw(st.booleans()):
        damaged = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        damaged = bytearray(whole)
        for _ in range(data.draw(st.integers(1, 4))):
            damaged[data.draw(st.integers(0, min(len(whole) - 1, length + 64)))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "a.safetensors"
    path.write_bytes(damaged)
    try:
        clf = load(path, "cpu", demo)
    except (ValueError, FileNotFoundError) as error:
        assert len(str(error)) < 3000
    else:
        assert clf.predict_proba(images[:2]).shape == (2, 3)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@tries(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_anywhere_in_the_header(data, saved, tmp_path_factory, demo, images):
    tensors, header = parts(saved("MoCoOp"))
    node = header
    while True:
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        if not (isinstance(node[key], dict | list) and node[key] and data.draw(st.booleans())):
            break
        node = node[key]
    node[key] = data.draw(JSON)
    try:
        path = rewrite(tmp_path_factory.mktemp("header") / "a.safetensors", tensors, header)
        clf = load(path, "cpu", demo)
    except (ValueError, OSError):
        return
    assert clf.predict_proba(images[:2]).shape == (2, 3)


def test_files_that_are_something_else(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "absent.safetensors")
    for content in (b"", b"hello", b"\x00" * 100):
        (tmp_path / "a.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match="truncated, damaged"):
            load(tmp_path / "a.safetensors")
    save_file({"a": torch.ones(1)}, str(tmp_path / "a.safetensors"))
    with pytest.raises(ValueError, match="not written by mocoop"):
        load(tmp_path / "a.safetensors")
    save_file({"a": torch.ones(1)}, str(tmp_path / "a.safetensors"), {"mocoop": "[" * 100_000})
    with pytest.raises(ValueError, match="are no JSON"):
        load(tmp_path / "a.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        load(tmp_path / "empty")


# ---- what runs have left


def test_run_folders_and_checkpoints(fitted, images, tmp_path):
    zero, mocoop = fitted("ZeroshotCLIP"), fitted("MoCoOp")
    write_settings(tmp_path, zero.model)
    back = load(tmp_path, device="cpu")
    assert np.array_equal(back.predict_proba(images), zero.predict_proba(images)) and back.figures_ == {}
    save_checkpoint({"state_dict": mocoop.model.state_dict(), "epoch": 2}, tmp_path / "run" / "prompt_learner")
    for path in (tmp_path / "run", tmp_path / "run" / "prompt_learner" / "model.pth.tar-2"):
        back = load(path, device="cpu")
        assert np.array_equal(back.predict_proba(images), mocoop.predict_proba(images))
    back.save(tmp_path / "run" / file.FILE)
    again = load(tmp_path / "run", device="cpu")  # the saved classifier in it comes first
    assert np.array_equal(again.predict_proba(images), back.predict_proba(images)) and again.fit_ == back.fit_


def test_a_name_that_load_would_not_know_is_refused(fitted, tmp_path):
    for name in ("noext", "x.pt"):
        with pytest.raises(ValueError, match=f"expected a name that ends in .safetensors.*{name}"):
            fitted("CoOp").save(tmp_path / name)
    assert not list(tmp_path.iterdir())
