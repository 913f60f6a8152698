"""Every method as a module of plain arguments, as a notebook uses it: no Dassl, no config, no data set."""

import contextlib
import copy
import doctest
import importlib
import json
import pkgutil

import mocoop.trainers
import pytest
import torch
import torch.nn.functional as F
from mocoop.methods import LASP_PROMPTS, OURS
from mocoop.trainers.cocoop import CoCoOpModel
from mocoop.trainers.coop import CoOpModel
from mocoop.trainers.kgcoop import KgCoOpModel
from mocoop.trainers.lasp import LASPModel
from mocoop.trainers.mocoop import MoCoOpModel
from mocoop.trainers.trained import rebuild
from mocoop.trainers.zsclip import ZeroshotModel

NAMES = ["red_square", "green square", "blue square"]
GROUPS = [["a photo of a {}."], ["{} texture.", "a rendering of the {}."], ["a {} in a video game."]]
# Case -> model, arguments, and those that leave nothing but the cross-entropy in the loss.
MODELS = {
    "ZeroshotCLIP": (ZeroshotModel, {"templates": ["a photo of a {}.", "{} texture."]}, None),
    "CoOp": (CoOpModel, {"n_ctx": 4, "position": "middle"}, {}),
    "CoOp, words": (CoOpModel, {"words": "a photo of a"}, {}),
    "CoOp, class-specific": (CoOpModel, {"n_ctx": 2, "class_specific": True}, {}),
    "CoCoOp": (CoCoOpModel, {"n_ctx": 3}, {}),
    "KgCoOp": (KgCoOpModel, {"n_ctx": 3, "words": "", "template": "{} texture."}, {"weight": 0}),
    "LASP": (LASPModel, {"prompts": ["a {}.", "{} texture.", "art of {}."], "groups": 2}, {"loss_weight": 0}),
    "MoCoOp": (MoCoOpModel, {"groups": GROUPS}, {"text_loss_weight": 0, "gate_loss_weight": 0}),
    "MoCoOp, frozen": (
        MoCoOpModel,
        {"groups": GROUPS, "topk": 1, "finetune_norms": False, "correction": False},
        {"text_loss_weight": 0, "gate_loss_weight": 0},
    ),
}
TRAINED = [case for case in MODELS if case != "ZeroshotCLIP"]
MANY = [case for case in MODELS if case != "CoOp, class-specific"]  # those that can score other classes
IMAGE = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(7))
LABEL = torch.tensor([0, 1, 2, 1])


def make(case, backbone, names=NAMES, **more):
    """A model as after some training: nothing that is trained is at its start."""
    kind, arguments, _ = MODELS[case]
    torch.manual_seed(3)
    model = kind(backbone, names, **arguments, **more)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape))
        if case == "CoCoOp":
            model.meta_net.linear1.bias.add_(1)  # the one hidden unit of so small a model is to be active
    return model


@torch.no_grad()
def logits_of(model):
    return model(IMAGE)


