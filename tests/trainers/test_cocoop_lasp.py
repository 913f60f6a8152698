"""CoCoOp and LASP against plain loops, forward and gradient."""

import math

import pytest
import torch
from mocoop.methods import LASP_PROMPTS
from mocoop.trainers.lasp import templates_per_group, text_to_text_loss

ALL = ["red square", "green square", "blue square", "yellow square"]


def loss_of(trainer, image, label):
    return trainer.model.loss(trainer.model.encode_image(image), label)


def plain_text(clip, tokenizer, names, vectors):
    """[start][vectors][name].[end] on all 77 positions by open_clip's own layers: [C, D]."""
    features = []
    for name in names:
        row = tokenizer([name + "."])[0]
        e = clip.token_embedding.weight[row]
        x = torch.cat([e[:1], vectors, e[1:]])[:77]
        x = clip.transformer((x + clip.positional_embedding)[None], attn_mask=clip.attn_mask)
        features.append(clip.ln_final(x)[0, int(row.argmax()) + len(vectors)] @ clip.text_projection)
    return torch.stack(features)


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def test_cocoop_equals_a_loop_over_images(make_trainer, batch):
    trainer = make_trainer("CoCoOp", "TRAINER.COCOOP.N_CTX", 4)
    clip, learner = trainer.backbone.model, trainer.model
    learner.meta_net.linear2.weight.data.normal_()
    image, label = batch
    rows = []
    for x in image:
        f = unit(clip.visual(x[None]))[0]
        hidden = (learner.meta_net.linear1.weight @ f + learner.meta_net.linear1.bias).clamp(min=0)
        shift = learner.meta_net.linear2.weight @ hidden + learner.meta_net.linear2.bias
        text = unit(plain_text(clip, trainer.backbone.tokenizer, ALL[:2], learner.ctx + shift))
        rows.append(clip.logit_scale.exp() * text @ f)
    want = torch.nn.functional.cross_entropy(torch.stack(rows), label)
    got, _ = loss_of(trainer, image, label)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    params = list(learner.parameters())
    assert len(params) == 5
    for a, b in zip(torch.autograd.grad(got, params), torch.autograd.grad(want, params), strict=True):
        assert b.abs().max() > 0
        torch.testing.assert_close(a, b, atol=1e-5 * max(1, float(b.abs().max())), rtol=1e-4)
    torch.testing.assert_close(trainer.model_inference(image), torch.stack(rows).detach(), atol=1e-4, rtol=1e-5)
    trainer.model.eval_prompts = 2  # one image at a time
    torch.testing.assert_close(trainer.model_inference(image), torch.stack(rows).detach(), atol=1e-4, rtol=1e-5)


FEATURES = {
    "CoOp": lambda trainer: trainer.model.encode_classes(),
    "CoCoOp": lambda trainer: trainer.model.encode_for_images(trainer.model.ctx[None])[0],
    "LASP": lambda trainer: trainer.model.text(1000)[0],
}


@pytest.mark.parametrize("method", FEATURES)
def test_imagenets_own_names_start_as_the_template(method, make_trainer, monkeypatch):
    from open_clip import IMAGENET_CLASSNAMES

    names = list(IMAGENET_CLASSNAMES)
    monkeypatch.setattr("mocoop.trainers.base.class_names", lambda dataset, cfg: (names, names))
    trainer = make_trainer(method, f"TRAINER.{method.upper()}.CTX_INIT", "a photo of a")
    rows = trainer.backbone.tokenizer([f"a photo of a {name}." for name in names])
    with torch.no_grad():
        want = trainer.backbone.model.encode_text(rows, normalize=True)
        torch.testing.assert_close(FEATURES[method](trainer), want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("chunk", "passes"), [(1, 8), (2, 4), (5, 2), (8, 1)])
