"""The image tower of CLIP's ViTs for prompt learning: exact, with less work and less memory than the plain tower.

- Where only the class token is read, the last block computes it alone; all rows are still its keys and values.
- Frozen linear layers see one [rows, width] matrix. (In training, torch's `MultiheadAttention` turns a frozen
  projection into one small product per position, several times slower than one product of all of them.)
- QuickGELU keeps one tensor for the backward pass, not three (`text.mlp`).

Where only LayerNorms learn, the graph keeps their inputs, the queries, keys and values, and the MLP's hidden layer.
Any other tower (ResNets, other blocks, hooks on a layer) runs as it is. Learned tokens beside the patches (see
`deep_prompts.py`) go through the same blocks, and through those of any other ViT of open_clip.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ..toolbox.dassl.errors import WrongValue
from .deep_prompts import prompt_layers, put_behind
from .plain import (
    call_block,
    check_attention,
    check_calls_suffice,
    is_plain_transformer,
    is_untouched,
)
from .text import mlp
from .upstream import VisionTransformer


def encode_image(visual: nn.Module, image: Tensor, tokens: Tensor | None = None) -> Tensor:
    """Image features [B, D], not normalised: `visual(image)` without the parts that are never read (tests: fp32 1e-5).

    Args:
        visual: an image tower of open_clip, in eval mode.
        image: [B, 3, H, W].
        tokens: [J, M, Wv] learned tokens behind the patches, for the input and blocks 1 to J-1 (see
            `deep_prompts.py`); [M, Wv] means J = 1.

    Raises:
        ValueError: tokens for a tower that is no ViT of open_clip, of another width, or with more layers than blocks; a
            change to the tower that would be left out (see `plain.check_calls_suffice`).
    """
    plain = is_plain_vit(visual)
    if tokens is None and not plain:
        if isinstance(visual, VisionTransformer):
            check_attention(visual.transformer)
        return visual(image)
    layers = token_layers(visual, tokens)
    if not plain:
        check_calls_suffice(visual, block_by_block=True)
    return _features(visual, image, layers, plain)


def _features(visual: nn.Module, image: Tensor, layers: Sequence[Tensor], plain: bool) -> Tensor:
    """The tower step by step, its blocks computed here if they are plain, else called.

    Args:
        visual: a ViT; image: [B, 3, H, W]; layers: J times [M, Wv] learned tokens, or none; plain: see `is_plain_vit`.

    Returns:
        [B, D].
    """
    x = visual._embeds(image).float()  # [B, L, W]; under autocast, sums over blocks are float32's, as in the text tower
    length, last = x.shape[1], len(visual.transformer.resblocks) - 1
    read = 1 if visual.pool_type == "tok" and visual.attn_pool is None else length
    if layers:
        x = put_behind(x, length, visual.ln_pre(layers[0]))
    for j, block in enumerate(visual.transformer.resblocks):
        if 0 < j < len(layers):
            x = put_behind(x, length, layers[j])
        if plain:
            x = _block(block, x, queries=x.shape[1] if j < last else read)
        else:
            x = call_block(visual.transformer, block, x)
    x, _ = visual._pool(x[:, :length])
    return x if visual.proj is None else x @ visual.proj


def token_layers(visual: nn.Module, tokens: Tensor | None) -> tuple[Tensor, ...]:
    """The image tokens of each layer: [J, M, Wv] -> J times [M, Wv].

    Raises:
        ValueError: see `encode_image`.
    """
    if tokens is None:
        return ()
    if not (isinstance(visual, VisionTransformer) and type(visual).forward is VisionTransformer.forward):
        raise WrongValue(
            f"learned image tokens need open_clip's VisionTransformer as image tower, found {type(visual).__name__}: "
            "take a backbone such as ViT-B/16, or a method without prompts on the image side"
        )
    return prompt_layers(tokens, len(visual.transformer.resblocks), visual.transformer.width)


def is_plain_vit(visual: nn.Module) -> bool:
    """Whether the tower is a ViT of open_clip made of its own blocks, with no layer changed."""
    if type(visual) is not VisionTransformer or visual.training or visual.output_tokens:
        return False
    if visual.transformer.grad_checkpointing or not is_untouched(visual):
        return False
    return is_plain_transformer(visual.transformer)


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
