import warnings

import numpy as np
import pytest
import torch
from mocoop import Classifier, methods
from mocoop.classifier.images import Reader
from mocoop.tests.classifier.conftest import COLOURS, QUICK
from mocoop.toolbox.dassl.errors import WrongValue
from mocoop.toolbox.dassl.utils import ImageError
from PIL import Image

CLASSES = ["blue sea", "green tree", "red_ball"]


def new(method, demo, **given):
    return Classifier(method, **{**QUICK, "backbone": demo, **given})


@pytest.mark.parametrize("method", [row.name for row in methods.OURS])
def test_every_method_fits_and_predicts_what_its_model_says(method, fitted, images):
    clf = fitted(method)
    assert clf.classes_.tolist() == CLASSES
    assert clf.model.names == CLASSES  # (an underscore becomes a space where the prompt is written)
    (batch,) = Reader(images, clf.model.backbone.preprocess)
    with torch.no_grad():
        expected = clf.model(batch.images).softmax(dim=1).numpy()
    table = clf.predict_proba(images, batch_size=5)
    assert table.dtype == np.float32 and np.allclose(table, expected, atol=1e-5) and table.shape == (12, 3)
    assert clf.predict(images).tolist() == [CLASSES[c] for c in expected.argmax(axis=1)]
    assert np.isfinite([record["loss"] for record in clf.history_]).all()


def test_training_helps(demo, photos):
    before = new("ZeroshotCLIP", demo).fit(str(photos)).score(str(photos))
    clf = new("CoOp", demo, epochs=30, lr=0.3).fit(str(photos))
    assert clf.score(str(photos)) > max(before, 0.8), "three shapes, six images each"


def test_the_same_seed_gives_the_same_bits(demo, photos, images):
    one, other = (new("MoCoOp", demo).fit(str(photos)).predict_proba(images) for _ in range(2))
    assert np.array_equal(one, other)
    assert not np.array_equal(one, new("MoCoOp", demo, seed=2).fit(str(photos)).predict_proba(images))


def test_labels_come_back_as_they_were_given(demo, listed):
    paths, labels = listed
    numbers = [CLASSES.index(label) + 5 for label in labels]
    clf = new("CoOp", demo).fit(paths, numbers, names={5: "sea", 6: "tree", 7: "star"})
    assert clf.model.names == ["sea", "tree", "star"] and clf.classes_.tolist() == [5, 6, 7]
    assert set(clf.predict(paths).tolist()) <= {5, 6, 7}
    assert clf.score(paths, numbers) == np.mean(clf.predict(paths) == numbers)


def test_shots(demo, photos):
    clf = new("CoOp", demo, shots=2).fit(str(photos))
    assert clf.fit_["images"] == 6


def test_class_names_alone_suffice_where_nothing_is_trained(demo, images):
    clf = new("ZeroshotCLIP", demo).fit(names={"a": "blue sea", "b": "green tree"})
    assert clf.classes_.tolist() == ["a", "b"] and clf.predict(images[0]).shape == (1,)
    assert new("zsclip2", demo).fit(names=["dog", "cat"]).classes_.tolist() == ["dog", "cat"]
    for method, names in (("CoOp", ["dog", "cat"]), ("auto", ["dog", "cat"]), ("ZeroshotCLIP", None)):
        with pytest.raises(ValueError, match="needs labelled images"):
            new(method, demo, folds=2).fit(names=names)


# ---- scikit-learn


def test_scikit_learns_conventions(demo, listed):
    base = pytest.importorskip("sklearn.base")
    selection = pytest.importorskip("sklearn.model_selection")
    paths, labels = listed
    clf = Classifier("CoOp", **QUICK)
    twin = base.clone(clf)
    assert twin is not clf and twin.get_params() == clf.get_params() and base.is_classifier(clf)
    assert twin.set_params(epochs=1, folds=0, n_ctx=2) is twin
    assert (twin.get_params()["epochs"], twin.get_params()["n_ctx"]) == (1, 2) and clf.get_params()["epochs"] == 2
    scores = selection.cross_val_score(clf, paths, labels, cv=2, error_score="raise")
    assert scores.shape == (2,) and ((scores >= 0) & (scores <= 1)).all()
    search = selection.GridSearchCV(clf, {"method": ["ZeroshotCLIP"], "epochs": [1]}, cv=2, error_score="raise")
    assert search.fit(paths, labels).best_params_["method"] == "ZeroshotCLIP"


def test_it_says_what_it_is(demo):
    assert repr(Classifier("CoOp", "demo")) == "Classifier(method='CoOp', backbone='demo')"
    assert repr(new("MoCoOp", demo)).startswith("Classifier(method='MoCoOp', backbone='demo', folds=0")
    with pytest.raises(ValueError, match="not trained yet"):
        Classifier().predict("a.png")


# ---- calibration


