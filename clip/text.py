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

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU
from torch import Tensor, nn

# A prompt is a sequence of whole numbers: n >= 0 is the token with that id, n < 0 is context vector number -n - 1.
Prompt = Sequence[int]
LONGEST_BIN = 96  # beyond this, attention inside a bin costs more than a better filling saves


def context_slot(index: int) -> int:
    """The number that stands for context vector `index` (from 0) in a prompt sequence."""
    return -index - 1


@dataclass(frozen=True)
class PromptLayout:
    """Where each token and context vector of G experts x C classes goes. Made once per list of class names.

    G experts, C classes, F longest front, N bins of P rows that hold the tails, Q most tails in one bin.
    """

    front_ids: Tensor  # [G, F] token ids; 0 where a context vector or nothing stands
    front_lengths: Tensor  # [G]
    tail_ids: Tensor  # [N*P] the same for the bins
    lengths: Tensor  # [G, C] tail lengths
    front_rows: Tensor  # [n] positions in the flattened [G*F] front that hold context vectors ...
    front_slots: Tensor  # [n] ... and which ones
    tail_rows: Tensor  # [m] the same for the bins
    tail_slots: Tensor  # [m]
    positions: Tensor  # [N*P] place of each bin's row in its prompt
    owners: Tensor  # [N, G] 1 where a bin belongs to an expert, else 0
    ends: Tensor  # [G*C] row among all bins of each prompt's end-of-text token ...
    end_cells: Tensor  # [G*C] ... and its place among the [N*Q] tails, counted bin by bin
    mask: Tensor  # [N, P, F + P] added to attention scores: 0 where a key is visible to a row, else -inf
    end_mask: Tensor  # [N, Q, F + P] the same for the end-of-text rows

    @property
    def shape(self) -> tuple[int, int]:
        """(G, C)."""
        return tuple(self.lengths.shape)

    @property
    def rows(self) -> int:
        """Rows of all fronts and bins, empty places included: what the linear layers see."""
        return self.front_ids.numel() + len(self.tail_ids)

    def repeat(self, copies: int, contexts: int) -> PromptLayout:
        """The same prompts `copies` times over, each copy with `contexts` context vectors of its own.

        CoCoOp's prompts: the copies are images, `shape` becomes (copies * G, C).
        """

        def shifted(index: Tensor, by: int) -> Tensor:
            return (index + by * torch.arange(copies, device=index.device)[:, None]).flatten()

        return PromptLayout(
            front_ids=self.front_ids.repeat(copies, 1),
            front_lengths=self.front_lengths.repeat(copies),
            tail_ids=self.tail_ids.repeat(copies),
            lengths=self.lengths.repeat(copies, 1),
            front_rows=shifted(self.front_rows, self.front_ids.numel()),
            front_slots=shifted(self.front_slots, contexts),
            tail_rows=shifted(self.tail_rows, len(self.tail_ids)),
            tail_slots=shifted(self.tail_slots, contexts),
            positions=self.positions.repeat(copies),
            owners=torch.block_diag(*[self.owners] * copies),
            ends=shifted(self.ends, len(self.tail_ids)),
            end_cells=shifted(self.end_cells, self.end_mask.shape[0] * self.end_mask.shape[1]),
            mask=self.mask.repeat(copies, 1, 1),
            end_mask=self.end_mask.repeat(copies, 1, 1),
        )

    def to(self, device: torch.device | str) -> PromptLayout:
        """The same layout on `device`."""
        return PromptLayout(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def shared_front(sequences: Sequence[Prompt]) -> int:
    """How many leading entries all sequences have in common, leaving at least one entry to each."""
    limit = min(len(s) for s in sequences) - 1
    first = sequences[0]
    for i in range(limit):
        if any(s[i] != first[i] for s in sequences):
            return i
    return limit


def pack(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Which tails go into which bin of `size` rows: the longest first, each where it leaves the least room.

    Args:
        lengths: of the tails, none above `size`.

    Returns:
        Bins, each a list of positions in `lengths`.
    """
    bins: list[list[int]] = []
    with_room: dict[int, list[int]] = defaultdict(list)  # rows left -> bins
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        room = next((r for r in range(lengths[i], size + 1) if with_room[r]), None)
        if room is None:
            bins.append([])
            chosen, room = len(bins) - 1, size
        else:
            chosen = with_room[room].pop()
        bins[chosen].append(i)
        with_room[room - lengths[i]].append(chosen)
    return bins


def pack_experts(lengths: Sequence[Sequence[int]], front: int) -> tuple[int, list[list[list[int]]]]:
    """Bins for the tails of each expert, of the size P that promises the least work.

    Work is counted in rows of the linear layers; attention adds to a row as it has keys, a bin its copy of the front.

    Args:
        lengths: [G][C] of the tails; front: F.

    Returns:
        P, and for each expert its bins (see `pack`).
    """

    def work(bins: int, size: int) -> float:
        return bins * (size * (1 + (front + size) / 800) + front / 8)

    def at_least(size: int) -> int:
        return sum(max(-(-sum(n) // size), sum(2 * length > size for length in n)) for n in lengths)

    longest = max(max(n) for n in lengths)
    sizes = range(longest, max(longest, min(LONGEST_BIN, max(sum(n) for n in lengths))) + 1)
    promising = sorted(sizes, key=lambda size: work(at_least(size), size))[:4]
    packed = [(size, [pack(n, size) for n in lengths]) for size in promising]
    return min(packed, key=lambda found: work(sum(map(len, found[1])), found[0]))


def make_layout(sequences: Sequence[Sequence[Prompt]]) -> PromptLayout:
    """Lay out prompts for `TextEncoder`.

    Args:
        sequences: G lists (experts) of C prompts (classes); each prompt runs from the start token to the end-of-text
            token, entries >= 0 are token ids, entries < 0 context vectors (see `context_slot`).

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
    front = torch.zeros(len(sequences), max(fronts), dtype=torch.long)
    for g, (expert, n) in enumerate(zip(sequences, fronts, strict=True)):
        front[g, :n] = torch.tensor(expert[0][:n], dtype=torch.long)
    lengths = [[len(s) - n for s in expert] for expert, n in zip(sequences, fronts, strict=True)]
    size, bins = pack_experts(lengths, max(fronts))
    owner = torch.tensor([g for g, mine in enumerate(bins) for _ in mine])
    entries, positions, prompts, ends, end_cells = place_tails(sequences, fronts, bins, size)
    mask = attention_mask(torch.tensor(fronts)[owner], max(fronts), prompts)
    most = max(len(b) for mine in bins for b in mine)
    end_mask = torch.zeros(len(owner) * most, mask.shape[-1])
    end_mask[end_cells] = mask.flatten(0, 1)[ends]
    return PromptLayout(
        front_ids=front.clamp(min=0),
        front_lengths=torch.tensor(fronts),
        tail_ids=entries.clamp(min=0),
        lengths=torch.tensor(lengths),
        front_rows=(front.flatten() < 0).nonzero().flatten(),
        front_slots=-front.flatten()[front.flatten() < 0] - 1,
        tail_rows=(entries < 0).nonzero().flatten(),
        tail_slots=-entries[entries < 0] - 1,
        positions=positions,
        owners=F.one_hot(owner, len(sequences)).float(),
        ends=ends,
        end_cells=end_cells,
        mask=mask,
        end_mask=end_mask.view(len(owner), most, -1),
    )


def place_tails(
    sequences: Sequence[Sequence[Prompt]], fronts: Sequence[int], bins: Sequence[Sequence[Sequence[int]]], size: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Write the tails into their bins.

    Args:
        sequences: G x C prompts; fronts: [G] entries that are not part of the tails.
        bins: for each expert its bins (see `pack`), N in all; size: P.

    Returns:
        entries [N*P] (0 in empty places), their positions in their prompts [N*P], the prompt that each row belongs
        to, numbered within its bin [N, P] (-1: none), and `ends` and `end_cells` of the layout [G*C].
    """
    count = sum(map(len, bins))
    most = max(len(b) for mine in bins for b in mine)
    entries, positions, prompts = [0] * (count * size), [0] * (count * size), [-1] * (count * size)
    ends, end_cells = {}, {}
    number = 0
    for g, mine in enumerate(bins):
        for members in mine:
            row = number * size
            for place, c in enumerate(members):
                tail = sequences[g][c][fronts[g] :]
                rows = slice(row, row + len(tail))
                entries[rows], prompts[rows] = tail, [place] * len(tail)
                positions[rows] = range(fronts[g], fronts[g] + len(tail))
                row += len(tail)
                ends[g, c], end_cells[g, c] = row - 1, number * most + place
            number += 1
    order = sorted(ends)
    return (
        torch.tensor(entries),
        torch.tensor(positions),
        torch.tensor(prompts).view(count, size),
        torch.tensor([ends[key] for key in order]),
        torch.tensor([end_cells[key] for key in order]),
    )


def attention_mask(front_lengths: Tensor, front: int, prompts: Tensor) -> Tensor:
    """Which keys the rows of each bin see: the bin's front, and their own prompt up to themselves.

    Args:
        front_lengths: [N] of each bin's expert; front: F.
        prompts: [N, P] the prompt that each row belongs to.

    Returns:
        [N, P, F + P], 0 where visible, else -inf.
    """
    N, P = prompts.shape
    mask = torch.full((N, P, front + P), float("-inf"))
    seen = torch.arange(front) < front_lengths[:, None]  # [N, F]
    mask[..., :front].masked_fill_(seen[:, None], 0)
    own = (prompts[:, :, None] == prompts[:, None]) & torch.ones(P, P, dtype=torch.bool).tril()
    mask[..., front:].masked_fill_(own, 0)
    return mask


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
