"""The text tower of CLIP, run on embeddings: exact, and without the work that prompt learning repeats.

Three things are the same for every class of an expert, or never read, and are therefore not computed again or at all:
- Padding. Under a causal mask nothing after the end-of-text token reaches it, so prompts end there instead of at 77.
  Several prompts share a bin, a row of fixed length in which each sees only itself, so that hardly any place is empty.
- The shared front. Tokens that all classes of an expert begin with (start token, leading context vectors) cannot see
  the class name, so they are encoded once per expert, and every class attends to their keys and values.
- The last block, except for the end-of-text row, the only one whose output is read.

The result equals `open_clip`'s `encode_text` (tests: forward and gradient, fp32 1e-5). A tower with hooks or other
layers than open_clip's is run through its own modules, on all 77 positions (see `plain.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .deep_prompts import prompt_layers
from .layout import PromptLayout
from .plain import call_block, check_calls_suffice, is_changed_as_a_whole, is_plain_transformer, is_untouched
from .upstream import QuickGELU


class TextEncoder(nn.Module):
    """CLIP's text tower applied to prompts made of tokens and context vectors.

    Args:
        tower: module with `token_embedding`, `positional_embedding`, `transformer.resblocks`, `ln_final`,
            `text_projection`, causal, with the feature read at the end-of-text token (`clip.load_backbone` accepts no
            other). It is shared, not copied, and not part of this module's parameters. Its layers are looked up at
            every encoding, so that replaced ones take effect.
    """

    def __init__(self, tower: nn.Module):
        super().__init__()
        object.__setattr__(self, "tower", tower)  # past nn.Module, which would register it
        self.context_length, self.width = tower.positional_embedding.shape

    @property
    def token_embedding(self) -> nn.Module:
        """Token ids -> embeddings of width W."""
        return self.tower.token_embedding

    @property
    def positional_embedding(self) -> Tensor:
        """[L, W], L the context length."""
        return self.tower.positional_embedding

    @property
    def blocks(self) -> nn.ModuleList:
        """The residual blocks."""
        return self.tower.transformer.resblocks

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
        projection = self.tower.text_projection
        if projection is None:
            return self.width
        return projection.out_features if isinstance(projection, nn.Module) else projection.shape[1]

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
            context: [V, W] context vectors, or [J, V, W] for the input and blocks 1 to J-1 (see `deep_prompts.py`).

        Returns:
            [G, C, D].

        Raises:
            ValueError: context of another width or with more layers than blocks, or a change to the tower that would
                be left out (see `plain.check_calls_suffice`).
        """
        layers = prompt_layers(context, len(self.blocks), self.width)
        x = self._compute_blocks(layout, layers) if self._is_plain() else self._call_modules(layout, layers)
        return self._project(x).view(*layout.shape, -1)

    def _is_plain(self) -> bool:
        """Whether no layer of the tower was changed and its blocks are open_clip's own."""
        tower = self.tower
        parts = (tower.token_embedding, tower.transformer, tower.ln_final, tower.text_projection)
        if is_changed_as_a_whole(tower) or not all(is_untouched(part) for part in parts if isinstance(part, nn.Module)):
            return False
        return is_plain_transformer(tower.transformer)

    def _compute_blocks(self, layout: PromptLayout, layers: Sequence[Tensor]) -> Tensor:
        """The tower up to its projection, blocks computed here: rows of the end-of-text tokens, [G*C, W]."""
        front, tail = self.embed(layout, layers[0] if layers else None)
        x = torch.cat([front.flatten(0, 1), tail])  # [G*F + N*P, W]: one matrix product serves fronts and tails
        rows, slots = layout.context_rows if len(layers) > 1 else (None, None)
        last = len(self.blocks) - 1
        for j, block in enumerate(self.blocks):
            if 0 < j < len(layers):
                x = x.index_copy(0, rows, layers[j][slots].to(x.dtype))
            x = self._block(block, x, layout) if j < last else self._last_block(block, x, layout)
        return self.tower.ln_final(x)

    def _call_modules(self, layout: PromptLayout, layers: Sequence[Tensor]) -> Tensor:
        """The same by calling the tower's own modules, one prompt a row on all positions, as `encode_text` does."""
        check_calls_suffice(self.tower, block_by_block=len(layers) > 1)
        entries, ends = layout.sequences(self.context_length)
        places = (entries < 0).nonzero(as_tuple=True)  # of context vectors: prompts and positions
        slots = -entries[places] - 1

        def put_in(x: Tensor, vectors: Tensor) -> Tensor:
            return x.index_put(places, vectors[slots].to(x.dtype))

        x, transformer, mask = self.token_embedding(entries.clamp(min=0)), self.tower.transformer, self.tower.attn_mask
        x = (put_in(x, layers[0]) if layers else x) + self.positional_embedding
        if len(layers) > 1:
            for j, block in enumerate(self.blocks):
                x = call_block(transformer, block, put_in(x, layers[j]) if 0 < j < len(layers) else x, mask)
        else:
            x = transformer(x, attn_mask=mask)
        return self.tower.ln_final(x)[torch.arange(len(x), device=x.device), ends]

    def encode_rows(self, x: Tensor, ends: Tensor) -> Tensor:
        """Text features by calling the tower, one prompt a row, with any number of rows left open (for exports).

        Args:
            x: [n, L, W] embeddings without positions, L at most the context length.
            ends: [n] place of each end-of-text token.

        Returns:
            [n, D], not normalised.
        """
        L = x.shape[1]
        x = self.tower.transformer(x + self.positional_embedding[:L], attn_mask=self.tower.attn_mask[:L, :L])
        return self._project(self.tower.ln_final(x[torch.arange(x.shape[0], device=x.device), ends]))

    def _project(self, x: Tensor) -> Tensor:
        """[n, W] -> [n, D]."""
        projection = self.tower.text_projection
        if isinstance(projection, nn.Module):
            return projection(x)
        return x if projection is None else x @ projection

    def _block(self, block: nn.Module, x: Tensor, layout: PromptLayout) -> Tensor:
        """One residual block: rows of all fronts, then of all bins, [G*F + N*P, W] -> the same."""
        W, heads, (G, n) = self.width, block.attn.num_heads, layout.front_ids.shape
        weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
        normed, parts = block.ln_1(x), [G * n, len(layout.tail_ids)]
        front_q, q = F.linear(normed, weight[:W], bias[:W]).split(parts)
        front_kv, kv = F.linear(normed, weight[W:], bias[W:]).split(parts)
        fronts = (*self._heads(front_q, G, heads), *self._heads(front_kv, G, heads))
        front = F.scaled_dot_product_attention(*fronts, is_causal=True)
        tail = self._attend(q, front_kv, kv, layout, layout.mask, heads)
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
        mixed = self._attend(q, front_kv, kv, layout, layout.end_mask, block.attn.num_heads).index_select(0, cells)
        x = x.index_select(0, ends) + block.ls_1(block.attn.out_proj(mixed))
        return x + block.ls_2(mlp(block, block.ln_2(x)))

    def _attend(
        self, q: Tensor, front_kv: Tensor, kv: Tensor, layout: PromptLayout, mask: Tensor, heads: int
    ) -> Tensor:
        """Attention of rows in bins to their expert's front and their own prompt, in one softmax.

        Args:
            q: [N*Q, W]; front_kv: [G*F, 2 W]; kv: [N*P, 2 W] keys and values; mask: [N, Q, F + P]; heads: H.

        Returns:
            [N*Q, W].
        """
        N, G = layout.owners.shape
        copies = layout.owners.to(kv.dtype) @ front_kv.view(G, -1)  # exact: one 1 per row; its gradient is a sum
        kv = torch.cat([copies.view(N, -1, kv.shape[1]), kv.view(N, -1, kv.shape[1])], dim=1)
        mixed = masked_attention(*self._heads(q, N, heads), *self._heads(kv, N, heads), mask[:, None])
        return mixed.transpose(1, 2).reshape(len(q), self.width)

    def _heads(self, x: Tensor, groups: int, heads: int) -> tuple[Tensor, ...]:
        """[groups * rows, k * W], or with rows as an axis of their own -> k times [groups, H, rows, d]."""
        x = x.reshape(groups, -1, x.shape[-1] // self.width, heads, self.width // heads)
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
    if type(block.mlp.gelu) is not QuickGELU:
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
    """Text features with the memory of one chunk, at the price of one more forward pass; exact.

    The forward pass keeps no graph; each chunk is run again when its gradient comes.

    Args:
        encoder: `TextEncoder`; layouts: the prompts in slices of classes; context: [V, W] or [J, V, W].
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
