"""Methods that learn in the image tower, as somebody may add them: what is kept of image features is never stale."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from dassl.engine import TRAINER_REGISTRY
from mocoop import methods
from mocoop.clip.image import encode_image
from mocoop.config import ConfigError
from mocoop.methods import Method
from mocoop.trainers import base
from mocoop.trainers.base import PromptTrainer
from mocoop.trainers.model import PromptModel, accuracy
from mocoop.trainers.prompts import template_features
from torch import nn

IMAGE = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(7))
LABEL = torch.tensor([0, 1, 1, 0])
HERE = "somewhere.toys"  # nothing is imported from it: the classes are registered


class Toy(PromptModel):
    """Hand-written class features; what is learned is on the image side."""

    method = "ToyMethod"

    def encode_classes(self):
        return template_features(self.encoder, self.backbone.tokenizer, ["a photo of a {}."], self.names)[0]

    def loss(self, features, label):
        logits = self.logits(features)
        return F.cross_entropy(logits, label), {"acc": accuracy(logits, label)}


class VisualPrompts(Toy):
    """Learned tokens in the image tower, in two layers, and an encode_image that takes them there."""

    def __init__(self, backbone, names, others=(), chunk=None, precision="fp32"):
        super().__init__(backbone, names, others, chunk, precision)
        self.tokens = nn.Parameter(torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(1)))

    def encode_image(self, image):
        return F.normalize(encode_image(self.backbone.visual, image, self.tokens).float(), dim=-1)


class Hooked(Toy):
    """The same idea by a hook on the tower; encode_image is PromptModel's."""

    def __init__(self, backbone, names, others=(), chunk=None, precision="fp32"):
        super().__init__(backbone, names, others, chunk, precision)
        self.shift = nn.Parameter(torch.zeros(32))
        backbone.visual.transformer.resblocks[0].register_forward_pre_hook(lambda block, args: (args[0] + self.shift,))


class LoRA(nn.Module):
    """A frozen linear layer with a correction of rank 2 that is zero at the start."""

    def __init__(self, linear):
        super().__init__()
        self.linear = linear
        self.down = nn.Parameter(torch.randn(2, linear.in_features, generator=torch.Generator().manual_seed(1)))
        self.up = nn.Parameter(torch.zeros(linear.out_features, 2))

    def forward(self, x):
        return self.linear(x) + x @ self.down.T @ self.up.T


class LowRank(Toy):
    """A LoRA in an image block."""

    def __init__(self, backbone, names, others=(), chunk=None, precision="fp32"):
        super().__init__(backbone, names, others, chunk, precision)
        mlp = backbone.visual.transformer.resblocks[1].mlp
        mlp.c_fc = lora = LoRA(mlp.c_fc)
        self.down, self.up = lora.down, lora.up


class Unsaid(Toy):
    """A trained layer of the tower that the model does not list among its parameters."""

    def __init__(self, backbone, names, others=(), chunk=None, precision="fp32"):
        super().__init__(backbone, names, others, chunk, precision)
        self.offset = nn.Parameter(torch.zeros(()))  # something of no effect on images
        backbone.visual.ln_post.weight.requires_grad_()


class Bypassing(Toy):
    """Trains a LayerNorm of the tower, and encodes images with another tower."""

    def __init__(self, backbone, names, others=(), chunk=None, precision="fp32"):
        super().__init__(backbone, names, others, chunk, precision)
        object.__setattr__(self, "plain", copy.deepcopy(backbone.visual))
        self.weight = backbone.visual.ln_post.weight.requires_grad_()

    def encode_image(self, image):
        return F.normalize(self.plain(image), dim=-1)


class Adapter(Toy):
    """A scale behind the tower, through a square root."""

    start = 1.0

    def __init__(self, backbone, names, others=(), chunk=None, precision="fp32"):
        super().__init__(backbone, names, others, chunk, precision)
        self.scale = nn.Parameter(torch.full((24,), self.start))

    def encode_image(self, image):
        with torch.no_grad():
            features = encode_image(self.backbone.visual, image)
        return F.normalize(features * self.scale.sqrt(), dim=-1)


