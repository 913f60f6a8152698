"""CLIP's tokens, with OpenAI's semantics, from open_clip's byte-pair encoder."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from ..toolbox.dassl.errors import ExpectedError

if TYPE_CHECKING:
    import torch

CONTEXT_LENGTH = 77
# How OpenAI and open_clip mark the start and the end of a text; in the middle of a text they would end it.
SPECIAL = ("<|startoftext|>", "<|endoftext|>", "<start_of_text>", "<end_of_text>")


class TextTooLong(ExpectedError, ValueError, RuntimeError):
    """A text has more tokens than the context holds (a RuntimeError too, because OpenAI's package raises that)."""


class SpecialToken(ExpectedError, ValueError):
    """A text holds one of CLIP's own marks of start and end."""


@lru_cache(maxsize=1)
def _encoder():  # noqa: ANN202 (open_clip is imported only when the first text is tokenized)
    from open_clip import tokenizer

    made = getattr(tokenizer, "_tokenizer", None)  # at its import, from the same file; another one takes 0.2 s
    return made if type(made) is tokenizer.SimpleTokenizer else tokenizer.SimpleTokenizer()


class Tokenizer:
    """Texts -> tokens for one context length.

    Unlike open_clip's own tokenizer it never cuts a text silently: one that does not fit is an error that names it.

    Args:
        context_length: number of tokens per text, including the start and the end token.
    """

    def __init__(self, context_length: int = CONTEXT_LENGTH):
        self.context_length = context_length

    @property
    def sot(self) -> int:
        """Id of the start-of-text token."""
        return _encoder().sot_token_id

    @property
    def eot(self) -> int:
        """Id of the end-of-text token, the highest id there is."""
        return _encoder().eot_token_id

    def encode(self, text: str) -> list[int]:
        """Ids of one text, without the start and end tokens, not cut and not padded.

        Raises:
            SpecialToken: (a ValueError) the text holds one of `SPECIAL`.
        """
        return encode(text)

    def decode(self, ids: list[int]) -> str:
        """The text of token ids."""
        return _encoder().decode(ids)

    def __call__(self, texts: str | list[str], truncate: bool = False) -> torch.Tensor:
        """Tokens of `texts`, see `tokenize`."""
        return tokenize(texts, self.context_length, truncate)


def encode(text: str) -> list[int]:
    """Ids of one text; see `Tokenizer.encode`."""
    ids = _encoder().encode(text)
    marks = {_encoder().sot_token_id, _encoder().eot_token_id}
    if not marks.isdisjoint(ids) or any(token in text.lower() for token in SPECIAL):  # the first: "&lt;end_of_text&gt;"
        raise SpecialToken(f"the text {text!r:.200} holds CLIP's own mark of start or end; change the name or template")
    return ids


def tokenize(texts: str | list[str], context_length: int = CONTEXT_LENGTH, truncate: bool = False) -> torch.Tensor:
    """Tokenize texts as OpenAI's `clip.tokenize` does.

    Args:
        texts: one text or a list of N texts.
        context_length: number of tokens L per text.
        truncate: cut a text that is too long, keeping the end-of-text token in the last place.

    Returns:
        int64 tensor [N, L]: start token, the text's tokens, end token, zeros.

    Raises:
        SpecialToken: a text holds one of `SPECIAL`.
        TextTooLong: a text does not fit and `truncate` is False; the text and both lengths are named.
    """
    import torch

    texts = [texts] if isinstance(texts, str) else list(texts)
    encoder = _encoder()
    tokens = torch.zeros(len(texts), context_length, dtype=torch.long)
    for row, text in enumerate(texts):
        ids = [encoder.sot_token_id, *encode(text), encoder.eot_token_id]
        if len(ids) > context_length:
            if not truncate:
                raise TextTooLong(
                    f"the text {text!r} has {len(ids)} tokens with its start and end token, the context holds "
                    f"{context_length}: shorten it (a class name or a template?)"
                )
            ids = [*ids[: context_length - 1], encoder.eot_token_id]
        tokens[row, : len(ids)] = torch.tensor(ids)
    return tokens
