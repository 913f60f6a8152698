"""Pretraining of the miniature backbone: what captions say, which shapes they mean, the loss, and going on."""

import importlib
import json
import random
import re
from pathlib import Path
from types import SimpleNamespace

import mocoop
import numpy as np
import pytest
import torch
from mocoop.datasets import miniature as mini
from PIL import Image
from safetensors.torch import load_file

SCRIPTS = Path(mocoop.__file__).parent / "scripts" / "demo"


@pytest.fixture(scope="module")
def scripts():
    """The scripts as modules (scripts/ is no package)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        names = {"captions": "miniature_captions", "pretrain": "miniature_pretrain"}
        yield SimpleNamespace(**{key: importlib.import_module(name) for key, name in names.items()})


# --- captions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("domain", "looks"),
    [("greek", ["capital", "negative"]), ("thing", ["outline", "framed"]), ("music", []), ("math", ["plain"])],
)
def test_captions_claim_what_they_say_and_what_is_true(scripts, domain, looks):
    captions, rng, seen = scripts.captions, random.Random(0), set()
    words = {word: look for look, group in captions.LOOKS.items() for word in group}
    own = captions.NOUNS[domain]
    for _ in range(400):
        caption = captions.caption(domain, "zebra", looks, rng)
        said = {look for word, look in words.items() if re.search(rf"\b{word}\b", caption.text)}
        assert "zebra" in caption.text and said == caption.looks <= set(looks)
        if caption.domains == set(captions.NOUNS):
            assert caption.text in ("zebra", "zebra.")
        elif caption.domains == {domain}:
            assert any(noun in caption.text for noun in own)
        else:
            shared = [noun for noun in captions.SHARED if noun in caption.text]
            assert [set(captions.SHARED[noun]) for noun in shared] == [caption.domains]
        assert caption.true_of(domain, frozenset(looks)) and caption.true_of("chess", frozenset(looks)) == (
            "chess" in caption.domains
        )
        seen |= caption.looks
    assert seen == set(looks)


def test_a_caption_is_not_true_of_other_looks_or_domains(scripts):
    caption = scripts.captions.Caption("", frozenset({"math", "music"}), frozenset({"outline", "negative"}))
    assert caption.true_of("music", frozenset({"negative", "outline", "small"}))
    assert not caption.true_of("music", frozenset({"negative", "outline", "framed"}))
    assert not caption.true_of("music", frozenset({"negative"}))
    assert not caption.true_of("thing", frozenset({"negative", "outline"}))


def test_nobody_calls_a_letter_a_photo(scripts):
    texts = [scripts.captions.caption("letter", "zebra", [], random.Random(seed)).text for seed in range(500)]
    assert not any(word in text for text in texts for word in ("photo", "picture", "image", "drawing"))


def test_every_word_of_a_caption_has_an_id(scripts):
    captions, words, rng = scripts.captions, scripts.pretrain.Words(["crane"]), random.Random(0)
    texts = [
        captions.caption(domain, "crane", [look], rng).text
        for domain in captions.NOUNS
        for look in captions.LOOKS
        for _ in range(4)
    ]
    compact = words(texts)
    assert torch.equal(words.ids[compact], words.tokenizer(texts)[:, : compact.shape[1]])
    assert torch.equal(compact.argmax(1), words.tokenizer(texts).argmax(1))  # the end-of-text token
    with pytest.raises(ValueError, match="no name or template has"):
        words(["a photo of a giraffe."])


# --- shapes ----------------------------------------------------------------------------------------------------------


@pytest.fixture()
def shapes(scripts):
    """A small and a capital alpha, a union sign, and an icon of a union in two styles."""
    drawings = SimpleNamespace(
        domains=["greek", "greek", "math", "thing", "thing"],
        names=["alpha", "alpha", "union", "union", "union"],
        styles=["small", "capital", "", "solid", "outline"],
    )
    return scripts.pretrain.Shapes(drawings, [("greek", "alpha"), ("math", "union"), ("thing", "union")])


def test_shapes_are_senses_by_alphabet_and_look(scripts, shapes):
    assert shapes.forms == [
        ("greek", "alpha", "capital"),
        ("greek", "alpha", "small"),
        ("math", "union", ""),
        ("thing", "union", ""),
    ]
    assert scripts.captions.TOLD == ("negative", "framed", "striped", "upside down") and len(shapes) == 20
    assert shapes.of("greek", "alpha", "small", frozenset({"small", "plain"})) == 5
    assert shapes.of("math", "union", "", frozenset({"upside down"})) == 14
    assert shapes.of("thing", "union", "outline", frozenset({"outline", "negative"})) == 16


@pytest.mark.parametrize(
    ("name", "domains", "looks", "meant"),
    [
        ("alpha", {"greek"}, set(), [0, 5]),
        ("alpha", {"greek"}, {"small"}, [5]),
        ("alpha", {"greek", "letter"}, {"small", "upside down"}, [9]),
        ("alpha", {"letter"}, set(), []),
        ("union", {"math", "thing"}, set(), [10, 15]),
        ("union", {"math"}, {"negative"}, [11]),
        ("union", {"thing"}, {"framed", "grey"}, [17]),
    ],
)
def test_which_shapes_a_caption_means(scripts, shapes, name, domains, looks, meant):
    caption = scripts.captions.Caption("", frozenset(domains), frozenset(looks))
    assert shapes.meant(name, caption) == meant


def test_captions_that_are_true_of_other_images_are_found(scripts):
    captions = scripts.captions
    senses = [("greek", "alpha"), ("hebrew", "alpha"), ("greek", "beta"), ("greek", "alpha")]
    looks = [frozenset({"small"}), frozenset({""}), frozenset({"small"}), frozenset({"small", "negative"})]
    told = [
        captions.Caption("a greek letter of alpha.", frozenset({"greek"}), frozenset()),
        captions.Caption("a letter of alpha.", frozenset({"greek", "hebrew"}), frozenset()),
        captions.Caption("a letter of beta.", frozenset({"greek", "hebrew"}), frozenset()),
        captions.Caption("a negative greek letter of alpha.", frozenset({"greek"}), frozenset({"negative"})),
    ]
    found = scripts.pretrain.also_true(senses, looks, told)
    assert found.nonzero().tolist() == [[0, 1]]  # of alpha in negative, only its own caption speaks


# --- training --------------------------------------------------------------------------------------------------------


def test_loss_equals_a_plain_loop(scripts):
    torch.manual_seed(0)
    learner = scripts.pretrain.Learner(torch.arange(30), 2).eval()  # eval: BatchNorm leaves the features as they are
    images, labels = torch.randn(3, 3, 48, 48), torch.tensor([2, 0, 8])
    tokens = torch.tensor([[28, 3, 5, 29], [28, 4, 29, 0], [28, 3, 29, 0]])
    also = torch.tensor([[0, 1, 0], [0, 0, 0], [1, 0, 0]], dtype=torch.bool)
    true = {0: [2], 1: [0, 7], 2: [8]}
    meant = torch.tensor([[row, shape] for row, shapes in true.items() for shape in shapes])
    loss, parts = learner(images, tokens, labels, meant, also)
    with torch.no_grad():
        unit, raw = torch.nn.functional.normalize, learner.clip.visual(images)
        f, t = unit(raw, dim=1), unit(learner.text(tokens), dim=1)
        w = unit(torch.stack([form * look for form in learner.forms for look in learner.looks]), dim=1)
        head = torch.stack([form * look for form in learner.head for look in learner.looks])
        scale = learner.clip.logit_scale.exp()

        def surprise(scores, right):
            scores = {key: score.exp().item() for key, score in scores.items()}
            return -np.log(sum(scores[key] for key in right) / sum(scores.values()))

        pairs = 0.0
        for i in range(3):
            pairs += surprise({j: scale * f[i] @ t[j] for j in range(3) if not also[i, j]}, [i]) / 6
            pairs += surprise({j: scale * t[i] @ f[j] for j in range(3) if not also[j, i]}, [i]) / 6
        expected = {
            "pairs": pairs,
            "names": np.mean([surprise(dict(enumerate(scale * w @ f[i])), [int(labels[i])]) for i in range(3)]),
            "words": np.mean([surprise(dict(enumerate(scale * w @ t[i])), true[i]) for i in range(3)]),
            "linear": np.mean(
                [surprise(dict(enumerate(head @ learner.norm(raw)[i])), [int(labels[i])]) for i in range(3)]
            ),
        }
    for key, value in expected.items():
        assert parts[key] == pytest.approx(value, rel=1e-4), key
    assert loss.item() == pytest.approx(sum(expected.values()), rel=1e-4)


def test_where_the_processor_has_units_for_it_the_towers_compute_in_bfloat16(scripts, monkeypatch):
    torch.manual_seed(0)
    learner = scripts.pretrain.Learner(torch.arange(30), 2).eval()
    batch = (torch.randn(2, 3, 48, 48), torch.tensor([[28, 3, 29], [28, 4, 29]]), torch.tensor([2, 0]))
    batch += (torch.tensor([[0, 2], [1, 0]]), torch.zeros(2, 2, dtype=torch.bool))
    found, kinds = [], []
    learner.clip.visual.conv1.register_forward_hook(lambda module, inputs, output: kinds.append(output.dtype))
    for units in (False, True):
        monkeypatch.setattr(scripts.pretrain, "has_bf16_units", lambda units=units: units)
        torch.manual_seed(1)  # of the wrong shapes that are drawn
        learner.zero_grad()
        loss, _ = learner(*batch)
        loss.backward()
        found.append((loss.item(), learner.clip.visual.proj.grad.clone()))
    assert kinds == [torch.float32, torch.bfloat16]
    assert found[0][0] != found[1][0] == pytest.approx(found[0][0], rel=0.02)
    assert torch.cosine_similarity(found[0][1].flatten(), found[1][1].flatten(), dim=0) > 0.98


def test_warm_up_plateau_and_end_of_the_rate(scripts):
    plan = scripts.pretrain.Plan(Path(), Path(), 1000, 200, 128, 0.5, 0.0, 1, 100, False)
    rates = [scripts.pretrain.rate_at(step, plan) for step in (0, 49, 99, 500, 800, 900, 999)]
    assert rates == pytest.approx([0.005, 0.25, 0.5, 0.5, 0.5, 0.25, 0.0025])


@pytest.fixture()
def plan(scripts, tmp_path, monkeypatch):
    """plan(name, steps, resume): a run on Hebrew letters that are also called signs of the zodiac."""
    monkeypatch.setattr(scripts.pretrain, "Look", lambda *_: lambda _: {})
    with Image.open(mini.ART / "hebrew.png") as sheet:
        art, _ = mini.tiles(sheet)
    rows = [(name, style) for name, _, style, _ in mini.drawings("hebrew")]
    art = art[: len(rows)]  # the sheet's last row has empty places
    records = [(domain, name, "somebody", style, "pretrain") for domain in ("hebrew", "sky") for name, style in rows]
    np.savez(tmp_path / "drawings.npz", records=np.array(records), pictures=np.concatenate([art, art]))

    def make(name, steps, resume=False):
        (tmp_path / name).mkdir(exist_ok=True)
        return scripts.pretrain.Plan(
            tmp_path / "drawings.npz", tmp_path / name, steps, 2, 16, 1e-3, 0.03, 1, every=2, resume=resume
        )

    return make


def test_a_batch_hangs_on_its_number_only(scripts, plan):
    batches = scripts.pretrain.Batches(plan("run", 4))
    images, tokens, labels, meant, also = batches[3]
    assert images.shape == (16, 3, 48, 48) and -1 <= images.min() and images.max() <= 1
    assert all(torch.equal(a, b) for a, b in zip(batches[3], (images, tokens, labels, meant, also), strict=True))
    assert not torch.equal(batches[2][0], images)
    assert not also.diagonal().any()
    for row, label in enumerate(labels.tolist()):  # a caption means its image, which shows one of the shapes of a sense
        assert label in meant[meant[:, 0] == row][:, 1]
    names = [batches.shapes.forms[label // 5][1] for label in labels.tolist()]
    assert names[12::2] == names[13::2]  # the last quarter: pairs of one word


def test_a_resumed_run_ends_where_an_unbroken_one_does(scripts, plan, monkeypatch):
    scripts.pretrain.train(plan("whole", 4))
    save = scripts.pretrain.save_checkpoint

    def save_and_stop(path, step, **parts):
        save(path, step, **parts)
        raise KeyboardInterrupt

    monkeypatch.setattr(scripts.pretrain, "save_checkpoint", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        scripts.pretrain.train(plan("broken", 4))
    monkeypatch.setattr(scripts.pretrain, "save_checkpoint", save)
    scripts.pretrain.train(plan("broken", 4, resume=True))
    whole, broken = (plan(name, 4).out for name in ("whole", "broken"))
    expected, found = (load_file(folder / "miniature.safetensors") for folder in (whole, broken))
    assert expected.keys() == found.keys() and all(torch.equal(expected[key], found[key]) for key in expected)
    assert sorted(json.loads((whole / "vocabulary.json").read_text())) == ["hebrew", "sky"]
    assert [row.split(",")[0] for row in (broken / "log.csv").read_text().splitlines()] == ["step", "2", "4"]