class EasilyNaN(Adapter):
    """Any large change makes a number under the root negative."""

    start = 0.01


class TextOnly(Toy):
    """A shift of the class features; draws random numbers as a dropout does."""

    def __init__(self, backbone, names, others=(), chunk=None, precision="fp32"):
        super().__init__(backbone, names, others, chunk, precision)
        self.shift = nn.Parameter(torch.zeros(24))

    def encode_image(self, image):
        torch.rand(())
        return super().encode_image(image)


@pytest.fixture()
def make_toy(make_trainer, tiny_backbone, monkeypatch):
    """make_toy(model class, "KEY", value, ...) -> its trainer, made as those of the project's own methods are."""

    class ToyMethod(PromptTrainer):
        model_class = Toy

        @staticmethod
        def arguments(cfg):
            return {}

    row = Method(name="ToyMethod", script="toy", trainer=f"{HERE}:ToyMethod", model=f"{HERE}:Toy")
    rows = {**methods.table(), row.name: row}
    monkeypatch.setattr(methods, "table", lambda: rows)
    monkeypatch.setitem(TRAINER_REGISTRY._entries, "ToyMethod", ToyMethod)

    def make(kind, *opts):
        monkeypatch.setattr(ToyMethod, "model_class", kind)
        monkeypatch.setattr(base, "load_backbone", lambda name, device: copy.deepcopy(tiny_backbone))  # toys change it
        return make_trainer("ToyMethod", *opts)

    return make


@pytest.fixture()
def make_model(tiny_backbone):
    return lambda kind: kind(tiny_backbone, ["red square", "green square"])


VALIDATED = ["TEST.FINAL_MODEL", "best_val", "OPTIM.MAX_EPOCH", 4, "OPTIM.LR", 0.05, "OPTIM.WARMUP_EPOCH", 0]


@pytest.mark.parametrize("kind", [VisualPrompts, Hooked, LowRank, Adapter])
def test_validated_every_epoch_it_equals_a_run_that_keeps_nothing(make_toy, monkeypatch, tmp_path, kind):
    """Every test of a run must see the features of its epoch: accuracies, logits and parameters, bit for bit."""
    runs = []
    for keeps in (True, False):
        trainer = make_toy(kind, *VALIDATED, "OUTPUT_DIR", str(tmp_path / f"keeps-{keeps}"))
        seen, logits = [], trainer.model.logits

        def noted(features, logits=logits, seen=seen):
            found = logits(features)
            if not torch.is_grad_enabled():
                seen.append(found.clone())
            return found

        trainer.model.logits = noted
        if not keeps:  # two tests never find the same version
            versions = iter(range(1000))
            monkeypatch.setattr(trainer.model, "image_version", lambda versions=versions: next(versions))
            monkeypatch.setattr(trainer.model, "version", lambda versions=versions: next(versions))
        trainer.train()
        runs.append((seen, dict(trainer.model.named_parameters())))
    (kept, learned), (fresh, learned_too) = runs
    assert len(kept) == len(fresh) == 4 + 1  # val after each of four epochs, test at the end
    assert all(torch.equal(a, b) for a, b in zip(kept, fresh, strict=True))
    assert len({tuple(map(float, found.flatten())) for found in kept[:4]}) == 4  # it did learn
    assert all(torch.equal(p, learned_too[name]) for name, p in learned.items())


@pytest.mark.parametrize("kind", [VisualPrompts, Hooked, LowRank, Adapter, EasilyNaN, Unsaid])
def test_stored_features_are_refused(make_toy, kind):
    with pytest.raises(ConfigError, match="FEATURE_VIEWS needs a frozen image tower: set the views to 0"):
        make_toy(kind, "INPUT.FEATURE_VIEWS", 2)


