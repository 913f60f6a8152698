"""Routing images to experts, and the two losses that tie experts and router to the hard prompts (MoCoOp §3)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def topk_softmax(scores: Tensor, k: int) -> Tensor:
    """Softmax over the k largest entries of each row, zero elsewhere.

    Args:
        scores: [B, G]; k: experts kept (all of them if k >= G).

    Returns:
        [B, G], rows sum to 1.
    """
    if k >= scores.shape[1]:
        return scores.softmax(dim=1)
    top, index = scores.topk(k, dim=1)
    return torch.zeros_like(scores).scatter(1, index, top.softmax(dim=1))


def mixture_logits(image: Tensor, text: Tensor, weights: Tensor, scale: Tensor | float) -> Tensor:
    """logits[b, c] = scale * sum_g weights[b, g] image[b]·text[g, c]; the mixture is not normalised again.

    Args:
        image: [B, D] of norm 1; text: [G, C, D] of norm 1; weights: [B, G].

    Returns:
        [B, C].
    """
    similarity = torch.einsum("bd,gcd->bgc", image, text)
    return scale * torch.einsum("bg,bgc->bc", weights, similarity)


def gate_target(image: Tensor, prototypes: Tensor, label: Tensor, k: int, scale: Tensor | float) -> Tensor:
    """What the router is asked to do: prefer the experts whose hard prompts for the true class fit the image best.

    z[b, g] = image[b]·prototypes[g, label[b]]; the target is softmax(scale * z) over its k largest, without gradient.
    The released code instead adds 10 to the two largest unscaled cosines, which is 0.5/0.5 whatever they are, and lets
    the gradient through (see `authors_gate_loss`).

    Args:
        image: [B, D]; prototypes: [G, C, D]; label: [B] in prototype order.

    Returns:
        [B, G].
    """
    z = torch.einsum("bd,gbd->bg", image, prototypes[:, label]).detach()
    return topk_softmax(scale * z, k)


def gate_loss(target: Tensor, router: Tensor) -> Tensor:
    """KL(target || softmax(router)), mean over images.

    Args:
        target: [B, G], rows sum to 1; router: [B, G] logits.
    """
    return F.kl_div(router.log_softmax(dim=1), target, reduction="batchmean")


def authors_gate_loss(image: Tensor, prototypes: Tensor, label: Tensor, router: Tensor, k: int) -> Tensor:
    """The gate loss as released: cross-entropy against softmax(z + 10 on the k largest), gradient through the target.

    Only the class order is repaired (the released code indexes the prototypes in another order than the labels).
    """
    z = torch.einsum("bd,gbd->bg", image, prototypes[:, label])
    bonus = torch.zeros_like(z).scatter(1, z.topk(min(k, z.shape[1]), dim=1).indices, 10.0)
    return F.cross_entropy(router, (z + bonus).softmax(dim=1))


def text_loss(text: Tensor, prototypes: Tensor, scale: Tensor | float) -> Tensor:
    """Cross-entropy of scale * text[g, c]·prototypes[g, :] against c: keeps each expert near its own group.

    Args:
        text: [G, A, D] of norm 1; prototypes: [G, A, D] of norm 1.

    Returns:
        mean over g and c.
    """
    logits = scale * text @ prototypes.transpose(1, 2)  # [G, A learned, A hard]
    target = torch.arange(text.shape[1], device=text.device).expand(text.shape[0], -1)
    return F.cross_entropy(logits.flatten(0, 1), target.flatten())
