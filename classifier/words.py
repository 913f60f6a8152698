"""The words of the vocabulary nearest to learned context vectors.

As in Zhou et al., "Learning to Prompt for Vision-Language Models" (CoOp), §4.2 and table 4: Euclidean distance to the
rows of the token embedding. As there, the words are often not readable: a vector may do its work far from any word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..clip import Tokenizer
from ..toolbox.dassl.errors import WrongValue
from ..trainers.model import PromptModel
from .experts import has_router
from .labels import Label

WARNING = (
    "The words nearest to learned vectors are often not readable, and a near word need not be what the vector means: "
    "nothing holds the vectors close to the vocabulary."
)
NAME = "CLASS"  # stands for the class name in a pattern
AT_ONCE = 256  # vectors compared with the vocabulary at once: 50 MB


@dataclass(frozen=True)
class Near:
    """A word of the vocabulary and its Euclidean distance to a context vector."""

    word: str
    distance: float


@dataclass(frozen=True)
class PromptWords:
    """One learned prompt.

    Attributes:
        name: the template of its expert, else "prompt 1"; label: its class, None if it serves all classes.
        pattern: the prompt with [1], [2], ... for its context vectors in order, and CLASS for the class name.
        vectors: the nearest words of each of its V vectors, the nearest first.
    """

    name: str
    label: Label | None
    pattern: str
    vectors: list[list[Near]]

    def to_dict(self) -> dict[str, object]:
        """Plain data."""
        return asdict(self)

    def __str__(self) -> str:
        head = f"{self.name}{'' if self.label is None else f' ({self.label})'}: {self.pattern}"
        lines = [
            f"  [{place}] " + ", ".join(f"{near.word} {near.distance:.3f}" for near in words)
            for place, words in enumerate(self.vectors, 1)
        ]
        return "\n".join([head, *lines])


def why_no_words(model: PromptModel) -> str:
    """Why a model has no context vectors to look up; "" if it has some."""
    try:
        vectors = model.context_vectors()
    except TypeError:
        return f"{model.method} has no context vectors: its prompts are hand-written, or it learns none"
    if vectors.shape[-1] != model.encoder.token_embedding.weight.shape[1]:
        return f"{model.method}'s context vectors are no token embeddings"
    return ""


@torch.no_grad()
def prompt_words(model: PromptModel, labels: Sequence[Label], count: int = 5) -> list[PromptWords]:
    """The nearest words of every context vector, prompt by prompt.

    Of deep prompts, [J, V, W], only layer 0 stands among token embeddings and is looked up.

    Args:
        model: with context vectors; labels: of its C classes; count: words for each vector.

    Raises:
        WrongValue: it has no context vectors, or count is below 1.
    """
    if why := why_no_words(model):
        raise WrongValue(why)
    vectors = model.context_vectors()
    near = nearest_words(vectors[0] if vectors.dim() == 3 else vectors, model.encoder.token_embedding.weight, count)
    found = []
    for g, prompts in enumerate(model.sequences(model.names)):
        name = model.groups[g][0] if has_router(model) else f"prompt {g + 1}"
        slots = [[-token - 1 for token in prompt if token < 0] for prompt in prompts]  # see `clip.layout.context_slot`
        own = any(row != slots[0] for row in slots)  # vectors of its own for each class
        for label, prompt, row in zip(labels, prompts, slots, strict=True):
            found.append(PromptWords(name, label if own else None, pattern(prompt), [near[i] for i in row]))
            if not own:
                break
    return found


def pattern(prompt: Sequence[int]) -> str:
    """A prompt as text: [1], [2], ... for context vectors, CLASS for the tokens between them, the final period.

    Args:
        prompt: tokens, and negative numbers for context vectors, between the start and the end token.
    """
    parts: list[str] = []
    place = 0
    period = Tokenizer().encode(".")
    inner = list(prompt[1:-1])
    tail = inner[-1:] == period and len(inner) > 1
    for token in inner[: len(inner) - tail]:
        if token < 0:
            place += 1
            parts.append(f"[{place}]")
        elif parts[-1:] != [NAME]:
            parts.append(NAME)
    return " ".join(parts) + ("." if tail else "")


def nearest_words(vectors: Tensor, embedding: Tensor, count: int) -> list[list[Near]]:
    """The words whose token embeddings are nearest to each vector.

    Whole words alone are looked at: tokens that end a word (some are only endings of longer ones) and have a letter or
    digit. Rows of zeros do not count: there (the demo backbone) the text tower never read the token.

    Args:
        vectors: [V, W]; embedding: [T, W] of the whole vocabulary; count: words for each vector.

    Returns:
        V lists, the nearest first.

    Raises:
        WrongValue: count is below 1.
    """
    if count < 1:
        raise WrongValue(f"expected at least 1 word for each vector, found {count}")
    words = whole_words()
    ids = torch.tensor([i for i in words if i < len(embedding)], device=embedding.device)
    rows = embedding[ids].float()
    known = rows.abs().sum(dim=1) > 0
    ids, rows = ids[known], rows[known]
    found = []
    for part in vectors.detach().float().split(AT_ONCE):
        distances = torch.cdist(part, rows, compute_mode="donot_use_mm_for_euclid_dist")
        best = distances.topk(min(count, len(rows)), largest=False)
        for places, values in zip(ids[best.indices].tolist(), best.values.tolist(), strict=True):
            found.append([Near(words[i], value) for i, value in zip(places, values, strict=True)])
    return found


@lru_cache(maxsize=1)
def whole_words() -> dict[int, str]:
    """Token -> word, of the tokens of CLIP's vocabulary that end a word and have a letter or digit."""
    tokenizer = Tokenizer()
    texts = {i: tokenizer.decode([i]) for i in range(tokenizer.sot)}
    whole = {i: text.strip() for i, text in texts.items() if text.endswith(" ")}
    return {i: word for i, word in whole.items() if any(map(str.isalnum, word)) and "\ufffd" not in word}