def test_stored_features_are_refused_after_a_change_by_the_host(make_toy):
    trainer = make_toy(TextOnly, "INPUT.FEATURE_VIEWS", 1)
    mlp = trainer.backbone.visual.transformer.resblocks[1].mlp
    mlp.c_fc = trainer.model.lora = LoRA(mlp.c_fc)
    with pytest.raises(ConfigError, match="FEATURE_VIEWS needs a frozen image tower"):
        trainer.train()


def test_a_trained_tower_that_is_bypassed_is_refused(make_toy, make_model):
    for act in (lambda: make_toy(Bypassing).test(), lambda: make_toy(Bypassing, "INPUT.FEATURE_VIEWS", 2)):
        with pytest.raises(ValueError, match="Bypassing trains parameters of the image tower, but its encode_image"):
            act()


@pytest.mark.parametrize(
    ("kind", "moves"),
    [
        (VisualPrompts, True),
        (Hooked, True),
        (LowRank, True),
        (Adapter, True),
        (EasilyNaN, True),
        (Unsaid, True),
        (TextOnly, False),
    ],
)
def test_whether_features_move_is_found_out_without_a_trace(make_model, kind, moves):
    model = make_model(kind)
    before, random = [p.clone() for p in model.parameters()], torch.get_rng_state()
    text = model.class_features() + sum(p.sum() for p in model.parameters())  # a graph that is there already
    assert model.image_features_are_trained() is moves
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(p, value) for p, value in zip(model.parameters(), before, strict=True))
    text.sum().backward()


@pytest.mark.parametrize("kind", [VisualPrompts, Hooked, LowRank, Adapter])
def test_the_gradient_reaches_what_moves_them(make_model, kind):
    model = make_model(kind)
    loss, _ = model.loss(model.encode_image(IMAGE), LABEL)
    loss.backward()
    p = model.up if kind is LowRank else next(model.parameters())
    index, step, losses = int(p.grad.abs().argmax()), 1e-3, []
    for sign in (1, -1):
        with torch.no_grad():
            p.view(-1)[index] += sign * step
            losses.append(float(model.loss(model.encode_image(IMAGE), LABEL)[0]))
            p.view(-1)[index] -= sign * step
    found = float(p.grad.flatten()[index])
    assert found and math.isclose((losses[0] - losses[1]) / (2 * step), found, rel_tol=0.05)


def test_an_unlisted_parameter_of_the_tower_counts(make_model):
    model = make_model(Unsaid)
    before = model.image_version()
    with torch.no_grad():
        model.backbone.visual.ln_post.weight.mul_(1.1)
    assert model.image_version() != before
    loss, _ = model.loss(model.encode_image(IMAGE), LABEL)
    loss.backward()
    assert bool(model.backbone.visual.ln_post.weight.grad.abs().sum() > 0)


def put_hook(visual):
    visual.transformer.resblocks[0].register_forward_hook(lambda *args: args[2] * 2)


def put_lora(visual):
    mlp = visual.transformer.resblocks[0].mlp
    mlp.c_fc = LoRA(mlp.c_fc)


def put_weights(visual):
    visual.load_state_dict({name: 1.1 * value for name, value in visual.state_dict().items()})


@pytest.mark.parametrize("change", [put_hook, put_lora, put_weights])
def test_features_of_a_split_are_not_kept_past_a_change_of_a_frozen_tower(make_toy, change):
    trainer = make_toy(TextOnly)
    batches = [[features for features, _ in trainer.encoded("val", trainer.val_loader)] for _ in range(2)]
    assert all(a is b for a, b in zip(*batches, strict=True))
    change(trainer.backbone.visual)
    again = [features for features, _ in trainer.encoded("val", trainer.val_loader)]
    assert all(a is not b for a, b in zip(again, batches[0], strict=True))
