"""Templates and class names become prompts token by token, not word by word."""

import pytest
import torch
from mocoop.clip.layout import make_layout
from mocoop.clip.text import TextEncoder
from mocoop.trainers.prompts import (
    bank_sequences,
    expert_sequences,
    group_prototypes,
    initial_context,
    prompt_sequences,
    sliced_layouts,
    slices_within,
    split_template,
    template_features,
)

# One token; two; many; underscores; unicode that the tokenizer folds; digits.
NAMES = ["cat", "sea_or_lake", "herbaceous vegetation land", "café", "2000 AM General Hummer SUV"]

# template -> words before and after the name that are learned (tokens), and whether a period stays behind.
TEMPLATES = {
    "{} texture.": ([], ["texture"], True),
    "a {} in a video game.": (["a"], ["in", "a", "video", "game"], True),
    "a close-up photo of the {}.": (["a", "close", "-", "up", "photo", "of", "the"], [], True),
    "a photo of a  {}.": (["a", "photo", "of", "a"], [], True),  # two spaces (food101): still four tokens
    "a photo of a {}, a type of pet.": (["a", "photo", "of", "a"], [",", "a", "type", "of", "pet"], True),
    "itap of a {}": (["it", "ap", "of", "a"], [], False),
}


@pytest.mark.parametrize("text", TEMPLATES)
def test_split_counts_tokens(tokenizer, text):
    before, after, period = TEMPLATES[text]
    template = split_template(tokenizer, text)
    assert [tokenizer.decode([i]).strip() for i in template.before] == before
    assert [tokenizer.decode([i]).strip() for i in template.after] == after
    assert [tokenizer.decode([i]).strip() for i in template.tail] == (["."] if period else [])
    assert template.size == len(before) + len(after)


@pytest.mark.parametrize("text", TEMPLATES)
def test_experts_start_as_their_template(tokenizer, tiny_clip, text):
    """Before training, an expert's feature of every class is the hard prompt's: nothing is overwritten or shifted."""
    encoder = TextEncoder(tiny_clip)
    template = split_template(tokenizer, text)
    context = initial_context(encoder.token_embedding, [template])
    soft = encoder(make_layout(bank_sequences(tokenizer, [template], NAMES)), context)[0]
    hard = tiny_clip.encode_text(tokenizer([text.format(n.replace("_", " ")) for n in NAMES]))
    torch.testing.assert_close(soft, hard, atol=1e-5, rtol=1e-5)


def test_sequence_written_out(tokenizer):
    template = split_template(tokenizer, "a {} in a video game.")
    (row,) = expert_sequences(tokenizer, template, ["sea_or_lake"], first=10)
    name, period = tokenizer.encode("sea or lake"), tokenizer.encode(".")
    assert row == [tokenizer.sot, -11, *name, -12, -13, -14, -15, *period, tokenizer.eot]


def test_a_template_glued_to_the_name_is_refused(tokenizer):
    with pytest.raises(ValueError, match=r"'cat' and the template 'two \{\}s.' share a token"):
        expert_sequences(tokenizer, split_template(tokenizer, "two {}s."), ["cat"], first=0)


def test_a_name_longer_than_the_context_is_named(tokenizer):
    name = "very " * 80 + "long"
    with pytest.raises(ValueError, match="very very .* 91 tokens .* holds 77|very very .*77"):
        expert_sequences(tokenizer, split_template(tokenizer, "a photo of a {}."), [name], first=0)


def test_prototypes_equal_a_loop(tokenizer, tiny_clip):
    encoder, groups = (
        TextEncoder(tiny_clip),
        [["a photo of a {}."], ["{} texture.", "art of the {}.", "a {} in a video game."]],
    )
    flat = [t for g in groups for t in g]
    features = template_features(encoder, tokenizer, flat, NAMES, chunk=4)  # several slices of classes
    got = group_prototypes(features, [1, 3])
    for g, group in enumerate(groups):
        for c, name in enumerate(NAMES):
            total = torch.zeros(24)
            for template in group:
                x = tiny_clip.encode_text(tokenizer([template.format(name.replace("_", " "))]))[0]
                total += x / x.norm()
            mean = total / len(group)
            torch.testing.assert_close(got[g, c], mean / mean.norm(), atol=1e-5, rtol=1e-5)


def test_slices_follow_the_chunk_or_the_memory(tokenizer):
    sequences = [prompt_sequences(tokenizer, NAMES, 2), prompt_sequences(tokenizer, NAMES, 2, first=2)]
    rows = sliced_layouts(sequences, None, 1e9)[0].rows
    sizes = lambda chunk, fit: [part.shape[1] for part in sliced_layouts(sequences, chunk, fit)]  # noqa: E731
    assert sizes(None, rows) == [5]
    assert sizes(None, rows * 0.6) == [3, 2]  # the last two names are long
    assert all(part.rows <= rows * 0.6 for part in sliced_layouts(sequences, None, rows * 0.6))
    assert sizes(None, 1) == [1] * 5  # at least one class at a time
    assert sizes(4, 1) == [2, 2, 1]  # 4 prompts = 2 classes of 2 experts; the setting beats the estimate
    assert sizes(100, 1) == [5]


def test_slices_are_no_larger_than_pays(monkeypatch):
    sequences = [[[49406, 320 + c, 49407] for c in range(50)]]  # two rows a class behind the shared start token
    monkeypatch.setattr("mocoop.trainers.prompts.SLICE_ROWS", 24)
    (whole,) = sliced_layouts(sequences, None, 1 + 2 * 50)
    assert whole.shape == (1, 50)  # it fits: one slice, however large
    parts = sliced_layouts(sequences, None, 2 * 50)
    assert [part.shape[1] for part in parts] == [10] * 5
    assert all(part.rows <= 24 for part in parts)


def test_slices_are_cut_where_the_limit_is_reached():
    assert slices_within([3, 3, 3, 3], 6, slack=1) == [0, 2]
    assert slices_within([1, 1, 9, 1, 1, 1], 3, slack=1) == [0, 2, 3]
    assert slices_within([3, 3], 6, slack=1.1) == [0, 1]
    assert slices_within([5], 1) == [0]


def test_coop_positions_written_out(tokenizer):
    cat, period = tokenizer.encode("cat"), tokenizer.encode(".")
    ends = lambda *body: [tokenizer.sot, *body, *period, tokenizer.eot]  # noqa: E731
    assert prompt_sequences(tokenizer, ["cat"], 4, "end", False) == [ends(-1, -2, -3, -4, *cat)]
    assert prompt_sequences(tokenizer, ["cat"], 4, "middle", False) == [ends(-1, -2, *cat, -3, -4)]
    assert prompt_sequences(tokenizer, ["cat"], 4, "front", False) == [ends(*cat, -1, -2, -3, -4)]
    assert prompt_sequences(tokenizer, ["cat", "cat"], 2, "end", True) == [ends(-1, -2, *cat), ends(-3, -4, *cat)]