def test_temperature_and_threshold_are_of_held_out_images(demo, listed):
    clf = new("CoOp", demo, folds=3, least_precision=0.9).fit(*listed)
    found = clf.figures_["held_out"]
    assert found["images"] == 15 and clf.temperature_ > 0
    assert found["precision"] is None or found["precision"] >= 0.9
    logits = np.log(clf.predict_proba(listed[0])) * clf.temperature_
    plain = new("CoOp", demo).fit(*listed)
    difference = logits - np.log(plain.predict_proba(listed[0]))
    assert np.allclose(difference - difference.mean(axis=1, keepdims=True), 0, atol=1e-2)


def test_unsure_answers(demo, photos, images):
    clf = new("ZeroshotCLIP", demo).fit(str(photos))
    table = clf.predict_proba(images)
    clf.threshold_ = float(np.median(table.max(axis=1)))
    answers = clf.predict(images, unsure="?")
    sure = table.max(axis=1) >= clf.threshold_
    assert (answers[~sure] == "?").all() and (answers[sure] == clf.predict(images)[sure]).all() and 0 < sure.sum() < 12
    found = clf.evaluate(str(photos))
    assert found.answered == sure.mean() and found.images == 12
    assert clf.predict(images).dtype == clf.classes_.dtype  # without `unsure` every image is answered


# ---- images that cannot be read


def test_unreadable_images_in_prediction(fitted, images, tmp_path):
    clf, broken = fitted("CoOp"), tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG")
    given = [images[0], broken, images[1]]
    with pytest.raises(ImageError, match="broken.png"):
        clf.predict(given)
    with pytest.warns(UserWarning, match="1 images cannot be read.*\n.*broken.png"):
        answers = clf.predict(given, unreadable="skip")
    assert answers[1] is None and answers[[0, 2]].tolist() == clf.predict(images[:2]).tolist()
    with pytest.warns(UserWarning):
        table = clf.predict_proba(given, unreadable="skip")
    assert np.isnan(table[1]).all() and np.array_equal(table[[0, 2]], clf.predict_proba(images[:2]))
    with pytest.warns(UserWarning):
        found = clf.evaluate(given, ["red_ball"] * 3, unreadable="skip")
    assert found.images == 2 and found.skipped[0].index == 1
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="none that can be read"):
        clf.evaluate([broken], ["red_ball"], unreadable="skip")


def test_unreadable_images_in_training(demo, listed, tmp_path):
    paths, labels = listed
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG")
    with pytest.raises(ImageError, match="broken.png"):
        new("CoOp", demo).fit([*paths, broken], [*labels, "red_ball"])
    with pytest.warns(UserWarning, match="broken.png"):
        clf = new("CoOp", demo).fit([*paths, broken], [*labels, "red_ball"], unreadable="skip")
    assert clf.fit_["images"] == 15
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="left of 'new'"):
        new("CoOp", demo).fit([*paths, broken], [*labels, "new"], unreadable="skip")


def test_a_stream_goes_on_and_names_what_was_skipped(fitted, images, tmp_path):
    clf, skipped = fitted("MoCoOp"), []
    stream = clf.stream(iter([images[0], tmp_path / "gone.png", *images[1:5]]), 2, "skip", skipped)
    batches = list(stream)
    assert [batch.indices for batch in batches] == [[0, 2], [3, 4], [5]]
    assert [entry.index for entry in skipped] == [1]
    assert batches[0].names == [images[0], images[1]] and batches[0].features.shape == (2, 128)


# ---- classes


@pytest.mark.parametrize("method", ["CoOp", "MoCoOp", "CoCoOp"])
def test_classes_come_and_go_without_training(method, demo, photos, images):
    clf = new(method, demo).fit(str(photos))
    before = clf.predict_proba(images)
    clf.add_classes({"car": "fast_car", "bus": "bus"})
    assert clf.classes_.tolist() == [*CLASSES, "car", "bus"] and clf.model.names[3:] == ["fast_car", "bus"]
    more = clf.predict_proba(images)
    kept = more[:, :3] / more[:, :3].sum(axis=1, keepdims=True)
    assert more.shape == (12, 5) and np.allclose(kept, before, atol=1e-4)
    clf.remove_classes(["bus", "car"])
    assert np.allclose(clf.predict_proba(images), before, atol=1e-5) and clf.classes_.tolist() == CLASSES


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda clf: clf.add_classes(["car", "red_ball"]), "known already: 'red_ball'"),
        (lambda clf: clf.add_classes(["car", "car"]), "that differ"),
        (lambda clf: clf.add_classes(["red ball"]), "same prompts"),
        (lambda clf: clf.add_classes(["car " * 80]), "tokens|too long"),
        (lambda clf: clf.remove_classes(["cat"]), "'cat'"),
        (lambda clf: clf.remove_classes(CLASSES[1:]), "at least two classes, found 1"),
        (lambda clf: clf.set_templates(["a {}"]), "learned prompts"),
    ],
)
def test_a_refused_change_changes_nothing(change, said, fitted, images):
    clf = fitted("MoCoOp")
    before = clf.predict_proba(images)
    with pytest.raises(ValueError, match=said):
        change(clf)
    assert clf.classes_.tolist() == CLASSES and np.array_equal(clf.predict_proba(images), before)