def test_cocoop_in_chunks_of_images_and_classes(make_trainer, batch, chunk, passes):
    """Four images x two classes: one prompt, one image, two images, everything at once."""
    whole = make_trainer("CoCoOp")
    parts = make_trainer("CoCoOp", "TRAIN.TEXT_CHUNK", chunk)
    for trainer in (whole, parts):
        torch.manual_seed(0)
        trainer.model.meta_net.linear2.weight.data.normal_()
    image, label = batch
    calls, losses = [], [loss_of(whole, image, label)[0]]
    parts.backbone.text_encoder.register_forward_pre_hook(lambda module, inputs: calls.append(inputs[0].shape))
    losses.append(loss_of(parts, image, label)[0])
    assert len(calls) == passes and calls[0] == {1: (1, 1), 2: (1, 2), 5: (2, 2), 8: (4, 2)}[chunk]
    torch.testing.assert_close(losses[0], losses[1], atol=1e-5, rtol=1e-5)
    params = [list(trainer.model.parameters()) for trainer in (whole, parts)]
    grads = [torch.autograd.grad(loss, p) for loss, p in zip(losses, params, strict=True)]
    for a, b in zip(*grads, strict=True):
        assert a.abs().max() > 0
        torch.testing.assert_close(a, b, atol=1e-5 * max(1, float(a.abs().max())), rtol=1e-4)
    torch.testing.assert_close(parts.model_inference(image), whole.model_inference(image), atol=1e-4, rtol=1e-5)


def test_cocoop_takes_fewer_images_at_once_where_memory_is_short(make_trainer, batch, monkeypatch):
    rows = make_trainer("CoCoOp").model.layouts(2)[0].rows
    monkeypatch.setattr("mocoop.trainers.cocoop.rows_that_fit", lambda encoder, device: 3.5 * rows)
    trainer = make_trainer("CoCoOp")
    assert trainer.model.images_that_fit() == 3
    assert [len(part) for part in batch[0].split(trainer.model.images_at_once())] == [3, 1]
    with torch.no_grad():
        assert trainer.model.images_at_once() == 2048  # evaluation keeps nothing for a backward pass


def test_cocoop_logits_are_not_rounded_to_half_precision(make_trainer, batch):
    """100 x cosine in bfloat16 would come in steps of 1/8 from 16 on."""
    trainer = make_trainer("CoCoOp", "TRAINER.COCOOP.PREC", "bf16")
    image, _ = batch
    with torch.no_grad():
        features = trainer.model.encode_image(image)
        with trainer.model.autocast():
            text = trainer.model.encode_for_images(trainer.model.contexts(features))
        assert text.dtype == features.dtype == torch.float32
        want = torch.stack([trainer.backbone.logit_scale.exp() * t @ f for t, f in zip(text, features, strict=True)])
        got = trainer.model_inference(image)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    assert not torch.equal(got, got.bfloat16().float())


def test_cocoop_keeps_the_layouts_of_a_batch_size(make_trainer, batch):
    trainer = make_trainer("CoCoOp")
    loss_of(trainer, *batch)
    kept = trainer.model.layouts_for(4)
    loss_of(trainer, *batch)
    assert trainer.model.layouts_for(4) is kept


def test_cocoop_trains_context_and_meta_net_only(make_trainer):
    trainer = make_trainer("CoCoOp", "OPTIM.WARMUP_EPOCH", 0)
    before = {n: p.clone() for n, p in trainer.backbone.model.named_parameters()}
    learned = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    trainer.train()
    assert all(torch.equal(p, before[n]) for n, p in trainer.backbone.model.named_parameters())
    assert all(not torch.equal(p, learned[n]) for n, p in trainer.model.named_parameters())


def test_lasp_text_loss_equals_a_loop():
    G, T, A, D = 2, 5, 3, 6
    text, hard = unit(torch.randn(G, A, D)), unit(torch.randn(T, A, D))
    sizes = templates_per_group(T, G)
    assert sizes == [3, 2]
    want = 0.0
    for t in range(T):
        g = 0 if t < 3 else 1
        for c in range(A):  # the softmax runs over learned prompts, as released
            logits = [4.0 * float(hard[t, c] @ text[g, j]) for j in range(A)]
            want += -math.log(math.exp(logits[c]) / sum(map(math.exp, logits))) / (T * A)
    assert abs(float(text_to_text_loss(text, hard, sizes, 4.0)) - want) < 1e-5


