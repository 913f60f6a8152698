"""MoCoOp against a slow loop written from docs/mocoop.md, and the promises its docstring makes."""

import json
import math
import random
from pathlib import Path

import mocoop
import numpy as np
import pytest
import torch
import yaml
from mocoop.config import ConfigError
from mocoop.trainers.names import class_names
from mocoop.trainers.precision import autocast_dtype, check_precision
from yacs.config import CfgNode

CONFIGS = Path(mocoop.__file__).parent / "configs"
ALL = ["red square", "green square", "blue square", "yellow square"]


def loss_of(trainer, image, label):
    return trainer.model.loss(trainer.model.encode_image(image), label)


def soft_feature(trainer, g, name, context):
    """Expert g around a name, encoded on all 77 positions by open_clip's own layers."""
    clip, template = trainer.backbone.model, trainer.model.templates[g]
    first = sum(t.size for t in trainer.model.templates[:g])
    mine = context[first : first + template.size]
    rows = trainer.backbone.tokenizer([template.text.format(name)])[0]
    x = clip.token_embedding.weight[rows]
    end = int(rows.argmax())
    n_before, n_after = len(template.before), len(template.after)
    stop = end - len(template.tail)
    x = torch.cat([x[:1], mine[:n_before], x[1 + n_before : stop - n_after], mine[n_before:], x[stop:]])
    x = clip.transformer((x + clip.positional_embedding)[None], attn_mask=clip.attn_mask)
    return clip.ln_final(x)[0, end] @ clip.text_projection


def hard_prototype(trainer, group, name):
    total = 0
    for template in group:
        x = trainer.backbone.model.encode_text(trainer.backbone.tokenizer([template.format(name)]))[0]
        total = total + x / x.norm()
    mean = total / len(group)
    return (mean / mean.norm()).detach()


def slow_losses(trainer, image, label, names, topk, text_scale, gate_scale):
    """L_cls, L_text, L_gate by plain loops over images, experts and classes."""
    learner, groups = trainer.model, trainer.model.groups
    G, C, A = len(groups), len(trainer.model.names), len(names)
    scale = trainer.backbone.logit_scale.exp()
    features = trainer.backbone.model.visual(image)
    f = [x / x.norm() for x in features]
    h = [[hard_prototype(trainer, group, n) for n in names] for group in groups]
    s = []
    for g in range(G):
        row = []
        for n in names:
            x = soft_feature(trainer, g, n, learner.context) + learner.correction
            row.append(x / x.norm())
        s.append(row)
    cls = gate = text = 0.0
    for b in range(len(image)):
        r = learner.router.weight @ f[b] + learner.router.bias
        keep = sorted(range(G), key=lambda g: -float(r[g].detach()))[:topk]
        norm = sum(r[g].exp() for g in keep)
        logits = torch.stack([sum(r[g].exp() / norm * (f[b] @ s[g][c]) for g in keep) * scale for c in range(C)])
        cls = cls + (logits.exp().sum().log() - logits[label[b]]) / len(image)
        z = [gate_scale * float(f[b].detach() @ h[g][label[b]]) for g in range(G)]
        best = sorted(range(G), key=lambda g: -z[g])[:topk]
        q = {g: math.exp(z[g]) / sum(math.exp(z[i]) for i in best) for g in best}
        log_p = r - r.exp().sum().log()
        gate = gate + sum(q[g] * (math.log(q[g]) - log_p[g]) for g in best) / len(image)
    for g in range(G):
        for c in range(A):
            logits = torch.stack([text_scale * (s[g][c] @ h[g][j]) for j in range(A)])
            text = text + (logits.exp().sum().log() - logits[c]) / (G * A)
    return cls, text, gate


