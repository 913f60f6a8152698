"""Templates and class names become prompts token by token, not word by word."""

from collections import Counter
from pathlib import Path

import mocoop
import pytest
import torch
import yaml
from mocoop.clip.layout import make_layout
from mocoop.clip.text import TextEncoder
from mocoop.trainers.prompts import (
    bank_sequences,
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

ODD = ["kite (bird of prey)", '"quoted"', "rock, paper, scissors,", "St.", "Inc...", "747", "A300B4", "R&B", "AT&"]
ODD += ["C#", "yellow lady's slipper", "potters'", "[boxed]", "{braces}", "100%", "F/A-18", "'s", "  spaces  ", "-"]


def published_templates():
    """Every template of configs/datasets."""
    found = set()
    for file in (Path(mocoop.__file__).parent / "configs" / "datasets").glob("*.yaml"):
        options = yaml.safe_load(file.read_text()).get("TRAINER", {}).get("MOCOOP", {})
        found.update(template for group in options.get("PROMPT_GROUPS", []) for template in group)
    return sorted(found)


@pytest.fixture(scope="module")
def imagenet():
    from open_clip import IMAGENET_CLASSNAMES

    return list(IMAGENET_CLASSNAMES)


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


def bank(tokenizer, template, names):
    """The prompts of one expert, its context vectors numbered from 0."""
    return bank_sequences(tokenizer, [split_template(tokenizer, template)], names)[0]


def start(template, sequences):
    """Prompts with the words back in the place of the context vectors that they initialise."""
    words = template.before + template.after
    return [[i if i >= 0 else words[-i - 1] for i in sequence] for sequence in sequences]


def test_experts_of_odd_names_start_as_the_parts(tokenizer, tiny_clip):
    """The name and what stands around it tokenized one by one, encoded by open_clip's own layers."""
    text = "a photo of a {}, a type of pet."
    encoder, template = TextEncoder(tiny_clip), split_template(tokenizer, text)
    soft = encoder(make_layout([[*bank(tokenizer, text, ODD)]]), initial_context(encoder.token_embedding, [template]))
    rows = torch.zeros(len(ODD), 77, dtype=torch.long)
    for row, name in zip(rows, ODD, strict=True):
        ids = [tokenizer.encode(part) for part in ("a photo of a", name, ",", "a type of pet", ".")]
        ids = [tokenizer.sot, *sum(ids, []), tokenizer.eot]
        row[: len(ids)] = torch.tensor(ids)
    torch.testing.assert_close(soft[0], tiny_clip.encode_text(rows), atol=1e-5, rtol=1e-5)


def test_sequence_written_out(tokenizer):
    template = split_template(tokenizer, "a {} in a video game.")
    rows = bank_sequences(tokenizer, [split_template(tokenizer, "itap of a {}."), template], ["sea_or_lake"])
    name, period = tokenizer.encode("sea or lake"), tokenizer.encode(".")
    assert rows[0] == [[tokenizer.sot, -1, -2, -3, -4, *name, *period, tokenizer.eot]]
    assert rows[1] == [[tokenizer.sot, -5, *name, -6, -7, -8, -9, *period, tokenizer.eot]]


def test_a_name_in_brackets_written_out(tokenizer):
    kite = [tokenizer.encode(word)[0] for word in ("kite", "(", "bird", "of", "prey", ")")]
    period, merged = tokenizer.encode("."), tokenizer.encode(").")
    assert len(merged) == 1 and merged[0] not in (kite[-1], *period)  # what CLIP makes of the two
    ends = lambda *body: [tokenizer.sot, *body, *period, tokenizer.eot]  # noqa: E731
    names = ["kite (bird of prey)"]
    assert bank(tokenizer, "a photo of a {}.", names) == [ends(-1, -2, -3, -4, *kite)]
    assert bank(tokenizer, "{} texture.", names) == [ends(*kite, -1)]
    flower = "a photo of a {}, a type of flower."
    assert bank(tokenizer, flower, names) == [ends(-1, -2, -3, -4, *kite, -5, -6, -7, -8, -9)]


@pytest.mark.parametrize("text", published_templates())
def test_experts_with_all_names_of_imagenet(text, tokenizer, imagenet):
    """The tokens of the whole prompt, but for names that end in punctuation: theirs are those of the parts."""
    template = split_template(tokenizer, text)
    prompts = start(template, bank(tokenizer, text, imagenet))
    assert all((ids[0], ids[-1]) == (tokenizer.sot, tokenizer.eot) for ids in prompts)
    plain = [i for i, name in enumerate(imagenet) if name[-1].isalnum()]
    assert len(plain) == 994
    together = tokenizer.encode(" ".join(text.format(imagenet[i]) for i in plain))  # spaces keep tokens apart
    assert sum((prompts[i][1:-1] for i in plain), []) == together
    for i in set(range(1000)) - set(plain):
        left, right = text.split("{}")
        parts = [left, imagenet[i].removesuffix(")"), ")", right.removesuffix("."), right[-1]]
        assert prompts[i][1:-1] == sum((tokenizer.encode(part) for part in parts), [])


@pytest.mark.parametrize("text", published_templates())
def test_experts_with_odd_names(text, tokenizer):
    """Prompts spell the template and the name, and keep the name's own tokens."""
    template = split_template(tokenizer, text)
    spelled = lambda ids: tokenizer.decode(ids).replace(" ", "")  # noqa: E731
    for name, ids in zip(ODD, bank(tokenizer, text, ODD), strict=True):
        assert [i for i in ids if i >= 0] == [tokenizer.sot, *tokenizer.encode(name), *template.tail, tokenizer.eot]
        assert spelled(start(template, [ids])[0][1:-1]) == text.format(name).replace(" ", "").lower()


def test_every_name_is_tokenized_once(tokenizer, imagenet):
    seen = Counter()

    def counting(texts):
        seen.update(texts)
        return tokenizer(texts)

    experts = bank_sequences(counting, [split_template(tokenizer, text) for text in published_templates()], imagenet)
    assert len(experts) == len(published_templates()) and {len(prompts) for prompts in experts} == {1000}
    del seen[""]  # the question for the context's length
    assert seen == Counter(imagenet)


@pytest.mark.parametrize(("text", "name"), [("two {}s.", "cat"), ("a micro{}.", "chip"), ("two {}s.", "prey_(bird)_x")])
def test_a_template_glued_to_the_name_is_refused(tokenizer, text, name):
    with pytest.raises(ValueError) as error:
        bank(tokenizer, text, [name])
    assert str(error.value).startswith(f"the class name {name!r} and the template {text!r} share a word; put a space")


def test_a_template_glued_to_a_digit_or_a_bracket_is_not_refused(tokenizer):
    for name in ("A4", "bird (of prey)", "C#"):
        (prompt,) = bank(tokenizer, "two {}s.", [name])
        words = [tokenizer.encode(part) for part in (name, ".")]
        assert prompt == [tokenizer.sot, -1, *words[0], -2, *words[1], tokenizer.eot]


@pytest.mark.parametrize("name", ["", " ", "_"])
def test_an_empty_name_is_refused(tokenizer, name):
    with pytest.raises(ValueError, match=f"the class name {name!r} is empty"):
        bank(tokenizer, "a photo of a {}.", ["cat", name])


def test_a_name_longer_than_the_context_is_named(tokenizer):
    with pytest.raises(ValueError, match="very very .* 83 tokens .* holds 77"):
        bank(tokenizer, "a photo of a {}.", ["very " * 80 + "long"])
    assert len(bank(tokenizer, "a photo of a {}.", ["very " * 69 + "long"])[0]) == 77
    with pytest.raises(ValueError, match=r"very long' in the template 'a photo of a \{\}.' has 78 tokens, .* takes 77"):
        bank(tokenizer, "a photo of a {}.", ["very " * 70 + "long"])


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


def released_prompts(tokenizer, names, n_ctx, position):
    """CoOp's rule, word for word: "X X ... name." tokenized whole, the X replaced, cut by the name's own length."""
    left = {"end": n_ctx, "middle": n_ctx // 2, "front": 0}[position]
    slots = [-1 - i for i in range(n_ctx)]
    for name in (name.replace("_", " ") for name in names):
        whole = tokenizer.encode("X " * n_ctx + name + ".")[n_ctx:]
        own = len(tokenizer.encode(name)) if position != "end" else len(whole)
        yield [tokenizer.sot, *slots[:left], *whole[:own], *slots[left:], *whole[own:], tokenizer.eot]


@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_coops_prompts_are_the_released_ones(position, tokenizer, imagenet):
    """CoCoOp's and LASP's too: position end."""
    names = imagenet + ODD
    assert prompt_sequences(tokenizer, names, 4, position) == list(released_prompts(tokenizer, names, 4, position))


def test_coop_with_a_name_in_brackets_written_out(tokenizer):
    """CLIP merges bracket and period; the released code cuts behind the merged token."""
    kite = tokenizer.encode("kite (bird of prey")
    ids = [tokenizer.sot, *kite, *tokenizer.encode(")."), tokenizer.eot]
    assert len(ids) == 8
    prompts = {p: prompt_sequences(tokenizer, ["kite (bird of prey)"], 4, p)[0] for p in ("end", "middle", "front")}
    assert prompts["end"] == [ids[0], -1, -2, -3, -4, *ids[1:]]
    assert prompts["middle"] == [ids[0], -1, -2, *ids[1:-1], -3, -4, ids[-1]]
    assert prompts["front"] == [*ids[:-1], -1, -2, -3, -4, ids[-1]]


def test_the_end_token_stays_last_where_merging_saves_tokens(tokenizer):
    """ "x-.." has three tokens, "x-..." two: the released cut would fall behind the end token."""
    assert (len(tokenizer.encode("x-..")), len(tokenizer.encode("x-..."))) == (3, 2)
    ids = tokenizer.encode("x-...")
    assert prompt_sequences(tokenizer, ["x-.."], 2, "front") == [[tokenizer.sot, *ids, -1, -2, tokenizer.eot]]
