"""Whether a tower is open_clip's own, so that its blocks may be computed from their weights instead of being called.

Hooks, a replaced attention, a LoRA around a layer: all of these take effect only where a module is called. `text.py`
and `image.py` ask here at every encoding, since such changes may come at any time. In a changed tower the modules are
called; a change that would have no effect even then is refused. (Torch's global hooks are not part of a tower; FLOP
counters use them.)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.utils.checkpoint import checkpoint

from ..toolbox.dassl.errors import WrongValue
from .upstream import QuickGELU, ResidualAttentionBlock, Transformer, VisionTransformer

# The classes whose forward is computed here instead of being called.
COMPUTED_HERE = (
    VisionTransformer,
    Transformer,
    ResidualAttentionBlock,
    nn.MultiheadAttention,
    nn.Sequential,
    nn.Linear,
    QuickGELU,
)
REPLACEABLE_METHODS = {"forward", "encode_text", "encode_image"}  # what a program may have replaced on a single tower


def is_untouched(module: nn.Module) -> bool:
    """Whether neither a module nor one inside it has a hook, or a forward put in place of its class's."""
    if has_hooks(module) or "forward" in vars(module):
        return False
    for child in module._modules.values():  # `modules()` would take several times as long
        if child is not None and not is_untouched(child):
            return False
    return True


def is_plain_transformer(transformer: nn.Module) -> bool:
    """Whether a stack of blocks is open_clip's own, made of plain blocks; ask also whether it `is_untouched`."""
    if any(kind.forward.__module__ != kind.__module__ for kind in COMPUTED_HERE):  # the class itself was patched
        return False
    return type(transformer) is Transformer and all(is_plain_block(block) for block in transformer.resblocks)


def is_plain_block(block: nn.Module) -> bool:
    """Whether a block, and every layer in it whose weights are read, is of open_clip's own class.

    A LoRA layer is not, nor is a parametrized one. (`block.attn` would look in three other places before `_modules`.)
    """
    if type(block) is not ResidualAttentionBlock or "attention" in vars(block):
        return False
    attn, mlp = block._modules["attn"], block._modules["mlp"]
    if type(attn) is not nn.MultiheadAttention or type(mlp) is not nn.Sequential:
        return False
    if type(attn._modules["out_proj"]) is not NonDynamicallyQuantizableLinear:
        return False
    layers = mlp._modules
    if tuple(layers) != ("c_fc", "gelu", "c_proj"):
        return False
    return type(layers["c_fc"]) is nn.Linear and type(layers["c_proj"]) is nn.Linear


def layers_and_hooks(tower: nn.Module) -> tuple:
    """A value that differs after a layer of a tower was replaced, or a hook or another forward was put on one."""
    return tuple(
        (module, *module._forward_hooks, *module._forward_pre_hooks, vars(module).get("forward"))
        for module in tower.modules()
    )


def has_hooks(module: nn.Module) -> bool:
    """Whether a hook is on this very module."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def is_changed_as_a_whole(tower: nn.Module) -> bool:
    """Whether calling this tower as a whole would do more than its class says."""
    return has_hooks(tower) or not REPLACEABLE_METHODS.isdisjoint(vars(tower))


def keeps_forward(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether calling this module computes what the class `kind` came with, hooks aside."""
    forward = kind.forward
    return type(module).forward is forward and "forward" not in vars(module) and forward.__module__ == kind.__module__


def check_calls_suffice(tower: nn.Module, block_by_block: bool) -> None:
    """Refuse changes that would have no effect although the layers of a tower are called.

    Args:
        tower: a text or image tower that is not called as a whole.
        block_by_block: its `transformer` is not called as a whole either, only the blocks in it.

    Raises:
        ValueError: a hook on, or another forward of, a module that is not called.
    """
    if is_changed_as_a_whole(tower):
        refuse_change(
            type(tower).__name__, "prompts enter inside of it, so that it is not called as a whole", "layers in it"
        )
    transformer = tower.transformer
    if block_by_block and (has_hooks(transformer) or not keeps_forward(transformer, Transformer)):
        refuse_change(
            "the stack of blocks", "deep prompts enter inside of it, so that only the blocks are called", "the blocks"
        )
    check_attention(transformer)


def check_attention(transformer: nn.Module) -> None:
    """Refuse changes to a layer that torch's attention reads and never calls, so that they would have no effect.

    Raises:
        ValueError: a hook on, or another forward of, `out_proj`.
    """
    for j, block in enumerate(transformer.resblocks):
        attn = getattr(block, "attn", None)
        if not isinstance(attn, nn.MultiheadAttention) or not keeps_forward(attn, nn.MultiheadAttention):
            continue
        if has_hooks(attn.out_proj) or not keeps_forward(attn.out_proj, nn.Linear):
            why = "torch's MultiheadAttention reads its weight and never calls it"
            refuse_change(f"resblocks.{j}.attn.out_proj", why, f"resblocks.{j}.attn as a whole")


def refuse_change(where: str, why: str, instead: str) -> None:
    """Refuse a change to a module that is not called.

    Raises:
        ValueError: always.
    """
    raise WrongValue(
        f"a hook, an adapter or another forward on {where} would be left out: {why}. Remove it, or put it on {instead}"
    )


def call_block(transformer: nn.Module, block: nn.Module, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """One block as `transformer` calls it, with its gradient checkpointing: [n, L, W] -> the same."""
    if transformer.grad_checkpointing and torch.is_grad_enabled():
        return checkpoint(block, x, None, None, mask, use_reentrant=False)
    return block(x, attn_mask=mask)
