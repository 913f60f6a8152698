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
from open_clip.transformer import QuickGELU
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

    @property
    def rows(self) -> int:
        """Rows of all fronts (padded) and tails: what the linear layers see."""
        return self.front_ids.numel() + len(self.tail_ids)

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
    """Rows [n, d] into cells of a zero grid [size, d]; both ways are plain copies, unlike indexing's backward."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, cells: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(cells)
        return rows.new_zeros(size, rows.shape[1]).index_copy_(0, cells, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad.index_select(0, ctx.saved_tensors[0]), None, None


class _Collect(torch.autograd.Function):
    """Cells of a grid [size, d] as rows [n, d]: the reverse of `_Spread` (each cell is taken at most once)."""

    @staticmethod
    def forward(ctx: Any, grid: Tensor, cells: Tensor) -> Tensor:
        ctx.save_for_backward(cells)
        ctx.size = grid.shape[0]
        return grid.index_select(0, cells)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.new_zeros(ctx.size, grad.shape[1]).index_copy_(0, ctx.saved_tensors[0], grad), None


@dataclass(frozen=True)
class _Grid:
    """A layout seen by attention: tail rows, cut into heads, in a zero-padded grid [G, H, C, R, d].

    Head-major, so that both products of attention (with an expert's front, with the prompt's own tail) are batched
    matrix products without a copy.
    """

    shape: tuple[int, int, int, int]  # G, H, C, R
    front: int  # F
    cells: Tensor  # [T, H] place of each row's heads
    bias: Tensor  # [G, 1, 1, R, F + R]: 0 where a key is visible, else -inf
    end_bias: Tensor  # [G, 1, C, 1, F + R]: the same for the end-of-text rows

    @staticmethod
    def of(layout: PromptLayout, heads: int) -> _Grid:
        (G, C), (_, R, keys) = layout.shape, layout.mask.shape
        prompt, row = layout.cells // R, layout.cells % R
        head = torch.arange(heads, device=row.device)
        cells = ((prompt // C)[:, None] * heads + head) * C + (prompt % C)[:, None]
        bias = torch.zeros(layout.mask.shape, device=row.device).masked_fill(~layout.mask, float("-inf"))
        end = bias.gather(1, (layout.lengths - 1)[..., None].expand(G, C, keys))
        return _Grid(
            shape=(G, heads, C, R),
            front=keys - R,
            cells=cells * R + row[:, None],
            bias=bias[:, None, None],
            end_bias=end[:, None, :, None],
        )

    def spread(self, rows: Tensor, parts: int) -> tuple[Tensor, ...]:
        """[T, parts * W] -> `parts` grids [G, H, C, R, d], in one copy."""
        G, H, C, R = self.shape
        size = G * H * C * R
        offsets = size * torch.arange(parts, device=rows.device)
        cells = (self.cells[:, None] + offsets[:, None]).flatten()
        grid = _Spread.apply(rows.reshape(cells.shape[0], -1), cells, parts * size)
        return grid.view(parts, G, H, C, R, -1).unbind(0)

    def collect(self, grid: Tensor) -> Tensor:
        """[G, H, C, R, d] -> [T, W]."""
        rows = _Collect.apply(grid.reshape(-1, grid.shape[-1]), self.cells.flatten())
        return rows.view(self.cells.shape[0], -1)


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
    def bytes_per_row(self) -> int:
        """Memory that one row (one token of one prompt) holds until the backward pass, in float32.

        Per block: the inputs of both LayerNorms (2 W), q, k, v and scaled q (4 W), the MLP's hidden layer (4 W), and
        attention weights and padding, rounded up to 2 W. Frozen linear layers keep nothing.
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
        x = torch.cat([front.flatten(0, 1), tail])  # [G*F + T, W]: one matrix product serves fronts and tails
        grid = _Grid.of(layout, self.heads)
        for block in self.blocks[:-1]:
            x = self._block(block, x, grid)
        x = self.ln_final(self._last_block(self.blocks[-1], x, grid, layout.ends))
        if isinstance(self.text_projection, nn.Linear):
            x = self.text_projection(x)
        elif self.text_projection is not None:
            x = x @ self.text_projection
        return x.view(*layout.shape, -1)

    def _block(self, block: nn.Module, x: Tensor, grid: _Grid) -> Tensor:
        """One residual block: rows of all fronts, then of all tails, [G*F + T, W] -> the same."""
        G, H = grid.shape[:2]
        n = G * grid.front
        qkv = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias)
        front = qkv[:n].view(G, grid.front, 3, H, -1).permute(2, 0, 3, 1, 4)  # [3, G, H, F, d]
        mixed_front = F.scaled_dot_product_attention(*front, is_causal=True).transpose(1, 2).reshape(n, -1)
        mixed_tail = grid.collect(attend(*grid.spread(qkv[n:], 3), front[1], front[2], grid.bias))
        x = x + block.ls_1(block.attn.out_proj(torch.cat([mixed_front, mixed_tail])))
        return x + block.ls_2(mlp(block, block.ln_2(x)))

    def _last_block(self, block: nn.Module, x: Tensor, grid: _Grid, ends: Tensor) -> Tensor:
        """The last block for end-of-text rows only: [G*F + T, W] -> [G*C, W]."""
        G, H, C, _ = grid.shape
        n, W = G * grid.front, self.width
        weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
        normed, ends = block.ln_1(x), ends + n
        kv = F.linear(normed, weight[W:], bias[W:])
        q = F.linear(normed[ends], weight[:W], bias[:W]).view(G, C, H, 1, -1).transpose(1, 2)  # [G, H, C, 1, d]
        front = kv[:n].view(G, grid.front, 2, H, -1).permute(2, 0, 3, 1, 4)  # [2, G, H, F, d]
        mixed = attend(q, *grid.spread(kv[n:], 2), *front, grid.end_bias).transpose(1, 2).reshape(G * C, W)
        x = x[ends] + block.ls_1(block.attn.out_proj(mixed))
        return x + block.ls_2(mlp(block, block.ln_2(x)))


def mlp(block: nn.Module, x: Tensor) -> Tensor:
    """A block's MLP [n, W] -> [n, W]; QuickGELU through torch's fused SiLU.

    x sigmoid(1.702 x) = silu(1.702 x) / 1.702, with half of the memory for the backward pass that the formula takes.
    """
    if not isinstance(block.mlp.gelu, QuickGELU):
        return block.mlp(x)
    up, down = block.mlp.c_fc, block.mlp.c_proj
    hidden = F.silu(torch.addmm(1.702 * up.bias, x, up.weight.T, alpha=1.702))
    return torch.addmm(down.bias, hidden, down.weight.T, alpha=1 / 1.702)


def attend(q: Tensor, k: Tensor, v: Tensor, fk: Tensor, fv: Tensor, bias: Tensor) -> Tensor:
    """Attention of C prompts per expert to one shared front and to their own rows, in one softmax.

    Args:
        q: [G, H, C, Q, d]; k, v: [G, H, C, R, d]; fk, fv: [G, H, F, d]; bias: added to the scores
            [G, H, C, Q, F + R].

    Returns:
        [G, H, C, Q, d].
    """
    G, H, C, Q, d = q.shape
    n = fk.shape[2]
    q = q * d**-0.5
    to_front = q.reshape(G, H, C * Q, d) @ fk.transpose(-1, -2)
    scores = torch.cat([to_front.view(G, H, C, Q, n), q @ k.transpose(-1, -2)], dim=-1)
    p = scores.add_(bias).softmax(dim=-1)
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
