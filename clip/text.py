"""The text tower of CLIP, run on embeddings: exact, and without the work that prompt learning repeats.

Three things are equal for every class of an expert, or never looked at, and are therefore not computed:
- Padding. Under a causal mask nothing after the end-of-text token reaches it, so prompts end there instead of at 77,
  and all prompts of a batch lie one behind the other in one [rows, width] matrix: no row of a linear layer is wasted.
- The shared front. Tokens that all classes of an expert begin with (start token, leading context vectors) cannot see
  the class name, so they are encoded once per expert, and every class attends to their keys and values.
- The last block, but for the end-of-text row, whose output is the only one that is read.

The result equals `open_clip`'s `encode_text` (tests: forward and gradient, fp32 1e-5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# A prompt is a sequence of whole numbers: n >= 0 is the token with that id, n < 0 is context vector number -n - 1.
Sequence_ = Sequence[int]


def context_slot(index: int) -> int:
    """The number that stands for context vector `index` (from 0) in a prompt sequence."""
    return -index - 1


@dataclass(frozen=True)
class PromptLayout:
    """Where each token and context vector of G experts x C classes goes. Made once per list of class names.

    G experts, C classes, F longest front, R longest tail, T rows of all tails together (expert-major).
    """

    front_ids: Tensor  # [G, F] token ids; 0 where a context vector or nothing stands
    front_lengths: Tensor  # [G]
    tail_ids: Tensor  # [T]
    lengths: Tensor  # [G, C] tail lengths
    front_rows: Tensor  # [n] positions in the flattened [G*F] front that hold context vectors ...
    front_slots: Tensor  # [n] ... and which ones
    tail_rows: Tensor  # [m] the same for the tails
    tail_slots: Tensor  # [m]
    positions: Tensor  # [T] place of each tail row in its prompt
    cells: Tensor  # [T] place of each tail row in the padded [G*C*R] grid
    ends: Tensor  # [G*C] tail row of each prompt's end-of-text token
    mask: Tensor  # [G, R, F + R] bool: key visible to query

    @property
    def shape(self) -> tuple[int, int]:
        """(G, C)."""
        return tuple(self.lengths.shape)

    def repeat(self, copies: int, contexts: int) -> PromptLayout:
        """The same prompts `copies` times over, each copy with `contexts` context vectors of its own.

        CoCoOp's prompts: the copies are images, `shape` becomes (copies * G, C).
        """

        def shifted(index: Tensor, by: int) -> Tensor:
            return (index + by * torch.arange(copies, device=index.device)[:, None]).flatten()

        rows, cells = len(self.tail_ids), self.lengths.numel() * self.mask.shape[1]
        return PromptLayout(
            front_ids=self.front_ids.repeat(copies, 1),
            front_lengths=self.front_lengths.repeat(copies),
            tail_ids=self.tail_ids.repeat(copies),
            lengths=self.lengths.repeat(copies, 1),
            front_rows=shifted(self.front_rows, self.front_ids.numel()),
            front_slots=shifted(self.front_slots, contexts),
            tail_rows=shifted(self.tail_rows, rows),
            tail_slots=shifted(self.tail_slots, contexts),
            positions=self.positions.repeat(copies),
            cells=shifted(self.cells, cells),
            ends=shifted(self.ends, rows),
            mask=self.mask.repeat(copies, 1, 1),
        )

    def to(self, device: torch.device | str) -> PromptLayout:
        """The same layout on `device`."""
        return PromptLayout(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def shared_front(sequences: Sequence[Sequence_]) -> int:
    """How many leading entries all sequences have in common, leaving at least one entry to each."""
    limit = min(len(s) for s in sequences) - 1
    first = sequences[0]
    for i in range(limit):
        if any(s[i] != first[i] for s in sequences):
            return i
    return limit


def make_layout(sequences: Sequence[Sequence[Sequence_]]) -> PromptLayout:
    """Lay out prompts for `TextEncoder`.

    Args:
        sequences: G lists (experts) of C prompts (classes); each prompt runs from the start token to the end-of-text
        token,
            entries >= 0 are token ids, entries < 0 context vectors (see `context_slot`).

    Returns:
        The layout; fronts are found by comparison, whatever the prompt is made of.

    Raises:
        ValueError: no prompt, or experts with unequal numbers of classes.
    """
    counts = {len(expert) for expert in sequences}
    if not sequences or counts == {0} or len(counts) != 1:
        raise ValueError(
            f"expected G >= 1 experts with the same number of classes >= 1, found class counts {sorted(counts)}"
        )
    fronts = [shared_front(expert) for expert in sequences]
    tails = [s[front:] for expert, front in zip(sequences, fronts, strict=True) for s in expert]
    F_, R, C = max(fronts), max(map(len, tails)), len(sequences[0])
    front = torch.zeros(len(sequences), F_, dtype=torch.long)
    for g, (expert, n) in enumerate(zip(sequences, fronts, strict=True)):
        front[g, :n] = torch.tensor(expert[0][:n], dtype=torch.long)
    tail = torch.tensor([entry for t in tails for entry in t], dtype=torch.long)
    lengths = torch.tensor([len(t) for t in tails])
    ends = lengths.cumsum(0) - 1
    inner = torch.arange(len(tail)) - (ends - lengths + 1).repeat_interleave(lengths)  # place within the tail
    prompt = torch.arange(len(tails)).repeat_interleave(lengths)
    n_front = torch.tensor(fronts)
    return PromptLayout(
        front_ids=front.clamp(min=0),
        front_lengths=n_front,
        tail_ids=tail.clamp(min=0),
        lengths=lengths.view(len(sequences), C),
        front_rows=(front.flatten() < 0).nonzero().flatten(),
        front_slots=-front.flatten()[front.flatten() < 0] - 1,
        tail_rows=(tail < 0).nonzero().flatten(),
        tail_slots=-tail[tail < 0] - 1,
        positions=inner + n_front[prompt // C],
        cells=prompt * R + inner,
        ends=ends,
        mask=attention_mask(n_front, F_, R),
    )


def attention_mask(front_lengths: Tensor, front: int, tail: int) -> Tensor:
    """Which keys the tail rows of each expert see: its own front, and the tail up to themselves.

    Args:
        front_lengths: [G]; front: F; tail: R.

    Returns:
        bool [G, R, F + R].
    """
    seen = torch.arange(front)[None, None] < front_lengths[:, None, None]  # [G, 1, F]
    causal = torch.ones(tail, tail, dtype=torch.bool).tril()
    return torch.cat([seen.expand(-1, tail, -1), causal.expand(len(front_lengths), -1, -1)], dim=-1)


class _Spread(torch.autograd.Function):
    """Rows [T, W] into cells of a zero grid [cells, W]; both ways are plain copies, unlike indexing's backward."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, cells: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(cells)
        return rows.new_zeros(size, rows.shape[1]).index_copy_(0, cells, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad.index_select(0, ctx.saved_tensors[0]), None, None


class _Collect(torch.autograd.Function):
    """Cells of a grid [cells, W] as rows [T, W]: the reverse of `_Spread` (each cell is taken at most once)."""

    @staticmethod
    def forward(ctx: Any, grid: Tensor, cells: Tensor) -> Tensor:
        ctx.save_for_backward(cells)
        ctx.size = grid.shape[0]
        return grid.index_select(0, cells)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.new_zeros(ctx.size, grad.shape[1]).index_copy_(0, ctx.saved_tensors[0], grad), None


class TextEncoder(nn.Module):
    """CLIP's text tower applied to prompts made of tokens and context vectors.

    Args:
        tower: module with `token_embedding`, `positional_embedding`, `transformer.resblocks`, `ln_final`,
        `text_projection`,
            causal, its feature read at the end-of-text token (`clip.load_backbone` lets no other through). Shared,
            not copied.
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
            front [G, F, W] and tail [T, W].
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
        for block in self.blocks[:-1]:
            front, tail = self._block(block, front, tail, layout)
        x = self._last_block(self.blocks[-1], front, tail, layout)
        x = self.ln_final(x)
        if isinstance(self.text_projection, nn.Linear):
            x = self.text_projection(x)
        elif self.text_projection is not None:
            x = x @ self.text_projection
        return x.view(*layout.shape, -1)

    def _block(self, block: nn.Module, front: Tensor, tail: Tensor, layout: PromptLayout) -> tuple[Tensor, Tensor]:
        """One residual block on fronts [G, F, W] and tails [T, W]."""
        G, F_, W = front.shape
        x = torch.cat([front.flatten(0, 1), tail])  # one matrix product serves both
        q, k, v = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(3, dim=-1)
        n = G * F_
        fq, fk, fv = (t[:n].view(G, F_, self.heads, -1).transpose(1, 2) for t in (q, k, v))  # [G, H, F, W/H]
        mixed_front = F.scaled_dot_product_attention(fq, fk, fv, is_causal=True).transpose(1, 2).reshape(n, W)
        mixed_tail = self._tail_attention(q[n:], k[n:], v[n:], fk, fv, layout)
        x = x + block.ls_1(block.attn.out_proj(torch.cat([mixed_front, mixed_tail])))
        x = x + block.ls_2(block.mlp(block.ln_2(x)))
        return x[:n].view(G, F_, W), x[n:]

    def _tail_attention(self, q: Tensor, k: Tensor, v: Tensor, fk: Tensor, fv: Tensor, layout: PromptLayout) -> Tensor:
        """Attention of tail rows [T, W] to their expert's front [G, H, F, W/H] and their own prompt. Returns [T, W]."""
        G, C = layout.shape
        R = layout.mask.shape[1]
        grids = (_Spread.apply(t, layout.cells, G * C * R).view(G, C, R, self.heads, -1) for t in (q, k, v))
        q, k, v = (t.permute(0, 3, 1, 2, 4) for t in grids)  # [G, H, C, R, W/H]
        mixed = attend(q, k, v, fk, fv, layout.mask)  # [G, H, C, R, W/H]
        return _Collect.apply(mixed.permute(0, 2, 3, 1, 4).reshape(G * C * R, -1), layout.cells)

    def _last_block(self, block: nn.Module, front: Tensor, tail: Tensor, layout: PromptLayout) -> Tensor:
        """The last block, for end-of-text rows only. Returns [G*C, W]."""
        G, C = layout.shape
        W, R = self.width, layout.mask.shape[1]
        weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
        x = block.ln_1(torch.cat([front.flatten(0, 1), tail]))
        k, v = F.linear(x, weight[W:], bias[W:]).chunk(2, dim=-1)
        n = G * front.shape[1]
        q = F.linear(x[n:][layout.ends], weight[:W], bias[:W])
        fk, fv = (t[:n].view(G, -1, self.heads, W // self.heads).transpose(1, 2) for t in (k, v))
        k, v = (
            _Spread.apply(t[n:], layout.cells, G * C * R).view(G, C, R, self.heads, -1).permute(0, 3, 1, 2, 4)
            for t in (k, v)
        )
        q = q.view(G, C, 1, self.heads, -1).permute(0, 3, 1, 2, 4)
        mask = last_mask(layout)
        mixed = attend(q, k, v, fk, fv, mask).permute(0, 2, 3, 1, 4).reshape(G * C, W)
        x = tail[layout.ends] + block.ls_1(block.attn.out_proj(mixed))
        return x + block.ls_2(block.mlp(block.ln_2(x)))


def last_mask(layout: PromptLayout) -> Tensor:
    """Keys visible to each prompt's end-of-text row: bool [G, C, 1, F + R]."""
    G, C = layout.shape
    row = layout.lengths - 1  # [G, C]
    return layout.mask.gather(1, row[..., None].expand(-1, -1, layout.mask.shape[2])).view(G, C, 1, -1)


def attend(q: Tensor, k: Tensor, v: Tensor, fk: Tensor, fv: Tensor, mask: Tensor) -> Tensor:
    """Attention of C prompts per expert to one shared front and to their own rows, in one softmax.

    Args:
        q: [G, H, C, Q, d]; k, v: [G, H, C, R, d]; fk, fv: [G, H, F, d]; mask: bool [G, Q, F + R] or [G, C, Q, F + R].

    Returns:
        [G, H, C, Q, d].
    """
    G, H, C, Q, d = q.shape
    n = fk.shape[2]
    q = q * d**-0.5
    flat = q.reshape(G, H, C * Q, d)
    scores = torch.cat([(flat @ fk.transpose(-1, -2)).view(G, H, C, Q, n), q @ k.transpose(-1, -2)], dim=-1)
    mask = mask[:, None, None] if mask.dim() == 3 else mask[:, None]
    p = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)
    front = p[..., :n].reshape(G, H, C * Q, n) @ fv
    return front.view(G, H, C, Q, d) + p[..., n:] @ v


def encode_chunked(
    encoder: Callable[[PromptLayout, Tensor], Tensor], layouts: Sequence[PromptLayout], context: Tensor
) -> Tensor:
    """Text features with the memory of one chunk, exactly, for one more forward pass.

    The forward pass keeps no graph; each chunk is run again when its gradient comes.

    Args:
        encoder: `TextEncoder`; layouts: the prompts in slices of classes; context: [V, W].

    Returns:
        [G, C, D], C over all slices.
    """
    from torch.utils.checkpoint import checkpoint

    if len(layouts) == 1:
        return encoder(layouts[0], context)
    return torch.cat([checkpoint(encoder, part, context, use_reentrant=False) for part in layouts], dim=1)