@pytest.mark.parametrize("groups", [1, 2])
def test_lasp_equals_a_loop(make_trainer, batch, groups):
    trainer = make_trainer(
        "LASP", "TRAINER.LASP.GROUPS", groups, "TRAINER.LASP.NOISE_STD", 0.0, "TRAINER.LASP.PREC", "fp32"
    )
    clip, learner, tokenizer = trainer.backbone.model, trainer.model, trainer.backbone.tokenizer
    with torch.no_grad():
        learner.correction.normal_(std=0.3)
        learner.context.add_(0.1 * torch.randn_like(learner.context))
    image, label = batch
    scale = clip.logit_scale.exp()
    f = unit(clip.visual(image))
    text = torch.stack([unit(plain_text(clip, tokenizer, ALL, c) + learner.correction) for c in learner.context])
    logits = scale * f @ unit(text[:, :2].mean(0)).T
    cls = torch.nn.functional.cross_entropy(logits, label)
    assert len(LASP_PROMPTS) == 35 and len(set(LASP_PROMPTS)) == 34
    total = 0
    for t, template in enumerate(LASP_PROMPTS):
        hard = unit(clip.encode_text(tokenizer([template.format(n) for n in ALL])))
        mine = text[0 if groups == 1 or t < 18 else 1]
        total = total + torch.nn.functional.cross_entropy(scale * hard @ mine.T, torch.arange(4)) / 35
    got, parts = loss_of(trainer, image, label)
    torch.testing.assert_close(parts["loss_cls"], cls, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(parts["loss_text"], total, atol=1e-5, rtol=1e-5)
    want = cls + 5 * total
    params = list(learner.parameters())
    for a, b in zip(torch.autograd.grad(got, params), torch.autograd.grad(want, params), strict=True):
        assert b.abs().max() > 1e-4
        torch.testing.assert_close(a, b, atol=1e-5 * max(1, float(b.abs().max())), rtol=1e-4)
    torch.testing.assert_close(trainer.model_inference(image), logits.detach(), atol=1e-4, rtol=1e-5)


def test_lasp_without_prompts_takes_the_templates_of_the_data_set(make_trainer):
    groups = [["a photo of many {}."], ["{} texture.", "the texture of {}."]]
    options = ("TRAINER.LASP.LASP_PROMPTS", [], "TRAINER.MOCOOP.PROMPT_GROUPS", groups)
    model = make_trainer("LASP", *options).model
    assert model.prompts == ["a photo of many {}.", "{} texture.", "the texture of {}."]
    assert model.hard.shape[:2] == (3, 4)
    assert make_trainer("LASP").model.prompts == LASP_PROMPTS


def test_lasp_noise_comes_in_half_of_the_steps(make_trainer):
    trainer = make_trainer("LASP")
    torch.manual_seed(0)
    noisy = [trainer.model.noisy(trainer.model.hard) for _ in range(40)]
    changed = [x for x in noisy if not torch.equal(x, trainer.model.hard)]
    assert 10 < len(changed) < 30
    noise = torch.stack(changed) - trainer.model.hard  # not normalised again
    assert abs(float(noise.std()) - 0.05) < 0.002 and abs(float(noise.mean())) < 0.002


def test_zero_shot_ensemble_is_the_same_when_built_twice(make_trainer, batch):
    first = make_trainer("ZeroshotCLIP2")
    second = make_trainer("ZeroshotCLIP2")
    templates = first.model.templates
    assert templates == second.model.templates and len(templates) == 8
    assert torch.equal(first.model_inference(batch[0]), second.model_inference(batch[0]))
    clip = first.backbone.model
    rows = [clip.encode_text(first.backbone.tokenizer([t.format(n) for n in ALL[:2]])) for t in templates]
    text = unit(torch.stack([unit(r) for r in rows]).mean(0))
    want = clip.logit_scale.exp() * unit(clip.visual(batch[0])) @ text.T
    torch.testing.assert_close(first.model_inference(batch[0]), want, atol=1e-4, rtol=1e-5)
