"""Router, gate and losses against plain loops and hand arithmetic."""

import math

import torch
import torch.nn.functional as F
from mocoop.trainers.mocoop import authors_gate_loss, gate_loss, gate_target, mixture_logits, text_loss, topk_softmax

B, G, C, D = 4, 3, 5, 6


def unit(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator), dim=-1)


def test_topk_softmax_by_hand():
    got = topk_softmax(torch.tensor([[1.0, 3.0, 2.0]]), 2)
    e = math.e
    torch.testing.assert_close(got, torch.tensor([[0.0, e / (e + 1), 1 / (e + 1)]]))


def test_topk_of_all_is_softmax_and_of_one_is_a_choice():
    scores = torch.tensor([[0.5, -1.0, 2.0]])
    for k in (3, 7):
        torch.testing.assert_close(topk_softmax(scores, k), scores.softmax(dim=1))
    assert topk_softmax(scores, 1).tolist() == [[0.0, 0.0, 1.0]]
    assert topk_softmax(torch.tensor([[0.3]]), 2).tolist() == [[1.0]]  # one expert


def test_mixture_equals_a_loop():
    image, text, weights = unit(B, D), unit(G, C, D, seed=1), topk_softmax(unit(B, G, seed=2), 2)
    got = mixture_logits(image, text, weights, 7.0)
    for b in range(B):
        for c in range(C):
            want = 7.0 * sum(weights[b, g] * sum(image[b, d] * text[g, c, d] for d in range(D)) for g in range(G))
            torch.testing.assert_close(got[b, c], want, atol=1e-5, rtol=1e-5)


def test_gate_target_and_kl_equal_a_loop_forward_and_gradient():
    image, hard, label = unit(B, D), unit(G, C, D, seed=1), torch.tensor([4, 0, 2, 2])
    router = torch.randn(B, G, generator=torch.Generator().manual_seed(3)).requires_grad_()
    image.requires_grad_()
    q = gate_target(image, hard, label, 2, 10.0)
    loss = gate_loss(q, router)
    total, gradient = 0.0, torch.zeros(B, G)
    for b in range(B):
        z = [10.0 * float(image[b].detach() @ hard[g, label[b]]) for g in range(G)]
        keep = sorted(range(G), key=lambda g: -z[g])[:2]
        norm = sum(math.exp(z[g]) for g in keep)
        target = [math.exp(z[g]) / norm if g in keep else 0.0 for g in range(G)]
        torch.testing.assert_close(q[b], torch.tensor(target), atol=1e-5, rtol=1e-5)
        p = [math.exp(float(router[b, g])) for g in range(G)]
        p = [x / sum(p) for x in p]
        total += sum(t * math.log(t / x) for t, x in zip(target, p, strict=True) if t > 0) / B
        gradient[b] = torch.tensor([(x - t) / B for t, x in zip(target, p, strict=True)])
    assert abs(float(loss) - total) < 1e-5
    loss.backward()
    torch.testing.assert_close(router.grad, gradient, atol=1e-5, rtol=1e-5)
    assert image.grad is None  # no gradient through the target


def test_authors_gate_target_is_half_and_half_and_lets_the_gradient_through():
    image, hard, label = unit(B, D).requires_grad_(), unit(G, C, D, seed=1), torch.tensor([4, 0, 2, 2])
    router = torch.zeros(B, G)
    loss = authors_gate_loss(image, hard, label, router, 2)
    assert abs(float(loss) - math.log(G)) < 1e-5  # cross-entropy of any target against a uniform router
    router = torch.randn(B, G, generator=torch.Generator().manual_seed(3))
    authors_gate_loss(image, hard, label, router, 2).backward()
    assert image.grad.abs().sum() > 0


def test_text_loss_equals_a_loop():
    text, hard = unit(G, C, D), unit(G, C, D, seed=1)
    want = 0.0
    for g in range(G):
        for c in range(C):
            logits = [5.0 * float(text[g, c] @ hard[g, j]) for j in range(C)]
            want += -math.log(math.exp(logits[c]) / sum(map(math.exp, logits))) / (G * C)
    assert abs(float(text_loss(text, hard, 5.0)) - want) < 1e-5
