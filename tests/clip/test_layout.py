"""Where prompts lie: fronts, bins, and which rows see which."""

import pytest
import torch
from mocoop.clip.layout import attention_mask, context_slot, make_layout, pack, pack_experts, shared_front


def test_shared_front_leaves_one_entry_to_each_prompt():
    assert shared_front([[1, 2, 3, 9], [1, 2, 4, 9]]) == 2
    assert shared_front([[1, 2, 9], [1, 2, 9]]) == 2  # equal prompts: the last entry stays
    assert shared_front([[1, 9], [1, 2, 9]]) == 1
    assert shared_front([[5, 9], [6, 9]]) == 0


def test_layout_of_a_small_case_written_out():
    a, b = context_slot(0), context_slot(1)
    layout = make_layout([[[7, a, 3, 9], [7, a, 4, 5, 9]], [[7, 3, b, 9], [7, 4, 5, b, 9]]])
    assert layout.front_lengths.tolist() == [2, 1]
    assert layout.front_ids.tolist() == [[7, 0], [7, 0]]
    assert layout.lengths.tolist() == [[2, 3], [3, 4]]
    # one bin of seven rows each, the longest tail first; the first expert leaves two rows empty
    assert layout.tail_ids.tolist() == [4, 5, 9, 3, 9, 0, 0, 4, 5, 0, 9, 3, 0, 9]
    assert layout.positions.tolist() == [2, 3, 4, 2, 3, 0, 0, 1, 2, 3, 4, 1, 2, 3]
    assert (layout.front_rows.tolist(), layout.front_slots.tolist()) == ([1], [0])
    assert (layout.tail_rows.tolist(), layout.tail_slots.tolist()) == ([9, 12], [1, 1])
    assert layout.owners.tolist() == [[1, 0], [0, 1]]
    assert layout.ends.tolist() == [4, 2, 13, 10]
    assert layout.end_cells.tolist() == [1, 0, 3, 2]
    assert layout.mask.shape == (2, 7, 9) and layout.end_mask.shape == (2, 2, 9)
    visible = layout.mask.eq(0).int()
    assert visible[0, 4].tolist() == [1, 1, 0, 0, 0, 1, 1, 0, 0]  # the front and its own two rows, not its neighbour
    assert visible[1, 4].tolist() == [1, 0, 0, 0, 0, 0, 1, 0, 0]  # the other tail, with a front of one
    assert torch.equal(layout.end_mask[1], layout.mask[1, [3, 6]])
    assert layout.rows == 4 + 14


def test_prompts_come_back_as_they_were_given():
    a, b, c = (context_slot(i) for i in range(3))
    experts = [[[7, a, 3, 9], [7, a, 4, b, 5, 9]], [[8, 3, c, 9], [7, c, 9]]]  # fronts of two and of none
    layout = make_layout(experts)
    entries, ends = layout.sequences(7)
    given = [prompt for prompts in experts for prompt in prompts]
    assert entries.tolist() == [prompt + [0] * (7 - len(prompt)) for prompt in given]
    assert ends.tolist() == [3, 5, 3, 2]
    rows, slots = layout.context_rows
    assert (rows.tolist(), slots.tolist()) == ([1, *(4 + layout.tail_rows).tolist()], [0, *layout.tail_slots.tolist()])
    entries, ends = layout.repeat(2, contexts=3).sequences(6)
    second = [[e - 3 if e < 0 else e for e in prompt] + [0] * (6 - len(prompt)) for prompt in given]
    assert entries[4:].tolist() == second and ends.tolist() == 2 * [3, 5, 3, 2]


def test_mask_shows_the_own_front_and_the_own_past():
    prompts = torch.tensor([[0, 0, 1], [0, 1, -1]])
    mask = attention_mask(torch.tensor([2, 1]), front=2, prompts=prompts)
    assert mask.eq(0).int().tolist() == [
        [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 1]],
        [[1, 0, 1, 0, 0], [1, 0, 0, 1, 0], [1, 0, 0, 0, 1]],  # an empty row sees something, or it would not be a number
    ]
    assert mask[mask.ne(0)].unique().tolist() == [float("-inf")]


def test_tails_are_packed_longest_first():
    assert pack([2, 3, 3, 2], 5) == [[1, 3], [2, 0]]
    assert pack([5, 1, 4], 5) == [[0], [2, 1]]
    assert pack([2], 7) == [[0]]


def test_bins_hold_every_tail_once_and_are_nearly_full():
    generator = torch.Generator().manual_seed(0)
    lengths = [torch.randint(3, 12, (60,), generator=generator).tolist() for _ in range(3)]
    size, bins = pack_experts(lengths, front=5)
    for mine, tails in zip(bins, lengths, strict=True):
        assert sorted(i for members in mine for i in members) == list(range(60))
        assert all(sum(tails[i] for i in members) <= size for members in mine)
    rows = size * sum(map(len, bins))
    assert rows < 1.05 * sum(map(sum, lengths))
    assert pack_experts([[4, 4]], front=3) == (8, [[[0, 1]]])


def test_unequal_class_counts_are_refused():
    with pytest.raises(ValueError, match=r"class counts \[1, 2\]"):
        make_layout([[[1, 2]], [[1, 2], [1, 3]]])
