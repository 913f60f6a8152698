import pytest
import torch
from mocoop import clip
from mocoop.clip.tokenizer import TextTooLong, Tokenizer, tokenize

TEXTS = [
    "a photo of a cat.",
    "A Photo  of a\tCAT.",
    "",
    "itap of a café & naïve 2000 AM General Hummer SUV's",
    "日本語 🚗 &amp;",
    "a close-up photo of the high-performance.",
]


def test_tokens_of_a_known_sentence():
    """The ids published with OpenAI's package: "a diagram" is 320 22697 between start 49406 and end 49407."""
    tokens = clip.tokenize("a diagram")
    assert tokens.shape == (1, 77) and tokens.dtype == torch.long
    assert tokens[0, :5].tolist() == [49406, 320, 22697, 49407, 0] and tokens[0, 5:].sum() == 0


def test_tokens_equal_open_clips():
    import open_clip

    theirs = open_clip.get_tokenizer("ViT-B-16")
    assert torch.equal(tokenize(TEXTS), theirs(TEXTS))
    assert torch.equal(Tokenizer(77)(TEXTS), theirs(TEXTS))
    assert torch.equal(Tokenizer(32)(TEXTS), theirs(TEXTS, context_length=32))
    long = ["a " * 100, "b"]
    assert torch.equal(tokenize(long, truncate=True), theirs(long))


def test_longest_text_fits_and_one_more_token_is_an_error_naming_it():
    assert tokenize("a " * 75)[0, -1] == 49407
    with pytest.raises(TextTooLong, match=r"the text 'a a .*' has 78 tokens .* the context holds 77"):
        tokenize(["fine", "a " * 76])
    for kind in (ValueError, RuntimeError):
        with pytest.raises(kind):
            Tokenizer(4)("a photo of")
    assert Tokenizer(5)("a photo of").tolist() == [[49406, 320, 1125, 539, 49407]]


def test_encode_and_decode():
    tokenizer = Tokenizer()
    assert (tokenizer.sot, tokenizer.eot) == (49406, 49407)
    assert tokenizer.encode("a diagram") == [320, 22697]
    assert tokenizer.decode([320, 22697]) == "a diagram "
    assert tokenize([]).shape == (0, 77)
