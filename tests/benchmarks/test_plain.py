"""The plain path is the same mathematics: what the benchmarks compare is only how it is computed."""

import pytest
import torch
from mocoop.benchmarks.build import make_batch, make_trainer
from mocoop.benchmarks.cases import Case, class_names, template_groups
from mocoop.benchmarks.plain import PLAIN, PaddedPrompts, runs


def two_ways(case, backbone):
    """Our trainer and the plain one with the same numbers, away from the special starting point."""
    ours, plain = make_trainer(case, None, backbone), make_trainer(case, PLAIN[case.method], backbone)
    with torch.no_grad():
        for p in ours.model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    plain.model.load_state_dict(ours.model.state_dict())
    return ours, plain


@pytest.mark.parametrize("method", PLAIN)
@pytest.mark.parametrize("frozen", [False, True])
def test_loss_gradient_and_logits_equal_ours(method, frozen, tiny_backbone):
    case = Case(method, "tiny", present=3, known=5 if method in ("MoCoOp", "LASP") else 3, frozen=frozen)
    ours, plain = two_ways(case, tiny_backbone)
    batch = make_batch(case, 32)
    losses, grads = [], []
    for trainer in (ours, plain):
        torch.manual_seed(4)  # (LASP's noise)
        loss, parts = trainer.model.loss(trainer.model.encode_image(batch["img"]), batch["label"])
        losses.append(torch.stack([loss, *(parts[key] for key in sorted(parts))]))
        grads.append(torch.autograd.grad(loss, list(trainer.model.parameters())))
    torch.testing.assert_close(losses[0], losses[1], atol=1e-5, rtol=1e-5)
    assert len(grads[0]) == {"MoCoOp": 4, "LASP": 2, "CoOp": 1, "CoCoOp": 5}[method] + (
        8 if method in ("MoCoOp", "LASP") and not frozen else 0
    )
    for a, b in zip(*grads, strict=True):
        assert b.abs().max() > 1e-5
        torch.testing.assert_close(a, b, atol=1e-5 * max(1, float(b.abs().max())), rtol=1e-4)
    with torch.no_grad():
        logits = [trainer.model_inference(batch["img"]) for trainer in (ours, plain)]
    torch.testing.assert_close(*logits, atol=1e-4, rtol=1e-5)


def test_both_take_the_same_optimizer_step(tiny_backbone):
    case = Case("MoCoOp", "tiny", present=3, known=5, frozen=True)
    ours, plain = two_ways(case, tiny_backbone)
    summaries = [trainer.forward_backward(make_batch(case, 32)) for trainer in (ours, plain)]
    assert summaries[0] == pytest.approx(summaries[1], rel=1e-4)
    for a, b in zip(ours.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_prompts_are_put_together_in_the_right_order(tiny_clip):
    sequence = [49406, -1, -2, 320, -5, -6, -4, 269, 49407]
    assert runs(sequence) == [(1, 0, 2), (4, 4, 2), (6, 3, 1)]
    context = torch.randn(6, 32)
    got = PaddedPrompts(tiny_clip, [sequence]).embed(context)
    assert got.shape == (1, 77, 32)
    token = tiny_clip.token_embedding.weight
    want = [token[49406], context[0], context[1], token[320], context[4], context[5], context[3], token[269]]
    torch.testing.assert_close(got[0, :9], torch.stack([*want, token[49407]]), atol=0, rtol=0)
    assert torch.equal(got[0, 9:], token[0].expand(68, -1))


def test_names_and_groups_are_as_many_as_asked_for():
    names = class_names(1000)
    assert len(names) == len(set(names)) == 1000 and names[8] == "River" and names[:20] == class_names(20)
    assert [len(group) for group in template_groups(20)] == [1] * 20
    with pytest.raises(ValueError, match="expected 1 to 34 experts, found 35"):
        template_groups(35)
    with pytest.raises(ValueError, match="class names, found 5000"):
        class_names(5000)
