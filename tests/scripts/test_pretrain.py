"""Pretraining of the demo backbone: captions say what is true, and a resumed run ends where an unbroken one does."""

import importlib.util
import random
import re
import sys
from pathlib import Path

import mocoop
import pytest
import torch
from safetensors.torch import load_file


@pytest.fixture(scope="module")
def pretrain():
    """The script as a module (scripts/ is no package)."""
    path = Path(mocoop.__file__).parent / "scripts" / "demo" / "pretrain.py"
    spec = importlib.util.spec_from_file_location("demo_pretrain", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_what_icon_names_say(pretrain):
    names = ["bell", "bell-outline", "bell-ring-outline", "car-2", "book-variant-1", "anchor", "alpha-a-box"]
    found = [(d.name, d.style) for d in pretrain.describe("material", names)]
    assert found == [
        ("bell", "solid"),
        ("bell", "outline"),
        ("bell ring", "outline"),
        ("car", None),
        ("book", None),
        ("anchor", None),
        ("alpha a box", None),
    ]
    assert pretrain.describe("codicon", ["circle-filled", "layers-2"]) == [
        pretrain.Drawing("circle", "solid"),
        pretrain.Drawing("layers 2", None),
    ]


@pytest.mark.parametrize("effect", ["none", "pixelated", "sketch"])
@pytest.mark.parametrize("style", [None, "outline", "solid"])
def test_captions_claim_only_what_is_true(pretrain, effect, style):
    rng = random.Random(0)
    words = {word: claim for group in (pretrain.STYLES, pretrain.LOOKS) for claim, all in group.items() for word in all}
    seen = set()
    for _ in range(300):
        text, claims = pretrain.caption("zebra", style, effect, rng)
        assert "zebra" in text and claims <= {effect, style}
        said = {claim for word, claim in words.items() if re.search(rf"\b{word}\b", text)}
        if "sketch of" in text:
            said.add("sketch")
        assert said - {"none"} == claims - {"none"}
        seen |= claims
    assert seen == {effect, style} - {None}
    assert not pretrain.contradicts(seen, style, effect)


def test_contradictions(pretrain):
    assert pretrain.contradicts({"solid"}, "outline", "none") and pretrain.contradicts({"blurry"}, None, "dark")
    assert not pretrain.contradicts({"solid"}, None, "none") and not pretrain.contradicts(set(), "solid", "dark")


@pytest.fixture()
def few(pretrain, monkeypatch):
    """Only the smallest of the fonts."""
    monkeypatch.setattr(pretrain, "DESIGNERS", ("elusive",))


def test_twins_share_a_name_and_true_captions_are_left_out(pretrain, few):
    icons = pretrain.Icons()
    images, texts, labels, also = icons.batch(16, 0.03, seed=0, ramp=1.0, copies=2)
    assert images.shape == (16, 3, 48, 48) and -1 <= images.min() and images.max() <= 1
    assert len(texts) == len(labels) == 16 and also.shape == (16, 16) and not also.diagonal().any()
    for row, column in also.nonzero().tolist():
        assert row // 2 == column // 2 or labels[row] == labels[column]
    again = icons.batch(16, 0.03, seed=0, ramp=1.0, copies=2)
    assert torch.equal(images, again[0]) and texts == again[1]


def test_loss_equals_a_plain_loop(pretrain, few):
    torch.manual_seed(0)
    icons = pretrain.Icons()
    words = pretrain.Words(icons.names)
    learner = pretrain.Learner(words, len(icons.names)).eval()  # eval: float32
    images, texts, labels, also = icons.batch(6, 0.03, seed=1, ramp=1.0, copies=2)
    also[0, 1], also[3, 2] = True, False
    loss, parts = learner(images, words(texts), labels, also)
    with torch.no_grad():
        raw, text = learner.image(images), learner.text(words(texts))
        unit = torch.nn.functional.normalize
        f, t, w, scale = (
            unit(raw, dim=1),
            unit(text, dim=1),
            unit(learner.classes, dim=1),
            learner.clip.logit_scale.exp(),
        )

        def cross_entropy(scores, target):
            return -(scores[target] - torch.logsumexp(torch.stack(list(scores.values())), 0))

        pairs = 0.0
        for i in range(6):
            pairs += cross_entropy({j: scale * f[i] @ t[j] for j in range(6) if not also[i, j]}, i) / 12
            pairs += cross_entropy({j: scale * t[i] @ f[j] for j in range(6) if not also[j, i]}, i) / 12
        named = sum(cross_entropy(dict(enumerate(scale * w @ f[i])), int(labels[i])) for i in range(6)) / 6
        read = sum(cross_entropy(dict(enumerate(scale * w @ t[i])), int(labels[i])) for i in range(6)) / 6
        head = learner.head(raw)
        linear = sum(cross_entropy(dict(enumerate(head[i])), int(labels[i])) for i in range(6)) / 6
    for key, value in (("pairs", pairs), ("names", named), ("words", read), ("linear", linear)):
        assert parts[key] == pytest.approx(value.item(), rel=1e-4, abs=1e-5)
    assert loss.item() == pytest.approx((pairs + named + 0.5 * read + linear).item(), rel=1e-4)


def test_a_resumed_run_ends_where_an_unbroken_one_does(pretrain, few, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "held_out", lambda *_: 0.0)
    threads = torch.get_num_threads()

    def plan(name, resume):
        (tmp_path / name).mkdir(exist_ok=True)
        return pretrain.Plan(tmp_path / name, 4, 8, 1e-3, 0.03, seed=1, every=2, resume=resume, processes=1)

    pretrain.train(0, plan("whole", False))

    def stop(path, row):
        raise KeyboardInterrupt

    log, save = pretrain.log, pretrain.save_checkpoint

    def save_and_stop(path, step, **parts):
        save(path, step, **parts)
        raise KeyboardInterrupt

    monkeypatch.setattr(pretrain, "save_checkpoint", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        pretrain.train(0, plan("broken", False))
    monkeypatch.setattr(pretrain, "save_checkpoint", save)
    pretrain.train(0, plan("broken", True))
    whole, broken = (load_file(tmp_path / name / "demo.safetensors") for name in ("whole", "broken"))
    assert all(torch.equal(tensor, broken[name]) for name, tensor in whole.items())
    assert log is pretrain.log and torch.get_num_threads() == threads