@pytest.mark.parametrize("virtual", [True, False])
def test_every_loss_equals_the_loop_forward_and_gradient(make_trainer, batch, virtual):
    trainer = make_trainer("MoCoOp", "TRAINER.MOCOOP.VIRTUAL_CLASSES", virtual, "TRAINER.MOCOOP.GATE_TARGET_SCALE", 4.0)
    with torch.no_grad():  # leave the special starting point: w = 0, experts = templates
        trainer.model.correction.normal_(std=0.3)
        trainer.model.context.add_(0.1 * torch.randn_like(trainer.model.context))
    trainer.model.train()
    image, label = batch
    total, parts = loss_of(trainer, image, label)
    names = ALL if virtual else ALL[:2]
    cls, text, gate = slow_losses(trainer, image, label, names, 2, float(trainer.model.logit_scale), 4.0)
    for key, want in {"loss_cls": cls, "loss_text": text, "loss_gate": gate}.items():
        assert abs(float(parts[key].detach()) - float(want.detach())) < 1e-5, key
    slow_total = cls + 5 * text + 1 * gate
    assert abs(float((total - slow_total).detach())) < 1e-4
    params = list(trainer.model.parameters())
    fast = torch.autograd.grad(total, params)
    slow = torch.autograd.grad(slow_total, params)
    assert len(params) == 4 + 2 * 2 * 2  # context, router weight and bias, w; 2 blocks x 2 norms x weight and bias
    for a, b in zip(fast, slow, strict=True):
        assert b.abs().max() > 1e-4  # each is reached
        torch.testing.assert_close(a, b, atol=1e-5 * max(1, float(b.abs().max())), rtol=1e-4)


def test_imagenets_own_names_and_templates(make_trainer, monkeypatch):
    from open_clip import IMAGENET_CLASSNAMES

    names = list(IMAGENET_CLASSNAMES)
    monkeypatch.setattr("mocoop.trainers.base.class_names", lambda dataset, cfg: (names, names))
    options = yaml.safe_load((CONFIGS / "datasets" / "imagenet.yaml").read_text())["TRAINER"]["MOCOOP"]
    trainer = make_trainer("MoCoOp", "TRAINER.MOCOOP.PROMPT_GROUPS", options["PROMPT_GROUPS"])
    with torch.no_grad():
        features = trainer.model.text(1000)
        assert features.shape == (20, 1000, 24)
        for g, c in ((0, names.index("tench")), (16, names.index("yellow lady's slipper"))):
            want = soft_feature(trainer, g, names[c], trainer.model.context)
            torch.testing.assert_close(features[g, c], want / want.norm(), atol=1e-5, rtol=1e-5)


def test_prototypes_follow_the_labels_in_both_halves(make_trainer):
    for half, names in (("base", ALL), ("new", ALL[2:] + ALL[:2])):
        trainer = make_trainer("MoCoOp", "DATASET.SUBSAMPLE_CLASSES", half)
        got = trainer.model.prototypes
        assert [
            n.replace("_", " ") for n in [*trainer.model.names, *trainer.model.others]
        ] == names  # present classes first, in label order
        for g, group in enumerate(trainer.model.groups):
            for c, name in enumerate(names):
                torch.testing.assert_close(got[g, c], hard_prototype(trainer, group, name), atol=1e-5, rtol=1e-5)


def test_names_of_a_host_in_any_order_keep_labels_valid():
    class Host:
        classnames = ["b", "a", "b"]
        all_class_names = ["z", "a", "b", "b", "y"]

    assert class_names(Host) == (["b", "a", "b"], ["b", "a", "b", "z", "y"])
    del Host.all_class_names
    assert class_names(Host) == (["b", "a", "b"], ["b", "a", "b"])


class CoOpsOwn:
    """A data set in CoOp's manner: it knows the names of its half only, and draws when it is made."""

    broken = False

    def __init__(self, cfg):
        half = cfg.DATASET.SUBSAMPLE_CLASSES
        if self.broken and half == "all":
            raise AssertionError("a file is missing")
        names = ["oak", "elm", "ash", "fir", "yew"]
        self.classnames = {"all": names, "base": names[:3], "new": names[3:]}[half]
        self.drawn = random.random(), float(torch.rand(())), float(np.random.rand())


