import numpy as np
import pytest
import torch
from mocoop.classifier.experts import SHOWN, left_out_weights, survey
from mocoop.classifier.sheets import GAP, SIDE, TEXT, expert_sheet
from mocoop.toolbox.dassl.errors import WrongValue
from mocoop.trainers.mocoop import MoCoOpModel
from PIL import Image

GROUPS = [["a photo of a {}."], ["a drawing of a {}."], ["a {}."]]
CLASSES = ["cat", "dog", "house", "tree"]


def build(backbone, topk=2, groups=GROUPS):
    torch.manual_seed(3)
    model = MoCoOpModel(backbone, CLASSES, groups=groups, topk=topk, finetune_norms=False)
    with torch.no_grad():
        model.router.weight.normal_(std=3)
        model.context.add_(torch.randn_like(model.context))
    return model.eval()


def features(count, width=24):
    torch.manual_seed(5)
    return torch.nn.functional.normalize(torch.randn(count, width), dim=1)


def by_hand(model, feature, left_out=None):
    """(weights, logits) of one image, expert by expert, with plain numbers."""
    scores = (feature @ model.router.weight.T + model.router.bias).tolist()
    there = [g for g in range(len(scores)) if g != left_out]
    kept = sorted(there, key=lambda g: -scores[g])[: model.topk]
    total = sum(np.exp(scores[g]) for g in kept)
    weights = [np.exp(scores[g]) / total if g in kept else 0.0 for g in range(len(scores))]
    text = model.class_features()
    logits = [
        sum(float(model.logit_scale) * w * float(feature @ text[g, c]) for g, w in enumerate(weights))
        for c in range(len(model.names))
    ]
    return weights, logits


def test_left_out_weights_by_hand():
    scores = torch.tensor([[0.0, np.log(3), np.log(1.5)]], dtype=torch.float32)
    expected = [[0, 3 / 4.5, 1.5 / 4.5], [1 / 2.5, 0, 1.5 / 2.5], [1 / 4, 3 / 4, 0]]
    assert torch.allclose(left_out_weights(scores, 2)[0], torch.tensor(expected, dtype=torch.float32))
    first = left_out_weights(scores, 1)[0]
    assert first.tolist() == [[0, 1, 0], [0, 0, 1], [0, 1, 0]]
    assert torch.allclose(left_out_weights(scores, 7)[0], torch.tensor(expected, dtype=torch.float32))


@torch.no_grad()
@pytest.mark.parametrize("topk", [1, 2, 3])
def test_a_survey_is_what_a_plain_loop_says(tiny_backbone, topk):
    model, images = build(tiny_backbone, topk), features(23)
    truth = [i % 3 for i in range(23)]  # no tree
    batches = [
        (range(a, min(a + 6, 23)), [f"{i}.png" for i in range(a, min(a + 6, 23))], images[a : a + 6])
        for a in range(0, 23, 6)
    ]
    found = survey(model, CLASSES, batches, truth)
    weights, right, without, alone, answers = [], [], [], [], []
    for feature, label in zip(images, truth, strict=True):
        mixed, logits = by_hand(model, feature)
        weights.append(mixed)
        answers.append(int(np.argmax(logits)))
        right.append(answers[-1] == label)
        without.append([np.argmax(by_hand(model, feature, g)[1]) == label for g in range(3)])
        alone.append([int((model.class_features()[g] @ feature).argmax()) == label for g in range(3)])
    assert found.images == 23 and found.accuracy == np.mean(right)
    assert [e.left_out for e in found.experts] == np.mean(without, axis=0).tolist()
    assert [e.alone for e in found.experts] == np.mean(alone, axis=0).tolist()
    assert np.allclose([e.share for e in found.experts], np.mean(weights, axis=0), atol=1e-6)
    assert [e.first for e in found.experts] == np.bincount(np.argmax(weights, axis=1), minlength=3).tolist()
    table = np.array(weights)
    for c in range(3):
        assert np.allclose(found.by_class[c], table[np.array(truth) == c].mean(axis=0), atol=1e-6)
    assert found.by_class[3] is None and "tree" not in found.class_table()
    for g, expert in enumerate(found.experts):
        given = [(e.image, e.label, e.answer) for e in expert.images]
        order = sorted((i for i in range(23) if table[i, g] > 0), key=lambda i: (-table[i, g], i))[:SHOWN]
        assert given == [(f"{i}.png", CLASSES[truth[i]], CLASSES[answers[i]]) for i in order]


