"""Whether a tower is open_clip's own, so that its blocks may be computed from their weights instead of being called.

Hooks, a replaced attention, a LoRA around a layer: all of these take effect only where a module is called. `text.py`
and `image.py` ask here at every encoding, since such changes may come at any time. An altered tower's modules are
called; what even that would leave out is refused. (Global hooks of torch are no part of a tower; FLOP counters use
them.)
"""

from __future__ import annotations

import torch
from open_clip.transformer import ResidualAttentionBlock, Transformer
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.utils.checkpoint import checkpoint

FORWARDS = {"forward", "encode_text", "encode_image"}  # what a program may have replaced on a single tower


def has_hooks(module: nn.Module) -> bool:
    """Whether a hook is on this very module."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def has_hooks_inside(module: nn.Module) -> bool:
    """Whether a hook is on this module or one inside it."""
    if has_hooks(module):
        return True
    for child in module._modules.values():  # `modules()` would take several times as long
        if child is not None and has_hooks_inside(child):
            return True
    return False


def is_changed(tower: nn.Module) -> bool:
    """Whether calling this tower as a whole would do more than its class says."""
    return has_hooks(tower) or not FORWARDS.isdisjoint(vars(tower))


def keeps_forward(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether calling this module computes what the class `kind` came with, hooks aside."""
    forward = kind.forward
    return type(module).forward is forward and "forward" not in vars(module) and forward.__module__ == kind.__module__


def is_own(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module is exactly of this class and keeps its forward (a parametrized layer has a class of its own)."""
    return type(module) is kind and keeps_forward(module, kind)


def is_plain_block(block: nn.Module) -> bool:
    """Whether a block, and every layer in it whose weights are read here, is open_clip's own, hooks aside."""
    if not is_own(block, ResidualAttentionBlock) or "attention" in vars(block):
        return False
    attn, mlp = block.attn, block.mlp
    if not is_own(attn, nn.MultiheadAttention) or not is_own(attn.out_proj, NonDynamicallyQuantizableLinear):
        return False
    if not is_own(mlp, nn.Sequential) or tuple(mlp._modules) != ("c_fc", "gelu", "c_proj"):
        return False
    return is_own(mlp.c_fc, nn.Linear) and is_own(mlp.c_proj, nn.Linear)


def is_plain_transformer(transformer: nn.Module) -> bool:
    """Whether a stack of blocks is open_clip's own, made of plain blocks, and nobody listens in on a layer."""
    if not is_own(transformer, Transformer) or has_hooks_inside(transformer):
        return False
    return all(is_plain_block(block) for block in transformer.resblocks)


def check_calls_suffice(tower: nn.Module, block_by_block: bool) -> None:
    """Refuse changes that are left out although the layers of a tower are called.

    Args:
        tower: a text or image tower that is not called as a whole.
        block_by_block: nor is its `transformer`, only the blocks in it.

    Raises:
        ValueError: a hook on, or another forward of, a module that is not called.
    """
    if is_changed(tower):
        refuse(tower, "prompts enter inside of it, so that it is not called as a whole", "layers in it")
    transformer = tower.transformer
    if block_by_block and (has_hooks(transformer) or not keeps_forward(transformer, Transformer)):
        refuse(transformer, "deep prompts enter inside of it, so that only its blocks are called", "its blocks")
    check_attention(transformer)


def check_attention(transformer: nn.Module) -> None:
    """Refuse changes to a layer that torch's attention reads and never calls, so that they are without effect.

    Raises:
        ValueError: a hook on, or another forward of, `out_proj`.
    """
    for block in transformer.resblocks:
        attn = getattr(block, "attn", None)
        if not isinstance(attn, nn.MultiheadAttention) or not keeps_forward(attn, nn.MultiheadAttention):
            continue
        if has_hooks(attn.out_proj) or not keeps_forward(attn.out_proj, nn.Linear):
            refuse(attn.out_proj, "torch's MultiheadAttention reads its weight and never calls it", "the attention")


def refuse(module: nn.Module, why: str, instead: str) -> None:
    """Refuse a change to a module that is not called.

    Raises:
        ValueError: always.
    """
    raise ValueError(
        f"a hook on {type(module).__name__}, or a forward put in place of its own, would be left out: {why}. "
        f"Remove it, or put it on {instead}"
    )


def call_block(transformer: nn.Module, block: nn.Module, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """One block as `transformer` calls it, with its gradient checkpointing: [n, L, W] -> the same."""
    if transformer.grad_checkpointing and torch.is_grad_enabled():
        return checkpoint(block, x, None, None, mask, use_reentrant=False)
    return block(x, attn_mask=mask)
