"""CoOp and zero-shot CLIP against open_clip's own encoders."""

import pytest
import torch
from mocoop import extend_cfg
from mocoop.trainers.templates import dataset_template

BASE = ["red square", "green square"]
# CoOp's own table, and what it says where that table is silent.
TEMPLATES = {
    "OxfordPets": "a photo of a {}, a type of pet.",
    "OxfordFlowers": "a photo of a {}, a type of flower.",
    "FGVCAircraft": "a photo of a {}, a type of aircraft.",
    "DescribableTextures": "{} texture.",
    "EuroSAT": "a centered satellite photo of {}.",
    "StanfordCars": "a photo of a {}.",
    "Food101": "a photo of {}, a type of food.",
    "SUN397": "a photo of a {}.",
    "Caltech101": "a photo of a {}.",
    "UCF101": "a photo of a person doing {}.",
    "ImageNet": "a photo of a {}.",
    "ImageNetSketch": "a photo of a {}.",
    "DemoIcons": "an icon of a {}.",
    "DemoIconsTilted": "an icon of a {}.",
    "HostsOwn": "a photo of a {}.",
}


def loss_of(trainer, image, label):
    return trainer.model.loss(trainer.model.encode_image(image), label)


def hard_logits(trainer, template, image, names=BASE):
    clip = trainer.backbone.model
    text = clip.encode_text(trainer.backbone.tokenizer([template.format(n) for n in names]), normalize=True)
    return clip.logit_scale.exp() * clip.encode_image(image, normalize=True) @ text.T


def test_zero_shot_equals_clip(make_trainer, batch):
    trainer = make_trainer("ZeroshotCLIP", "TRAINER.ZSCLIP.TEMPLATE", "a bad photo of the {}.")
    torch.testing.assert_close(
        trainer.model_inference(batch[0]),
        hard_logits(trainer, "a bad photo of the {}.", batch[0]),
        atol=1e-4,
        rtol=1e-5,
    )


def test_zero_shot_has_nothing_to_train_or_load(make_trainer, capsys):
    trainer = make_trainer("ZeroshotCLIP")
    trainer.load_model("nowhere")
    trainer.train()
    assert "nothing to train" in capsys.readouterr().out


def test_templates_of_the_benchmark():
    from dassl.config import get_cfg_default

    cfg = get_cfg_default()
    extend_cfg(cfg)
    found = {}
    for cfg.DATASET.NAME in TEMPLATES:
        found[cfg.DATASET.NAME] = dataset_template(cfg)
    assert found == TEMPLATES
    cfg.TRAINER.ZSCLIP.TEMPLATE = "my {}."
    assert dataset_template(cfg) == "my {}."


def test_ctx_init_starts_as_the_template(make_trainer, batch):
    trainer = make_trainer("CoOp", "TRAINER.COOP.CTX_INIT", "a photo of a")
    assert trainer.model.ctx.shape == (4, 32)
    torch.testing.assert_close(
        trainer.model_inference(batch[0]), hard_logits(trainer, "a photo of a {}.", batch[0]), atol=1e-4, rtol=1e-5
    )


@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("specific", [False, True])
def test_gradient_equals_the_plain_tower(make_trainer, batch, position, specific):
    trainer = make_trainer("CoOp", "TRAINER.COOP.CLASS_TOKEN_POSITION", position, "TRAINER.COOP.CSC", specific)
    image, label = batch
    clip, ctx = trainer.backbone.model, trainer.model.ctx
    assert ctx.shape == ((2, 4, 32) if specific else (4, 32))
    features = []
    for c, name in enumerate(BASE):
        row = trainer.backbone.tokenizer([name + "."])[0]
        e, v = clip.token_embedding.weight[row], ctx[c] if specific else ctx
        n = int(row.argmax()) - 2  # tokens of the name
        left = {"end": 4, "middle": 2, "front": 0}[position]
        x = torch.cat([e[:1], v[:left], e[1 : 1 + n], v[left:], e[1 + n :]])[:77]
        x = clip.transformer((x + clip.positional_embedding)[None], attn_mask=clip.attn_mask)
        features.append(clip.ln_final(x)[0, n + 2 + 4] @ clip.text_projection)
    text = torch.nn.functional.normalize(torch.stack(features), dim=-1)
    logits = clip.logit_scale.exp() * clip.encode_image(image, normalize=True) @ text.T
    want = torch.nn.functional.cross_entropy(logits, label)
    got, _ = loss_of(trainer, image, label)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    (a,), (b,) = torch.autograd.grad(got, [ctx]), torch.autograd.grad(want, [ctx])
    assert b.abs().max() > 1e-4
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_only_the_context_changes(make_trainer):
    trainer = make_trainer("CoOp", "OPTIM.WARMUP_EPOCH", 0)
    before = {n: p.clone() for n, p in trainer.backbone.model.named_parameters()}
    ctx = trainer.model.ctx.detach().clone()
    trainer.train()
    assert all(torch.equal(p, before[n]) for n, p in trainer.backbone.model.named_parameters())
    assert not torch.equal(trainer.model.ctx, ctx)
    assert [n for n, _ in trainer.model.named_parameters()] == ["ctx"]


def test_the_released_codes_checkpoint_loads(make_trainer, tmp_path):
    folder = tmp_path / "theirs" / "prompt_learner"
    folder.mkdir(parents=True)
    ctx = torch.randn(4, 32)
    state = {"ctx": ctx, "token_prefix": torch.zeros(1, 1, 32), "token_suffix": torch.zeros(1, 72, 32)}
    torch.save({"state_dict": state, "epoch": 50, "optimizer": None, "scheduler": None}, folder / "model.pth.tar-50")
    trainer = make_trainer("CoOp")
    trainer.load_model(str(tmp_path / "theirs"))
    assert torch.equal(trainer.model.ctx, ctx)


def test_checkpoints_that_do_not_fit_are_refused(make_trainer, tmp_path):
    make_trainer("CoOp").train()
    out = str(tmp_path / "out")
    with pytest.raises(ValueError, match=r"trained with method 'CoOp', this run uses 'MoCoOp'"):
        make_trainer("MoCoOp").load_model(out)
    with pytest.raises(ValueError, match=r"(?s)does not fit the model.*ctx.*\[4, 32\].*\[8, 32\]"):
        make_trainer("CoOp", "TRAINER.COOP.N_CTX", 8).load_model(out)
    with pytest.raises(FileNotFoundError, match=r"model.pth.tar-7: found model.pth.tar-2"):
        make_trainer("CoOp").load_model(out, epoch=7)
    other = make_trainer("CoOp")
    other.cfg.MODEL.BACKBONE.NAME = "ViT-B/16"
    with pytest.raises(ValueError, match=r"trained with backbone 'tiny', this run uses 'ViT-B/16'"):
        other.load_model(out)


def test_a_name_too_long_for_the_context_is_named(make_trainer):
    with pytest.raises(ValueError, match=r"class .red_square. has 84 tokens, the text tower takes 77"):
        make_trainer("CoOp", "TRAINER.COOP.N_CTX", 79)
