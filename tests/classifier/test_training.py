import dataclasses

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from mocoop import methods
from mocoop.classifier import training
from mocoop.classifier.training import (
    Plan,
    Recipe,
    TrainingImages,
    held_out_logits,
    published,
    settings,
    stratified_folds,
)
from mocoop.classifier.training import train as train_model
from mocoop.tests.classifier.conftest import COLOURS

NAMES = list(COLOURS)


def plan(name, backbone, **given):
    row = methods.named(name)
    return Plan(row, backbone, NAMES, *settings(row, "demo", given))


@pytest.fixture()
def data(listed):
    paths, labels = listed
    return TrainingImages(paths, torch.tensor([NAMES.index(label) for label in labels]), workers=2)


def test_the_published_settings_are_those_of_the_configs():
    arguments, recipe = published(methods.named("MoCoOp"), "demo")
    assert (recipe.epochs, recipe.lr, recipe.batch_size, recipe.views) == (12, 0.3, 32, 4)
    assert (recipe.warmup_epochs, recipe.warmup_lr, recipe.grad_clip, recipe.norms_lr) == (1, 1e-5, 1.0, 0.1)
    assert recipe.augment == ("random_resized_crop",) and recipe.crop_scale == (0.9, 1.0)
    assert (arguments["topk"], arguments["finetune_norms"], len(arguments["groups"])) == (2, False, 6)
    arguments, recipe = published(methods.named("CoOp"), "ViT-B/16")
    assert (recipe.epochs, recipe.lr, recipe.optimizer, recipe.schedule) == (200, 0.002, "sgd", "cosine")
    assert (recipe.momentum, recipe.weight_decay, recipe.precision) == (0.9, 5e-4, "fp16")
    assert arguments["words"] == "a photo of a"


@pytest.mark.parametrize("row", methods.OURS, ids=lambda row: row.name)
def test_every_method_has_published_settings(row):
    for backbone in ("demo", "ViT-B/16"):
        arguments, recipe = settings(row, backbone, {"epochs": 3})
        assert recipe.epochs == 3 and isinstance(arguments, dict)


def test_settings_of_the_model_and_of_training():
    arguments, recipe = settings(methods.named("MoCoOp"), "demo", {"topk": 1, "lr": 0.5, "views": 0})
    assert (arguments["topk"], recipe.lr, recipe.views) == (1, 0.5, 0)
    with pytest.raises(ValueError, match="no setting 'epoch'.*do you mean epochs"):
        settings(methods.named("MoCoOp"), "demo", {"epoch": 3})
    for name, value in {"epochs": 0, "batch_size": True, "lr": float("nan"), "views": -1, "precision": "int8"}.items():
        with pytest.raises(ValueError, match=f"{name}: expected"):
            settings(methods.named("CoOp"), "demo", {name: value})


def test_training_is_the_loop_of_the_book(demo, data):
    """Two epochs of one batch on one stored view, beside SGD written out (momentum 0.9, weight decay 5e-4)."""
    recipe = dict(epochs=3, batch_size=15, views=1, lr=0.1, warmup_epochs=1, warmup_lr=1e-5, words="a photo of a")
    made = plan("CoOp", demo, **recipe)
    model, other = made.model(1), made.model(1)
    history = train_model(model, data, range(15), made.recipe, seed=1)
    features, ctx = data.stored_views(other, made.recipe)[0], other.ctx
    buffer, rates = None, [1e-5, 0.1, 0.1 * (1 + torch.tensor(torch.pi / 3).cos()) / 2]
    for rate in rates:
        text = F.normalize(other.encode_names(3)[0], dim=-1)
        loss = F.cross_entropy(other.logit_scale * features @ text.T, data.labels)
        (gradient,) = torch.autograd.grad(loss, ctx)
        gradient = gradient + 5e-4 * ctx.detach()
        buffer = gradient if buffer is None else 0.9 * buffer + gradient
        with torch.no_grad():
            ctx -= rate * buffer
    assert torch.allclose(model.ctx, other.ctx, atol=1e-5) and not torch.equal(model.ctx, made.model(1).ctx)
    assert [record["lr"] for record in history] == pytest.approx([float(rate) for rate in rates])


