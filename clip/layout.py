"""The layout of prompts: which token or context vector lies in which row of the text tower. Whole numbers only.

Every prompt is cut in two. The front, with which all classes of an expert begin, is stored once per expert; the tails,
in which they differ, are packed into bins of P rows each. Two experts, "start a b NAME . end" and "start c NAME . end"
with context vectors a, b, c, and the names "sea or lake", "river" and "old house":

    fronts [G, F]           bins [N, P]
    expert 0: | start a b |     bin 0: | sea or lake . end | river . end |
                                bin 1: | old house . end | _ _ _ _       |
    expert 1: | start c _ |     bin 2: | sea or lake . end | river . end |
                                bin 3: | old house . end | _ _ _ _       |

A row of a bin sees its expert's front and, within the bin, its own prompt up to itself (`attention_mask`):

                          start a b    sea or lake . end   river . end
    "lake" of bin 0 sees    x   x x     x   x   x
    "."    of bin 0 sees    x   x x                          x   x
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from ..toolbox.dassl.errors import WrongValue

# A prompt is a sequence of whole numbers: n >= 0 is the token with that id, n < 0 is context vector number -n - 1.
Prompt = Sequence[int]
LONGEST_BIN = 96  # in longer bins, attention costs more than the better packing saves


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

    @property
    def context_rows(self) -> tuple[Tensor, Tensor]:
        """[n + m] rows, of all fronts and then of all bins, that hold context vectors, and which ones."""
        rows = torch.cat([self.front_rows, self.tail_rows + self.front_ids.numel()])
        return rows, torch.cat([self.front_slots, self.tail_slots])

    def sequences(self, length: int) -> tuple[Tensor, Tensor]:
        """The prompts one by one, as they were given to `make_layout`.

        Args:
            length: L, no less than the longest prompt.

        Returns:
            [G*C, L] entries, 0 behind a prompt, and [G*C] the place of each end-of-text token.
        """
        (G, n), place = self.front_ids.shape, torch.arange(length, device=self.ends.device)
        rows, slots = self.context_rows
        entries = torch.cat([self.front_ids.flatten(), self.tail_ids]).index_copy(0, rows, -slots - 1)
        fronts = self.front_lengths[:, None].expand(self.shape).reshape(-1, 1)  # [G*C, 1]
        ends = fronts + self.lengths.view(-1, 1) - 1
        owners = torch.arange(G, device=place.device).repeat_interleave(self.shape[1])[:, None]
        tails = G * n + self.ends[:, None] - ends  # where a prompt would begin if its bin held its front as well
        found = torch.where(place < fronts, owners * n, tails) + place
        return entries[found.where(place <= ends, 0)].where(place <= ends, 0), ends.flatten()

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

    Work is counted in rows of the linear layers; attention adds to it in proportion to a row's keys, and each bin its
    copy of the front.

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
        raise WrongValue(
            f"expected G >= 1 experts with the same number of classes >= 1, found class counts {sorted(counts)}"
        )
    fronts = [shared_front(expert) for expert in sequences]
    front = torch.zeros(len(sequences), max(fronts), dtype=torch.long)
    for g, (expert, n) in enumerate(zip(sequences, fronts, strict=True)):
        front[g, :n] = torch.tensor(expert[0][:n], dtype=torch.long)
    lengths = [[len(s) - n for s in expert] for expert, n in zip(sequences, fronts, strict=True)]
    size, bins = pack_experts(lengths, max(fronts))
    owner = torch.tensor([g for g, own_bins in enumerate(bins) for _ in own_bins])
    entries, positions, prompts, ends, end_cells = place_tails(sequences, fronts, bins, size)
    mask = attention_mask(torch.tensor(fronts)[owner], max(fronts), prompts)
    most = max(len(b) for own_bins in bins for b in own_bins)
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
    most = max(len(b) for own_bins in bins for b in own_bins)
    entries, positions, prompts = [0] * (count * size), [0] * (count * size), [-1] * (count * size)
    ends, end_cells = {}, {}
    number = 0
    for g, own_bins in enumerate(bins):
        for members in own_bins:
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