def numbers(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


# ---- the interface


@pytest.mark.parametrize("case", MODELS)
def test_images_become_features_and_features_logits(tiny_backbone, case):
    model = make(case, tiny_backbone).eval()
    features = model.encode_image(IMAGE).detach()
    torch.testing.assert_close(features, F.normalize(model.backbone.visual(IMAGE), dim=-1), atol=1e-5, rtol=1e-5)
    logits = model.logits(features)
    assert logits.shape == (4, 3) and torch.equal(model(IMAGE), logits)
    torch.testing.assert_close(model.logits(features[1:2]), logits[1:2], atol=1e-4, rtol=1e-5)  # each for itself


def test_zero_shot_is_clips_mean_over_templates(tiny_backbone):
    clip, names = tiny_backbone.model, [name.replace("_", " ") for name in NAMES]
    text = torch.zeros(3, 24)
    for template in ("a photo of a {}.", "{} texture."):
        text += clip.encode_text(tiny_backbone.tokenizer([template.format(name) for name in names]), normalize=True)
    want = clip.logit_scale.exp() * clip.encode_image(IMAGE, normalize=True) @ F.normalize(text, dim=-1).T
    torch.testing.assert_close(logits_of(make("ZeroshotCLIP", tiny_backbone)), want, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("case", TRAINED)
def test_the_loss_is_the_cross_entropy_of_the_logits(tiny_backbone, case):
    model = make(case, tiny_backbone, **MODELS[case][2]).train()
    features = model.encode_image(IMAGE)
    loss, logged = model.loss(features, LABEL)
    logits = logits_of(model)
    torch.testing.assert_close(loss, F.cross_entropy(logits, LABEL), atol=1e-4, rtol=1e-5)
    assert next(iter(logged)) == "acc"
    assert float(logged["acc"]) == 100 * float((logits.argmax(dim=1) == LABEL).float().mean())


@pytest.mark.parametrize("case", TRAINED)
def test_the_loss_reaches_all_that_is_trained_and_nothing_else(tiny_backbone, case):
    model = make(case, tiny_backbone).train()
    loss, _ = model.loss(model.encode_image(IMAGE), LABEL)
    loss.backward()
    assert {name for name, p in model.named_parameters() if not bool(p.grad.abs().sum() > 0)} == set()
    trained = set(model.parameters())
    assert all(p.grad is None for p in model.backbone.model.parameters() if p not in trained)


def test_a_method_without_training_has_no_loss(tiny_backbone):
    with pytest.raises(TypeError, match="ZeroshotModel has nothing to train"):
        make("ZeroshotCLIP", tiny_backbone).loss(torch.randn(4, 24), LABEL)


def test_lasps_own_prompts_are_the_default(tiny_backbone):
    model = LASPModel(tiny_backbone, NAMES[:2])
    assert model.prompts == LASP_PROMPTS and model.hard.shape == (35, 2, 24)
    loss, _ = model.loss(model.encode_image(IMAGE), LABEL % 2)
    assert bool(loss.isfinite())


# ---- other classes


@pytest.mark.parametrize("case", MANY)
def test_other_classes_are_scored_without_training(tiny_backbone, case):
    model = make(case, tiny_backbone).eval()
    before, first = numbers(model), logits_of(model)
    model.set_classes([*NAMES, "a house"])
    more = logits_of(model)
    assert more.shape == (4, 4)
    torch.testing.assert_close(more[:, :3], first, atol=1e-4, rtol=1e-5)
    model.set_classes(["a house", NAMES[2]])
    torch.testing.assert_close(logits_of(model), more[:, [3, 2]], atol=1e-4, rtol=1e-5)
    fresh = make(case, tiny_backbone, ["a house", NAMES[2]]).eval()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(logits_of(fresh), logits_of(model))
    model.set_classes(NAMES)
    assert torch.equal(logits_of(model), first)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_class_specific_vectors_refuse_other_classes(tiny_backbone):
    model = make("CoOp, class-specific", tiny_backbone)
    first = logits_of(model)
    with pytest.raises(ValueError, match=r"\(CSC\) exist for 3 classes, found 2 names"):
        model.set_classes(NAMES[:2])
    assert model.names == NAMES and torch.equal(logits_of(model), first)
    model.set_classes(["cat", "dog", "house"])  # as many, for whoever wants it
    assert model.names == ["cat", "dog", "house"]


def test_class_names_may_come_in_any_sequence(tiny_backbone):
    model = make("CoOp", tiny_backbone)
    model.set_classes(name for name in ("cat", "dog"))
    assert model.names == ["cat", "dog"]
    for names, message in (("cat", r"one text: write \['cat'\]"), ([], "at least one"), (["cat", 5], "found 5")):
        with pytest.raises(ValueError, match=message):
            model.set_classes(names)
        assert model.names == ["cat", "dog"]


def test_what_is_made_once_is_forgotten_with_the_classes(tiny_backbone):
    model, made = make("MoCoOp", tiny_backbone), []
    sequences = model.sequences
    model.sequences = lambda names: made.append(list(names)) or sequences(names)
    model.set_classes(NAMES[:2], NAMES[2:])
    for _ in range(2):
        model.loss(model.encode_image(IMAGE), LABEL % 2)
        logits_of(model)
    assert made == [NAMES, NAMES[:2]]  # all names for the loss, the scored ones for the logits
    prototypes = model.prototypes
    assert prototypes.shape == (3, 3, 24) and model.prototypes is prototypes
    model.set_classes(["a house"])
    logits_of(model)
    assert made[2:] == [["a house"]] and model.prototypes.shape == (3, 1, 24)


# ---- rebuilt, moved, saved


@pytest.mark.parametrize("case", MODELS)
def test_settings_and_trained_tensors_rebuild_it_bit_for_bit(tiny_backbone, case):
    model = make(case, tiny_backbone).eval()
    settings = json.loads(json.dumps(model.settings()))  # plain data
    state = {name: value for name, value in model.state_dict().items() if name != "_extra_state"}
    random = torch.get_rng_state()
    again = rebuild(settings, state, tiny_backbone, settings["names"], "here").eval()
    assert torch.equal(torch.get_rng_state(), random)
    assert type(again) is type(model) and again.settings() == model.settings()
    assert torch.equal(logits_of(again), logits_of(model))


@pytest.mark.parametrize("case", MODELS)
def test_a_state_holds_what_is_trained_and_the_settings(tiny_backbone, case):
    model = make(case, tiny_backbone)
    state = model.state_dict()
    assert state.pop("_extra_state") == model.settings()
    assert list(state) == [name for name, _ in model.named_parameters()]
    assert sum(p.numel() for p in state.values()) < 10_000


@pytest.mark.parametrize("case", MODELS)
def test_it_moves_as_a_whole(tiny_backbone, case):
    model = make(case, tiny_backbone)
    logits_of(model)
    assert model.to("meta") is model and model.device.type == "meta"
    tensors = [*model.parameters(), *model.backbone.model.parameters(), *model.backbone.model.buffers()]
    assert {p.device.type for p in tensors} == {"meta"}
    model.autocast = contextlib.nullcontext  # torch has none for "meta"
    with torch.no_grad():
        assert model(IMAGE.to("meta")).shape == (4, 3)  # nothing that it needs has stayed behind


@pytest.mark.parametrize("case", TRAINED)
def test_a_model_is_made_where_its_backbone_is(tiny_backbone, case):
    """Without `.to`: a notebook says the device once, to `load_backbone`."""
    kind, arguments, _ = MODELS[case]
    tiny_backbone.model.to("meta")
    arguments = {name: value for name, value in arguments.items() if name != "words"}
    model = kind(tiny_backbone, NAMES, **arguments)
    assert {p.device.type for p in model.parameters()} == {"meta"}


@pytest.mark.parametrize("case", ["LASP", "MoCoOp"])
def test_models_around_one_backbone_leave_each_other_alone(tiny_backbone, case):
    plain = make("ZeroshotCLIP", tiny_backbone).eval()
    first = logits_of(plain)
    one, other = make(case, tiny_backbone).eval(), make(case, tiny_backbone).eval()
    untouched = logits_of(other)
    with torch.no_grad():
        for p in one.image_norms.values():
            p.mul_(1.5)
    assert not torch.allclose(logits_of(one), untouched, atol=0.1)
    assert torch.equal(logits_of(other), untouched)
    assert torch.equal(logits_of(plain), first)
    assert not any(p.requires_grad for p in tiny_backbone.model.parameters())
    hook = tiny_backbone.visual.transformer.resblocks[1].mlp.register_forward_hook(lambda *args: args[2] * 0)
    assert not torch.allclose(logits_of(other), untouched)  # what is not learned is shared, with its hooks
    hook.remove()
    assert torch.equal(logits_of(other), untouched)


@pytest.mark.parametrize("case", MODELS)
def test_a_copy_is_a_model_of_its_own(tiny_backbone, case):
    model = make(case, tiny_backbone).eval()
    first, twin = logits_of(model), copy.deepcopy(model)
    assert torch.equal(logits_of(twin), first)
    with torch.no_grad():
        for p in [*twin.parameters(), *twin.backbone.model.parameters()]:
            p.add_(0.1)
    assert not torch.allclose(logits_of(twin), first) and torch.equal(logits_of(model), first)


# ---- what is kept


def test_class_features_are_kept_until_something_changes(tiny_backbone):
    model, count, encode = make("CoOp", tiny_backbone).eval(), [0], CoOpModel.encode_classes

    def encode_classes():
        count[0] += 1
        return encode(model)

    model.encode_classes = encode_classes
    block = tiny_backbone.text.transformer.resblocks[1]
    hooks = []
    changes = [
        lambda: None,
        lambda: model.ctx.add_(0.5),
        lambda: model.load_state_dict(model.state_dict()),
        lambda: model.train() and model.eval(),
        lambda: hooks.append(block.register_forward_hook(lambda *args: args[2] * 2)),
        lambda: hooks.pop().remove(),
        lambda: setattr(block.mlp, "c_fc", torch.nn.Sequential(block.mlp.c_fc)),
        lambda: tiny_backbone.text.text_projection.mul_(2),
    ]
    found = []
    with torch.no_grad():
        logits_of(model)
        for change in changes:
            before = count[0]
            change()
            logits_of(model), logits_of(model)
            found.append(count[0] - before)
    assert found == [0, 1, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("case", TRAINED)
def test_after_inference_mode_it_can_be_trained(tiny_backbone, case):
    model = make(case, tiny_backbone)
    with torch.inference_mode():
        model(IMAGE)
        model.loss(model.encode_image(IMAGE), LABEL)
    loss, _ = model.loss(model.encode_image(IMAGE), LABEL)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("case", MODELS)
def test_it_can_be_made_in_inference_mode(tiny_backbone, case):
    want = logits_of(make(case, tiny_backbone).eval())
    with torch.inference_mode():
        model = make(case, tiny_backbone).eval()
        assert torch.equal(model(IMAGE), want) and torch.equal(model(IMAGE), want)


# ---- wrong arguments


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (CoOpModel, {"n_ctx": 0}, "CoOp: the argument n_ctx must be >= 1"),
        (CoOpModel, {"n_ctx": 2.5}, "n_ctx must be a whole number, found 2.5"),
        (CoOpModel, {"words": ["a"]}, "words must be a text"),
        (CoOpModel, {"position": "back"}, "position must be one of 'end', 'middle', 'front', found 'back'"),
        (CoOpModel, {"chunk": 0}, "chunk must be a whole number >= 1"),
        (CoOpModel, {"precision": "half"}, "precision must be one of 'fp32'"),
        (KgCoOpModel, {"template": "a"}, "KgCoOp: the argument template each template needs"),
        (KgCoOpModel, {"weight": -1}, "weight must be"),
        (CoCoOpModel, {"n_ctx": 10**9}, "n_ctx must be >= 1 and <= 1,000"),
        (LASPModel, {"prompts": []}, "LASP: the argument prompts must be"),
        (LASPModel, {"groups": 0}, "groups must be"),
        (LASPModel, {"noise_std": -1}, "noise_std must be a number >= 0"),
        (MoCoOpModel, {"groups": []}, "groups must be a list with entries"),
        (MoCoOpModel, {"groups": ["a {}."]}, "groups must be a list of non-empty lists"),
        (MoCoOpModel, {"groups": [["a"]]}, "exactly one \"{}\" for the class name; found 'a'"),
        (MoCoOpModel, {"topk": 0}, "topk must be a number >= 1"),
        (MoCoOpModel, {"gate_target": "paper"}, "gate_target must be one of"),
        (MoCoOpModel, {"text_logit_scale": 0}, "text_logit_scale must be"),
        (ZeroshotModel, {"templates": "a {}."}, "ZeroshotCLIP: the argument templates must be a list"),
        (ZeroshotModel, {"templates": []}, "templates must be"),
        (ZeroshotModel, {"templates": ["{} {name}"]}, 'exactly one "{}"'),
    ],
)
def test_arguments_that_cannot_be_are_named(tiny_backbone, kind, arguments, message):
    with pytest.raises(ValueError) as caught:
        kind(tiny_backbone, NAMES, **arguments)
    assert message in str(caught.value)


# ---- the examples in the docstrings


@pytest.mark.parametrize("module", [found.name for found in pkgutil.iter_modules(mocoop.trainers.__path__)])
def test_the_examples_in_docstrings_are_true(module):
    failed, _ = doctest.testmod(importlib.import_module(f"mocoop.trainers.{module}"))
    assert failed == 0


@pytest.mark.parametrize("row", OURS, ids=lambda row: row.name)
def test_every_methods_model_is_tried_here_and_has_an_example(row):
    kind = row.load_model()
    assert kind in {kind for kind, _, _ in MODELS.values()}
    assert doctest.DocTestFinder(recurse=False).find(kind)[0].examples