def test_training_is_repeatable_and_leaves_random_numbers_alone(demo, data):
    made = plan("LASP", demo, epochs=2, batch_size=5, views=2)  # its loss draws noise
    torch.manual_seed(3)
    models = [made.model(7), made.model(7), made.model(7)]
    for model, seed in zip(models, (7, 7, 8), strict=True):
        train_model(model, TrainingImages(data.images, data.labels, 7), range(15), made.recipe, seed)
    after = torch.rand(4)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(4))
    assert torch.equal(models[0].context, models[1].context) and not torch.equal(models[0].context, models[2].context)


def test_features_are_stored_only_where_the_image_tower_stays(demo, data, monkeypatch):
    encoded = []
    whole = TrainingImages.encode
    monkeypatch.setattr(TrainingImages, "encode", lambda self, *rest: encoded.append(1) or whole(self, *rest))
    for name, own, passes in (("CoOp", {}, 2), ("MoCoOp", {}, 0), ("MoCoOp", {"finetune_norms": True}, 0)):
        encoded.clear()
        made = plan(name, demo, epochs=2, batch_size=5, views=2, **own)
        model = made.model(1)
        before = demo.visual.transformer.resblocks[0].ln_1.weight.clone()
        train_model(model, data, range(15), made.recipe)
        assert len(encoded) == passes, name  # MoCoOp without norms takes the views that CoOp has left
        assert torch.equal(demo.visual.transformer.resblocks[0].ln_1.weight, before), "the shared tower was changed"
        assert not any(p.requires_grad for p in demo.model.parameters())
    assert model.image_features_are_trained() and not torch.equal(model.image_norms["0_ln_1_weight"], before)


def test_a_last_smaller_batch_is_left_out_as_in_the_trainers(demo, data):
    made = plan("CoOp", demo, views=1, batch_size=4)
    sizes = [len(label) for _, label in data.batches(made.model(1), torch.arange(15), made.recipe, torch.Generator())]
    assert sizes == [4, 4, 4]
    assert len(next(data.batches(made.model(1), torch.arange(3), made.recipe, torch.Generator()))[1]) == 3


def test_a_loss_that_is_no_number_ends_training(demo, data):
    made = plan("CoOp", demo, epochs=3, views=1, lr=1e30, warmup_epochs=0)
    with pytest.raises(FloatingPointError, match="in epoch [23]; try a smaller lr"):
        train_model(made.model(1), data, range(15), made.recipe)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(2, 5), st.integers(0, 9))
def test_folds_deal_out_every_class_evenly(labels, folds, seed):
    labels = torch.tensor(labels)
    fold = stratified_folds(labels, folds, seed)
    for label in labels.unique():
        own = fold[labels == label]
        if len(own) == 1:
            assert own.item() == -1
        else:
            counts = torch.bincount(own, minlength=folds)
            assert own.min() >= 0 and counts.max() - counts.min() <= 1
            assert any(own != own[0]), "a class of two must never be held out as a whole"


def test_no_image_is_scored_by_a_model_that_saw_it(demo, data, monkeypatch):
    seen, scored = [], []
    logits_of = training.logits_of
    monkeypatch.setattr(training, "train", lambda model, data, indices, recipe, seed, *rest: seen.append(set(indices)))
    monkeypatch.setattr(training, "logits_of", lambda m, d, held: scored.append(set(held)) or logits_of(m, d, held))
    logits, labels = held_out_logits(plan("CoOp", demo), data, folds=3)
    assert all(not a & b and a | b == set(range(15)) for a, b in zip(seen, scored, strict=True))
    assert set.union(*scored) == set(range(15)) and logits.shape == (15, 3)
    assert torch.bincount(labels).tolist() == [5, 5, 5]
    assert len(seen) == 3


def test_what_trains_nothing_needs_no_folds(demo, data):
    made = plan("ZeroshotCLIP", demo)
    logits, labels = held_out_logits(made, data, folds=3)
    assert torch.equal(logits, training.logits_of(made.model(1), data, range(15))) and torch.equal(labels, data.labels)


def test_the_recipe_is_plain_data():
    assert dataclasses.replace(Recipe(), **dataclasses.asdict(Recipe(epochs=3))) == Recipe(epochs=3)