def test_templates_of_zero_shot(demo, photos, images):
    clf = new("ZeroshotCLIP", demo).fit(str(photos))
    before = clf.predict_proba(images)
    clf.set_templates(["a blurry icon of the {}.", "art of a {}."])
    fresh = new("ZeroshotCLIP", demo, templates=clf.model.templates).fit(str(photos))
    assert np.array_equal(clf.predict_proba(images), fresh.predict_proba(images))
    assert not np.allclose(clf.predict_proba(images), before, atol=1e-3)
    with pytest.raises(ValueError, match="exactly one"):
        clf.set_templates(["a photo"])


# ---- explanations


def test_an_explanation_adds_up_to_the_answer(fitted, images):
    clf = fitted("MoCoOp")
    found = clf.explain(images[0])
    assert (found.label, found.image) == (clf.predict(images[0])[0], images[0])
    assert found.probability == pytest.approx(float(clf.predict_proba(images[0]).max()), abs=1e-5)
    assert sum(expert.weight for expert in found.experts) == pytest.approx(1, abs=1e-5)
    assert sum(expert.weight > 0 for expert in found.experts) == clf.model.topk == 2 and len(found.experts) == 6
    for expert in found.experts:  # alone: the mixture with all weight on it
        g = [group[0] for group in clf.model.groups].index(expert.template)
        (batch,) = Reader(images[0], clf.model.backbone.preprocess)
        with torch.no_grad():
            feature = clf.model.encode_image(batch.images)[0]
            alone = (clf.model.logit_scale * clf.model.class_features()[g] @ feature).softmax(dim=0)
        assert (expert.label, expert.probability) == (
            CLASSES[alone.argmax()],
            pytest.approx(float(alone.max()), abs=1e-5),
        )
    assert "weight" in str(found)
    assert fitted("CoOp").explain(images[0]).experts == []


# ---- bad input


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"shots": 0}, "shots: expected"),
        ({"folds": 1}, "at least 2 parts"),
        ({"least_precision": 95}, "least_precision: expected"),
        ({"epoch": 2}, "do you mean epochs"),
        ({"method": "CoOpp"}, "method 'CoOpp' is not known"),
        ({"backbone": "ViT-B/61"}, "did you mean"),
    ],
)
def test_arguments_are_refused_before_anything_is_read(given, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        Classifier(**{"method": "CoOp", **QUICK, **given}).fit(str(tmp_path / "absent"))


def test_a_name_that_is_too_long_for_the_prompt(demo, listed):
    paths, labels = listed
    with pytest.raises(ValueError, match="tokens|too long"):
        new("MoCoOp", demo).fit(paths, labels, names={"red_ball": "star " * 90})


def test_an_image_of_one_pixel(fitted):
    assert fitted("MoCoOp").predict_proba(Image.new("RGB", (1, 1))).shape == (1, 3)


def test_labels_of_an_evaluation_must_be_known(fitted, images):
    with pytest.raises(ValueError, match="no class of this classifier: 'cat'"):
        fitted("CoOp").evaluate(images[:1], ["cat"])


def test_nothing_is_warned_of_where_all_is_well(fitted, images, photos):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted("MoCoOp").predict(images)
        fitted("MoCoOp").evaluate(str(photos))


def test_colours_are_the_classes():
    assert sorted(COLOURS) == CLASSES


@pytest.mark.parametrize("call", ["predict", "predict_proba", "evaluate"])
def test_a_warning_of_unreadable_images_names_the_line_that_called(fitted, images, tmp_path, call):
    (tmp_path / "torn.png").write_text("no image")
    clf, given = fitted("CoOp"), [*images[:1], str(tmp_path / "torn.png")]
    labels = [["red_ball"] * 2] if call == "evaluate" else []
    with pytest.warns(UserWarning, match="1 images cannot be read") as caught:
        getattr(clf, call)(given, *labels, unreadable="skip")
    assert caught[0].filename == __file__


def test_numbers_that_are_too_large_are_an_error_not_nan():
    clf = Classifier("ZeroshotCLIP", backbone="demo", device="cpu").fit(names=["cat", "dog"])
    with pytest.raises(WrongValue, match="no probabilities come of .* are too large"):
        clf.predict_proba([torch.zeros(3, 48, 48), torch.full((3, 48, 48), 1e30)])
    assert np.isfinite(clf.predict_proba([torch.full((3, 48, 48), 100.0)])).all()
    clf.temperature_ = 1e-45  # as good as 0
    with pytest.raises(WrongValue, match="no probabilities"):
        clf.predict([torch.zeros(3, 48, 48)])