def host_cfg(half):
    return CfgNode({"DATASET": {"SUBSAMPLE_CLASSES": half}})


@pytest.mark.parametrize("half", ["base", "new"])
def test_a_host_that_knows_its_half_only_is_asked_for_all_names(capsys, half):
    cfg = host_cfg(half)
    cfg.freeze()
    data = CoOpsOwn(cfg)
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    present, known = class_names(data, cfg)
    names = ["oak", "elm", "ash", "fir", "yew"]
    assert (present, known) == ((names[:3], names) if half == "base" else (names[3:], names[3:] + names[:3]))
    assert "CoOpsOwn: 5 class names in all" in capsys.readouterr().out and cfg.DATASET.SUBSAMPLE_CLASSES == half
    drawn = random.random(), float(torch.rand(())), float(np.random.rand())
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    assert drawn == CoOpsOwn(cfg).drawn  # making it again has drawn nothing that anybody sees


def test_a_host_that_cannot_tell_its_other_names_says_so(capsys, monkeypatch):
    data, cfg = CoOpsOwn(host_cfg("base")), host_cfg("base")
    assert class_names(data) == (["oak", "elm", "ash"],) * 2 and capsys.readouterr().out == ""
    monkeypatch.setattr(CoOpsOwn, "broken", True)
    assert class_names(data, cfg) == (["oak", "elm", "ash"],) * 2
    out = capsys.readouterr().out
    assert "Note: CoOpsOwn knows only the 3 names of its base classes" in out and "a file is missing" in out
    assert "VIRTUAL_CLASSES" in out
    data.classnames = ["other"]
    monkeypatch.setattr(CoOpsOwn, "broken", False)
    assert class_names(data, cfg) == (["other"], ["other"]) and "it does not know them" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["MoCoOp", "LASP"])
def test_absent_names_of_a_host_take_part_in_the_text_loss(make_trainer, squares_dataset, monkeypatch, method):
    monkeypatch.setattr(squares_dataset, "knows_all", False)
    trainer = make_trainer(method)
    names = [*trainer.model.names, *trainer.model.others]
    assert [name.replace("_", " ") for name in names] == ALL and trainer.num_classes == 2


def test_exactly_the_declared_parameters_change(make_trainer):
    trainer = make_trainer("MoCoOp", "OPTIM.WARMUP_EPOCH", 0)
    before = {n: p.detach().clone() for n, p in trainer.backbone.model.named_parameters()}
    learned = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    trainer.train()
    norms = {n for n in before if n.startswith("visual.transformer.resblocks") and (".ln_1." in n or ".ln_2." in n)}
    assert len(norms) == 8
    for name, p in trainer.backbone.model.named_parameters():
        assert torch.equal(p, before[name]) == (name not in norms), name
    assert all(not torch.equal(p, learned[n]) for n, p in trainer.model.named_parameters())
    assert not trainer.backbone.model.training
    groups = trainer.optim.param_groups
    assert [g["initial_lr"] for g in groups] == pytest.approx([0.01, 0.001])  # LayerNorms at 0.1 x LR
    assert sum(len(g["params"]) for g in groups) == len(learned)


def test_text_features_are_cached_until_a_parameter_changes(make_trainer, batch):
    trainer = make_trainer("MoCoOp")
    calls = []
    encode = trainer.backbone.text_encoder.forward
    trainer.backbone.text_encoder.forward = lambda *args: calls.append(1) or encode(*args)
    trainer.set_model_mode("eval")
    first = trainer.model_inference(batch[0])
    assert torch.equal(trainer.model_inference(batch[0]), first)
    assert len(calls) == 1
    with torch.no_grad():
        trainer.model.correction.add_(0.5)
    assert not torch.allclose(trainer.model_inference(batch[0]), first)
    assert len(calls) == 2
    trainer.model.load_state_dict(trainer.model.state_dict())  # loading writes the parameters
    trainer.model_inference(batch[0])
    assert len(calls) == 3


