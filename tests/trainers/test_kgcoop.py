"""KgCoOp against a plain loop, forward and gradient, and what it takes from the released code."""

from pathlib import Path

import mocoop
import pytest
import torch
from dassl.config import get_cfg_default
from mocoop import config, methods
from mocoop.trainers.kgcoop import KgCoOp
from mocoop.trainers.templates import dataset_template
from mocoop.trainers.trained import load_trained

CONFIGS = Path(mocoop.__file__).parent / "configs"
BASE = ["red square", "green square"]


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def plain_loss(clip, tokenizer, ctx, template, weight, image, label):
    """Logits, cross-entropy and the mean of 1 - cosine, class by class on all 77 positions by open_clip's layers."""
    text, distance = [], 0
    for name in BASE:
        row = tokenizer([name + "."])[0]
        e = clip.token_embedding.weight[row]
        x = torch.cat([e[:1], ctx, e[1:]])[:77]
        x = clip.transformer((x + clip.positional_embedding)[None], attn_mask=clip.attn_mask)
        text.append(unit(clip.ln_final(x)[0, int(row.argmax()) + len(ctx)] @ clip.text_projection))
        hard = unit(clip.encode_text(tokenizer([template.format(name)]))[0])
        distance = distance + (1 - text[-1] @ hard) / len(BASE)
    logits = clip.logit_scale.exp() * unit(clip.visual(image)) @ torch.stack(text).T
    cross_entropy = sum(row.logsumexp(0) - row[c] for row, c in zip(logits, label, strict=True)) / len(label)
    return logits, cross_entropy, distance, cross_entropy + weight * distance


