"""The image tower of CLIP's ViTs for prompt learning: exact, with less work and less memory than the plain tower.

- Where only the class token is read, the last block computes it alone; all rows are still its keys and values.
- Frozen linear layers see one [rows, width] matrix. (In training, torch's `MultiheadAttention` turns a frozen
  projection into one small product per position, several times slower than one product of all of them.)
- QuickGELU keeps one tensor for the backward pass, not three (`text.mlp`).

Where only LayerNorms learn, what is kept is their inputs, the queries, keys and values, and the MLP's hidden layer.
Any other tower (ResNets, other blocks, hooks on a layer) runs as it is.
"""

from __future__ import annotations

import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from .text import mlp


def encode_image(visual: nn.Module, image: Tensor) -> Tensor:
    """Image features [B, D], not normalised: `visual(image)` without what nobody reads (tests: fp32 1e-5).

    Args:
        visual: an image tower of open_clip, in eval mode.
        image: [B, 3, H, W].
    """
    if not is_plain_vit(visual):
        return visual(image)
    x = visual._embeds(image).float()  # [B, L, W]; under autocast, sums over blocks are float32's, as in the text tower
    for block in visual.transformer.resblocks[:-1]:
        x = _block(block, x, queries=x.shape[1])
    class_token_only = visual.pool_type == "tok" and visual.attn_pool is None
    x = _block(visual.transformer.resblocks[-1], x, queries=1 if class_token_only else x.shape[1])
    x, _ = visual._pool(x)
    return x if visual.proj is None else x @ visual.proj


def is_plain_vit(visual: nn.Module) -> bool:
    """Whether the tower is a ViT of open_clip made of plain blocks, and nobody listens in on a layer."""
    if type(visual) is not VisionTransformer or visual.training or visual.output_tokens:
        return False
    blocks = visual.transformer.resblocks
    if visual.transformer.grad_checkpointing or not all(is_plain_block(block) for block in blocks):
        return False
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return not any(getattr(module, name) for module in visual.modules() for name in hooks)


def is_plain_block(block: nn.Module) -> bool:
    """Whether a block, and the attention in it (a LoRA may have taken its place), are open_clip's own."""
    return type(block) is ResidualAttentionBlock and type(block.attn) is nn.MultiheadAttention


def _block(block: nn.Module, x: Tensor, queries: int) -> Tensor:
    """One residual block for the first `queries` rows of each image: [B, L, W] -> [B, queries, W]."""
    B, L, W = x.shape
    weight, bias, heads = block.attn.in_proj_weight, block.attn.in_proj_bias, block.attn.num_heads
    normed = block.ln_1(x)
    if queries == L:
        q, k, v = F.linear(normed, weight, bias).view(B, L, 3, heads, -1).transpose(1, 3).unbind(2)
    else:
        q = F.linear(normed[:, :queries], weight[:W], bias[:W]).view(B, queries, heads, -1).transpose(1, 2)
        k, v = F.linear(normed, weight[W:], bias[W:]).view(B, L, 2, heads, -1).transpose(1, 3).unbind(2)
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B * queries, W)
    x = x[:, :queries].reshape(B * queries, W) + block.ls_1(block.attn.out_proj(mixed))
    return (x + block.ls_2(mlp(block, block.ln_2(x)))).view(B, queries, W)