def test_saved_and_loaded_on_new_classes_equals_a_rebuild_by_hand(make_trainer, batch, tmp_path):
    make_trainer("MoCoOp", "OPTIM.LR", 0.1, "OPTIM.WARMUP_EPOCH", 0).train()
    file = tmp_path / "out" / "prompt_learner" / "model.pth.tar-2"
    assert file.stat().st_size < 200_000  # what was trained, not a CLIP
    new = make_trainer("MoCoOp", "DATASET.SUBSAMPLE_CLASSES", "new", "OUTPUT_DIR", str(tmp_path / "new"))
    new.load_model(str(tmp_path / "out"), epoch=2)
    got = new.model_inference(batch[0])
    state = torch.load(file, weights_only=True)["state_dict"]
    f = torch.nn.functional.normalize(new.backbone.model.visual(batch[0]), dim=-1)
    r = f @ state["router.weight"].T + state["router.bias"]
    top, index = r.topk(2, dim=1)
    for b in range(len(f)):
        for c, name in enumerate(ALL[2:]):
            want = 0
            for weight, g in zip(top[b].softmax(0), index[b], strict=True):
                s = soft_feature(new, int(g), name, state["context"]) + state["correction"]
                want += weight * (f[b] @ (s / s.norm()))
            want = float((want * new.model.logit_scale).detach())
            assert abs(float(got[b, c]) - want) < 1e-4


def test_another_data_set_keeps_the_sources_groups_and_router(make_trainer, tmp_path):
    source = make_trainer("MoCoOp")
    source.train()
    groups = [["a photo of many {}."], ["{} texture."]]
    target = make_trainer("MoCoOp", "TRAINER.MOCOOP.PROMPT_GROUPS", groups, "OUTPUT_DIR", str(tmp_path / "target"))
    assert target.model.router.out_features == 2
    target.load_model(str(tmp_path / "out"))  # the last epoch is found
    assert target.model.groups == source.model.groups
    assert torch.equal(target.model.router.weight, source.model.router.weight)
    assert torch.equal(target.model.context, source.model.context)
    assert target.get_model_names() == ["prompt_learner"]
    assert target._models["prompt_learner"] is target.model


def test_one_group_is_a_single_prompt(make_trainer, batch):
    """G = 1: the router has no choice, the logits are CLIP's with that prompt, the gate loss is zero."""
    trainer = make_trainer("MoCoOp", "TRAINER.MOCOOP.PROMPT_GROUPS", [["a photo of a {}."]])
    clip = trainer.backbone.model
    text = clip.encode_text(trainer.backbone.tokenizer([f"a photo of a {n}." for n in ALL[:2]]), normalize=True)
    want = clip.logit_scale.exp() * clip.encode_image(batch[0], normalize=True) @ text.T
    torch.testing.assert_close(trainer.model_inference(batch[0]), want, atol=1e-4, rtol=1e-5)
    _, parts = loss_of(trainer, *batch)
    assert abs(float(parts["loss_gate"].detach())) < 1e-6


def test_topk_of_all_experts_mixes_all(make_trainer, batch):
    many = make_trainer("MoCoOp", "TRAINER.MOCOOP.TOPK", 9)
    f = many.model.encode_image(batch[0])
    weights = many.model.router(f).softmax(dim=1)
    text = many.model.class_features()
    want = many.model.logit_scale * sum(weights[:, g, None] * (f @ text[g].T) for g in range(3))
    torch.testing.assert_close(many.model_inference(batch[0]), want, atol=1e-4, rtol=1e-5)
    assert (weights > 0).all()


