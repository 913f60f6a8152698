"""The text tower of CLIP, run on embeddings: exact, and without the work that prompt learning repeats.

Three things are equal for every class of an expert, or never looked at, and are therefore not computed:
- Padding. Under a causal mask nothing after the end-of-text token reaches it, so prompts end there instead of at 77.
  Several prompts share a bin, a row of fixed length in which each sees only itself, so that hardly any place is empty.
- The shared front. Tokens that all classes of an expert begin with (start token, leading context vectors) cannot see
  the class name, so they are encoded once per expert, and every class attends to their keys and values.
- The last block, but for the end-of-text row, whose output is the only one that is read.

The result equals `open_clip`'s `encode_text` (tests: forward and gradient, fp32 1e-5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU
from torch import Tensor, nn

from .layout import PromptLayout


class TextEncoder(nn.Module):
    """CLIP's text tower applied to prompts made of tokens and context vectors.

    Args:
        tower: module with `token_embedding`, `positional_embedding`, `transformer.resblocks`, `ln_final`,
            `text_projection`, causal, its feature read at the end-of-text token (`clip.load_backbone` lets no other
            through). Shared, not copied.
    """

    def __init__(self, tower: nn.Module):
        super().__init__()
        self.token_embedding = tower.token_embedding
        self.positional_embedding = tower.positional_embedding
        self.blocks = tower.transformer.resblocks
        self.ln_final = tower.ln_final
        self.text_projection = tower.text_projection
        self.context_length = tower.positional_embedding.shape[0]
        self.width = tower.positional_embedding.shape[1]
        self.heads = self.blocks[0].attn.num_heads

    @property
    def bytes_per_row(self) -> int:
        """Memory that one row (one token of one prompt) holds until the backward pass, in float32.

        Per block: the inputs of both LayerNorms (2 W), queries (W), keys and values with each bin's copy of the front
        (2 to 3 W), their mixture (W), the MLP's hidden layer (4 W), rounded up. Frozen linear layers keep nothing.
        """
        return 12 * self.width * 4 * len(self.blocks)

    @property
    def output_width(self) -> int:
        """D, the width of the joint space."""
        if self.text_projection is None:
            return self.width
        linear = isinstance(self.text_projection, nn.Linear)
        return self.text_projection.out_features if linear else self.text_projection.shape[1]

    def embed(self, layout: PromptLayout, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Embeddings with positions, context vectors in their places.

        Args:
            layout: where everything goes.
            context: [V, W] context vectors; None if there are none.

        Returns:
            front [G, F, W] and tail [N*P, W].
        """
        front = self.token_embedding(layout.front_ids)
        tail = self.token_embedding(layout.tail_ids)
        if context is not None:
            flat = front.flatten(0, 1).to(context.dtype)
            front = flat.index_copy(0, layout.front_rows, context[layout.front_slots]).view(front.shape)
            if len(layout.tail_rows):
                tail = tail.to(context.dtype).index_copy(0, layout.tail_rows, context[layout.tail_slots])
        return front + self.positional_embedding[: front.shape[1]], tail + self.positional_embedding[layout.positions]

    def forward(self, layout: PromptLayout, context: Tensor | None = None) -> Tensor:
        """Text features of every expert and class, not normalised.

        Args:
            layout: the prompts.
            context: [V, W] context vectors.

        Returns:
            [G, C, D].
        """
        front, tail = self.embed(layout, context)
        x = torch.cat([front.flatten(0, 1), tail])  # [G*F + N*P, W]: one matrix product serves fronts and tails
        for block in self.blocks[:-1]:
            x = self._block(block, x, layout)
        x = self.ln_final(self._last_block(self.blocks[-1], x, layout))
        if isinstance(self.text_projection, nn.Linear):
            x = self.text_projection(x)
        elif self.text_projection is not None:
            x = x @ self.text_projection
        return x.view(*layout.shape, -1)

    def _block(self, block: nn.Module, x: Tensor, layout: PromptLayout) -> Tensor:
        """One residual block: rows of all fronts, then of all bins, [G*F + N*P, W] -> the same."""
        W, (G, n) = self.width, layout.front_ids.shape
        weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
        normed, parts = block.ln_1(x), [G * n, len(layout.tail_ids)]
        front_q, q = F.linear(normed, weight[:W], bias[:W]).split(parts)
        front_kv, kv = F.linear(normed, weight[W:], bias[W:]).split(parts)
        front = F.scaled_dot_product_attention(*self._heads(front_q, G), *self._heads(front_kv, G), is_causal=True)
        tail = self._attend(q, front_kv, kv, layout, layout.mask)
        mixed = torch.cat([front.transpose(1, 2).reshape(-1, W), tail])
        x = x + block.ls_1(block.attn.out_proj(mixed))
        return x + block.ls_2(mlp(block, block.ln_2(x)))

    def _last_block(self, block: nn.Module, x: Tensor, layout: PromptLayout) -> Tensor:
        """The last block for end-of-text rows only: [G*F + N*P, W] -> [G*C, W]."""
        W, n = self.width, layout.front_ids.numel()
        weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
        normed, ends, cells = block.ln_1(x), layout.ends + n, layout.end_cells
        q = F.linear(normed.index_select(0, ends), weight[:W], bias[:W])
        front_kv, kv = F.linear(normed, weight[W:], bias[W:]).split([n, len(x) - n])
        q = q.new_zeros(layout.end_mask.shape[:2].numel(), W).index_copy(0, cells, q)
        mixed = self._attend(q, front_kv, kv, layout, layout.end_mask).index_select(0, cells)
        x = x.index_select(0, ends) + block.ls_1(block.attn.out_proj(mixed))
        return x + block.ls_2(mlp(block, block.ln_2(x)))

    def _attend(self, q: Tensor, front_kv: Tensor, kv: Tensor, layout: PromptLayout, mask: Tensor) -> Tensor:
        """Attention of rows in bins to their expert's front and their own prompt, in one softmax.

        Args:
            q: [N*Q, W]; front_kv: [G*F, 2 W]; kv: [N*P, 2 W] keys and values; mask: [N, Q, F + P].

        Returns:
            [N*Q, W].
        """
        N, G = layout.owners.shape
        copies = layout.owners.to(kv.dtype) @ front_kv.view(G, -1)  # exact: one 1 per row; its gradient is a sum
        kv = torch.cat([copies.view(N, -1, kv.shape[1]), kv.view(N, -1, kv.shape[1])], dim=1)
        mixed = masked_attention(*self._heads(q, N), *self._heads(kv, N), mask[:, None])
        return mixed.transpose(1, 2).reshape(len(q), self.width)

    def _heads(self, x: Tensor, groups: int) -> tuple[Tensor, ...]:
        """[groups * rows, k * W], or with rows as an axis of their own -> k times [groups, H, rows, d]."""
        x = x.reshape(groups, -1, x.shape[-1] // self.width, self.heads, self.width // self.heads)
        return x.transpose(1, 3).unbind(2)


def masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention [n, H, rows, d] under a mask; on a CPU in float32 where a backward pass may follow.

    (torch 2.15's backward pass in bfloat16 with a mask takes a CPU three times as long.)
    """
    if q.dtype != torch.bfloat16 or q.device.type != "cpu" or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask).to(q.dtype)


def mlp(block: nn.Module, x: Tensor) -> Tensor:
    """A block's MLP [n, W] -> [n, W]; QuickGELU through torch's fused SiLU.

    x sigmoid(1.702 x) = silu(1.702 x) / 1.702, with half of the memory for the backward pass that the formula takes.
    """
    if not isinstance(block.mlp.gelu, QuickGELU):
        return block.mlp(x)
    up, down = block.mlp.c_fc, block.mlp.c_proj
    hidden = F.silu(torch.addmm(1.702 * up.bias, x, up.weight.T, alpha=1.702))
    return torch.addmm(down.bias, hidden, down.weight.T, alpha=1 / 1.702)


def encode_chunked(
    encoder: Callable[[PromptLayout, Tensor], Tensor],
    layouts: Sequence[PromptLayout],
    context: Tensor,
    chunked: bool | None = None,
) -> Tensor:
    """Text features with the memory of one chunk, exactly, for one more forward pass.

    The forward pass keeps no graph; each chunk is run again when its gradient comes.

    Args:
        encoder: `TextEncoder`; layouts: the prompts in slices of classes; context: [V, W].
        chunked: whether this is needed; None = if there are several slices.

    Returns:
        [G, C, D], C over all slices.
    """
    from torch.utils.checkpoint import checkpoint

    if not torch.is_grad_enabled():
        context = context.detach()  # a view of a parameter counts as tracked even then, on which FLOP counters stumble

    def run(layout: PromptLayout) -> Tensor:
        if not (len(layouts) > 1 if chunked is None else chunked) or not torch.is_grad_enabled():
            return encoder(layout, context)
        return checkpoint(encoder, layout, context, use_reentrant=False, preserve_rng_state=False)

    return torch.cat([run(layout) for layout in layouts], dim=1)