@pytest.mark.parametrize(("given", "weight"), [("", 8.0), ("a bad photo of the {}.", 2.5)])
def test_loss_and_gradient_equal_a_loop(make_trainer, batch, given, weight):
    trainer = make_trainer("KgCoOp", "TRAINER.KGCOOP.TEMPLATE", given, "TRAINER.KGCOOP.W", weight)
    model, (image, label) = trainer.model, batch
    assert model.ctx.shape == (4, 32)
    with torch.no_grad():
        model.ctx.add_(0.1 * torch.randn_like(model.ctx))
    template = given or "a photo of a {}."  # of a data set that no file of ours knows
    logits, cls, kg, want = plain_loss(
        trainer.backbone.model, trainer.backbone.tokenizer, model.ctx, template, weight, image, label
    )
    got, parts = model.loss(model.encode_image(image), label)
    torch.testing.assert_close(parts["loss_cls"], cls, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(parts["loss_kg"], kg, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    (a,), (b,) = (torch.autograd.grad(loss, [model.ctx], retain_graph=True) for loss in (got, want))
    assert b.abs().max() > 1e-4 and kg > 1e-3
    torch.testing.assert_close(a, b, atol=1e-5 * max(1, float(b.abs().max())), rtol=1e-4)
    torch.testing.assert_close(trainer.model_inference(image), logits.detach(), atol=1e-4, rtol=1e-5)


def test_it_starts_at_the_hand_written_prompt(make_trainer, batch):
    """L_kg of "a photo of a" and "a photo of a {}." is zero, so the loss is CoOp's."""
    model = make_trainer("KgCoOp").model
    loss, parts = model.loss(model.encode_image(batch[0]), batch[1])
    assert abs(parts["loss_kg"].item()) < 1e-6
    coop = make_trainer("CoOp", "TRAINER.COOP.CTX_INIT", "a photo of a").model
    torch.testing.assert_close(loss, coop.loss(coop.encode_image(batch[0]), batch[1])[0], atol=1e-5, rtol=1e-5)


def test_the_weight_keeps_the_prompt_near_where_it_started(make_trainer, tmp_path):
    moved = []
    for weight in (0.0, 50.0):
        own = ("OPTIM.WARMUP_EPOCH", 0, "OPTIM.MAX_EPOCH", 10, "OUTPUT_DIR", str(tmp_path / str(weight)))
        trainer = make_trainer("KgCoOp", "TRAINER.KGCOOP.W", weight, *own)
        trainer.train()
        moved.append(float(1 - (trainer.model.class_features() * trainer.model.hand_written).sum(dim=-1).mean()))
    assert moved[1] < 0.5 * moved[0]


def test_only_the_context_changes(make_trainer):
    trainer = make_trainer("KgCoOp", "OPTIM.WARMUP_EPOCH", 0)
    before = {n: p.clone() for n, p in trainer.backbone.model.named_parameters()}
    ctx = trainer.model.ctx.detach().clone()
    trainer.train()
    assert all(torch.equal(p, before[n]) for n, p in trainer.backbone.model.named_parameters())
    assert [n for n, _ in trainer.model.named_parameters()] == ["ctx"] and not torch.equal(trainer.model.ctx, ctx)


def test_templates_are_the_zero_shot_ones_but_for_textures():
    cfg = get_cfg_default()
    mocoop.extend_cfg(cfg)
    found = {}
    for cfg.DATASET.NAME in ("DescribableTextures", "EuroSAT", "Food101", "UCF101", "ImageNet", "DemoIcons"):
        found[cfg.DATASET.NAME] = KgCoOp.arguments(cfg)["template"]
    assert found == {
        "DescribableTextures": "a photo of a {}, a type of texture.",
        "EuroSAT": "a centered satellite photo of {}.",
        "Food101": "a photo of {}, a type of food.",
        "UCF101": "a photo of a person doing {}.",
        "ImageNet": "a photo of a {}.",
        "DemoIcons": "an icon of a {}.",
    }
    cfg.DATASET.NAME = "DescribableTextures"
    assert dataset_template(cfg) == "{} texture."
    cfg.TRAINER.KGCOOP.TEMPLATE = "my {}."
    assert KgCoOp.arguments(cfg)["template"] == "my {}."


@pytest.mark.parametrize(("name", "backbone"), [("vit_b16_ep100_ctxv1", "ViT-B/16"), ("rn50_ep100", "RN50")])
def test_the_schedule_is_the_released_one(name, backbone):
    cfg = get_cfg_default()
    mocoop.extend_cfg(cfg)
    config.merge(cfg, [(name, config.read_yaml(CONFIGS / f"trainers/KgCoOp/{name}.yaml"))])
    assert (cfg.MODEL.BACKBONE.NAME, cfg.TRAINER.KGCOOP.W, cfg.TRAINER.KGCOOP.PREC) == (backbone, 8.0, "fp16")
    assert (cfg.TRAINER.KGCOOP.N_CTX, cfg.TRAINER.KGCOOP.CTX_INIT) == (4, "a photo of a")
    assert (cfg.DATALOADER.TRAIN_X.BATCH_SIZE, cfg.DATALOADER.TEST.BATCH_SIZE) == (128, 100)
    assert (cfg.OPTIM.NAME, cfg.OPTIM.LR, cfg.OPTIM.MAX_EPOCH) == ("sgd", 0.002, 100)
    assert (cfg.OPTIM.LR_SCHEDULER, cfg.OPTIM.WARMUP_EPOCH, cfg.OPTIM.WARMUP_CONS_LR) == ("cosine", 1, 1e-5)
    assert methods.named("kgcoop").default_config("eurosat") == "vit_b16_ep100_ctxv1"


def test_the_released_codes_checkpoint_loads(make_trainer, tmp_path):
    """It holds a meta-net and bias vectors that its loss does not use."""
    folder = tmp_path / "theirs" / "prompt_learner"
    folder.mkdir(parents=True)
    ctx = torch.randn(4, 32).half()
    state = {"ctx": ctx, "bias_vectors": torch.zeros(1, 24), "meta_net.linear1.weight": torch.zeros(24, 24)}
    state |= {"meta_net.linear1.bias": torch.zeros(24), "token_prefix": ctx[:1, None], "token_suffix": ctx[:, None]}
    torch.save({"state_dict": state, "epoch": 100, "optimizer": None, "scheduler": None}, folder / "model.pth.tar-100")
    trainer = make_trainer("KgCoOp")
    trainer.load_model(str(tmp_path / "theirs"))
    assert torch.equal(trainer.model.ctx, ctx.float())


def test_a_trained_model_is_rebuilt_from_its_run(make_trainer, batch, tmp_path):
    trainer = make_trainer("KgCoOp", "TRAINER.KGCOOP.TEMPLATE", "a bad photo of the {}.", "TRAINER.KGCOOP.W", 3.0)
    trainer.train()
    model = load_trained(tmp_path / "out", device="cpu", backbone=trainer.backbone)
    assert (model.template, model.weight, model.names) == ("a bad photo of the {}.", 3.0, trainer.model.names)
    torch.testing.assert_close(model(batch[0]), trainer.model_inference(batch[0]))