def test_chunks_do_not_change_the_gradient(make_trainer, batch):
    grads = []
    for chunk in (None, 3, 6):
        trainer = make_trainer("MoCoOp", "TRAIN.TEXT_CHUNK", chunk)
        assert len(trainer.model.layouts(4)) == {None: 1, 3: 4, 6: 2}[chunk]
        grads.append(torch.autograd.grad(loss_of(trainer, *batch)[0], list(trainer.model.parameters())))
    for other in grads[1:]:
        for a, b in zip(grads[0], other, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("prec", ["fp32", "amp", "bf16", "fp16"])
def test_precisions_train(make_trainer, monkeypatch, prec):
    monkeypatch.setattr("mocoop.trainers.precision.has_bf16_units", lambda: True)  # whatever this machine's is
    trainer = make_trainer("MoCoOp", "TRAINER.MOCOOP.PREC", prec)
    dtype = autocast_dtype(prec, torch.device("cpu"))
    assert dtype == {"fp32": None, "amp": torch.bfloat16, "bf16": torch.bfloat16, "fp16": None}[prec]
    assert autocast_dtype("amp", torch.device("cuda")) == torch.float16
    trainer.train()
    assert all(torch.isfinite(p).all() and p.dtype == torch.float32 for p in trainer.model.parameters())


def test_a_type_that_the_gpu_lacks_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old GPU")
    with pytest.raises(ConfigError, match="PREC bf16: Old GPU has no bfloat16; use amp"):
        check_precision("bf16", torch.device("cuda"))
    for prec, device in (("amp", "cuda"), ("fp32", "cuda"), ("bf16", "cpu")):
        check_precision(prec, torch.device(device))


def test_a_loss_that_is_no_number_stops_before_the_parameters_change(make_trainer, batch):
    trainer = make_trainer("MoCoOp")
    trainer.batch_idx, trainer.num_batches = 0, 9
    trainer.before_epoch()
    before = trainer.model.context.detach().clone()
    with pytest.raises(FloatingPointError, match="the loss is nan in epoch 1; try a smaller OPTIM.LR"):
        trainer.forward_backward({"img": batch[0] * float("nan"), "label": batch[1]})
    assert torch.equal(trainer.model.context, before)


def test_authors_numerics_differ_only_where_said(make_trainer, batch):
    paper = loss_of(make_trainer("MoCoOp"), *batch)[1]
    authors = make_trainer("MoCoOp", "TRAINER.MOCOOP.GATE_TARGET", "authors", "TRAINER.MOCOOP.TEXT_LOGIT_SCALE", 1.0)
    parts = loss_of(authors, *batch)[1]
    assert float(parts["loss_cls"]) == float(paper["loss_cls"])
    # unscaled cosines over four classes: close to the entropy of a flat guess
    assert abs(float(parts["loss_text"]) - math.log(4)) < 0.6 and float(parts["loss_text"]) != float(paper["loss_text"])


def test_records(make_trainer, tmp_path):
    trainer = make_trainer("MoCoOp")
    trainer.train()
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert lines[0]["lr"] == [1e-5, 1e-5] and lines[1]["lr"] == pytest.approx([0.01, 0.001])
    for line in lines:
        assert sum(line["expert_share"]) == pytest.approx(1)
        total = line["loss_cls"] + 5 * line["loss_text"] + line["loss_gate"]
        assert line["loss"] == pytest.approx(total, rel=1e-5)
    result = json.loads((tmp_path / "out" / "results.json").read_text())["test"]
    assert result["images"] == 6 and result["classes"] == 2
    routing = result["routing"]
    assert sum(routing["share"]) == pytest.approx(1)
    assert routing["classnames"] == ["red_square", "green square"] and len(routing["by_class"]) == 2
    mean = [sum(row[g] for row in routing["by_class"]) / 2 for g in range(3)]  # three images in either class
    assert mean == pytest.approx(routing["share"], abs=1e-3)