def test_one_expert_cannot_be_left_out(tiny_backbone):
    model = build(tiny_backbone, groups=GROUPS[:1])
    found = survey(model, CLASSES, [(range(4), list("abcd"), features(4))], [0, 1, 2, 3])
    assert found.experts[0].left_out is None and found.experts[0].alone == found.accuracy
    assert found.effect(found.experts[0]) == "-" and found.to_dict()["experts"][0]["left_out"] is None


def test_no_images_and_no_router(tiny_backbone, fitted):
    with pytest.raises(WrongValue, match="found none that can be read"):
        survey(build(tiny_backbone), CLASSES, [], [])
    with pytest.raises(WrongValue, match="CoOp has no router"):
        survey(fitted("CoOp").model, CLASSES, [], [])


def test_a_classifiers_routing_counts_what_it_answers(fitted, photos, images):
    clf = fitted("MoCoOp")
    found = clf.routing(photos)
    assert found.images == 12 and found.accuracy == clf.score(photos)
    assert sum(e.share for e in found.experts) == pytest.approx(1)
    named = {given.image for e in found.experts for given in e.images}
    assert named == {str(path) for path in images}


def test_explanations_agree_with_leaving_experts_out_by_hand(fitted, images):
    clf = fitted("MoCoOp")
    found = clf.explain(images[0])
    (batch,) = clf.stream(images[:1])
    labels = clf.classes_.tolist()
    assert len(found.experts) == len(clf.model.groups)
    for expert in found.experts:
        g = [group[0] for group in clf.model.groups].index(expert.template)
        with torch.no_grad():
            weights, _ = by_hand(clf.model, batch.features[0])
            chances = torch.tensor(by_hand(clf.model, batch.features[0], g)[1]).div(clf.temperature_).softmax(dim=0)
        assert expert.weight == pytest.approx(weights[g], abs=1e-5)
        assert expert.left_out_label == labels[int(chances.argmax())]
        assert expert.left_out_probability == pytest.approx(float(chances.max()), abs=1e-4)
        if expert.weight == 0:
            assert expert.left_out_probability == pytest.approx(found.probability, abs=1e-6)


def test_unreadable_images_are_named_and_the_others_explained(fitted, images, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    skipped = []
    paths = [images[0], str(tmp_path / "bad.png"), images[1]]
    found = list(fitted("CoOp").explain_each(paths, "skip", skipped))
    assert [e.image for e in found] == [images[0], images[1]] and found[0].experts == []
    assert [entry.index for entry in skipped] == [1] and "bad.png" in skipped[0].reason


def test_a_sheet_has_a_place_for_every_image(fitted, photos):
    expert = max(fitted("MoCoOp").routing(photos).experts, key=lambda e: len(e.images))
    page = expert_sheet(expert, columns=4)
    rows = -(-len(expert.images) // 4)
    assert page.size == (GAP + 4 * (SIDE + GAP), GAP + rows * (SIDE + TEXT + GAP))
    with Image.open(expert.images[0].image) as picture:
        middle = picture.convert("RGB").getpixel((picture.width // 2, picture.height // 2))
    shown = page.getpixel((GAP + SIDE // 2, GAP + SIDE // 2))
    assert max(abs(a - b) for a, b in zip(middle, shown, strict=True)) < 80
