"""From templates and class names to prompts: which positions hold tokens, which hold context vectors.

Everything is counted in tokens. (The authors' MoCoOp counts space-separated words and uses the count as a token
offset, which for six of their templates overwrites the class name, reads the feature at a learned vector, or leaves the
last tokens frozen; CoOp and LASP count words too.)

MoCoOp's experts are joined from the template's tokens and the name's own tokens, so a name has the same tokens in all
of them. Hard prompts are tokenized as a whole, as in CLIP, and so are the name and period of the other methods, as in
their released code. The two differ only for names that end in punctuation (docs/mocoop.md).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..clip.layout import PromptLayout, context_slot, make_layout
from ..clip.text import TextEncoder
from ..toolbox.dassl.errors import WrongValue
from .ranks import ALONE, Ranks

Tokenizer = Callable[[list[str]], Tensor]


def readable(name: str) -> str:
    """A class name as it is written into prompts: underscores become spaces (CoOp's rule)."""
    return name.replace("_", " ")


def token_ids(tokenizer: Tokenizer, texts: Sequence[str], whole: bool = True) -> list[list[int]]:
    """Token ids of each text, without padding.

    Args:
        tokenizer: texts -> LongTensor [N, L], padded behind the end-of-text token, which has the largest id; raises
            ValueError naming a text that does not fit into L tokens (as `clip.Tokenizer` does).
        texts: N texts.
        whole: keep the start and end tokens; False strips them.
    """
    rows = tokenizer(list(texts))
    ids = [row[: end + 1] for row, end in zip(rows.tolist(), rows.argmax(dim=1).tolist(), strict=True)]
    return ids if whole else [row[1:-1] for row in ids]


def context_length(tokenizer: Tokenizer) -> int:
    """Tokens that a text may have, L."""
    return tokenizer([""]).shape[1]


@dataclass(frozen=True)
class Template:
    """A template split at the class name, in tokens.

    `before` and `after` are the ids that become context vectors; `tail` is the final period (or nothing), which stays
    a token.
    """

    text: str
    before: list[int]
    after: list[int]
    tail: list[int]

    @property
    def size(self) -> int:
        """Number of context vectors."""
        return len(self.before) + len(self.after)


def split_template(tokenizer: Tokenizer, text: str) -> Template:
    """Split a template such as "a {} in a video game." at its class name.

    Args:
        tokenizer: see `token_ids`.
        text: template with one "{}".
    """
    left, right = text.split("{}")
    before, after, period = token_ids(tokenizer, [left, right, "."], whole=False)
    tail = period if after[-1:] == period else []
    return Template(text, before, after[: len(after) - len(tail)], tail)


def name_rows(tokenizer: Tokenizer, names: Sequence[str]) -> list[list[int]]:
    """Each class name's token ids by itself, between the start and the end token.

    Args:
        tokenizer: see `token_ids`.
        names: C class names.

    Returns:
        C rows.

    Raises:
        ValueError: a name has no tokens, or more than the context holds.
    """
    rows = token_ids(tokenizer, [readable(name) for name in names])
    for name, row in zip(names, rows, strict=True):
        if len(row) == 2:
            raise WrongValue(f"the class name {name!r} is empty for CLIP's tokenizer: give the class a name of letters")
    return rows


def check_prompts(template: Template, names: Sequence[str], rows: Sequence[list[int]], limit: int) -> None:
    """Refuse names that cannot be put into a template.

    Args:
        template: the split template.
        names: C class names; rows: their tokens, of `name_rows`.
        limit: tokens that the text tower takes.

    Raises:
        ValueError: a prompt is longer than the limit, or a letter of the template touches a letter of the name: CLIP
            reads both as one word then, which has other tokens than its parts.
    """
    left, right = template.text.split("{}")
    for name, row in zip(names, rows, strict=True):
        text, length = readable(name), len(row) + template.size + len(template.tail)
        if (left[-1:].isalpha() and text[:1].isalpha()) or (text[-1:].isalpha() and right[:1].isalpha()):
            raise WrongValue(
                f"the class name {name!r} and the template {template.text!r} share a word; "
                'put a space or punctuation between "{}" and the words around it'
            )
        if length > limit:
            raise WrongValue(
                f"the class name {name!r} in the template {template.text!r} has {length} tokens, the text tower takes "
                f"{limit}; shorten the name or the template"
            )


def expert_sequences(template: Template, rows: Sequence[list[int]], first: int) -> list[list[int]]:
    """The prompts of one expert: context vectors for the template's words, between them the name's own tokens.

    A name ending in punctuation keeps its tokens: "kite (bird of prey)" and "." are joined as ")" and ".", which
    CLIP's tokenizer would merge into one token ")." (docs/mocoop.md).

    Args:
        template: the split template that the expert was initialised from.
        rows: C names' tokens, of `name_rows`.
        first: number of the expert's first context vector.

    Returns:
        C sequences for `make_layout`.
    """
    slots = [context_slot(first + i) for i in range(template.size)]
    before, after = slots[: len(template.before)], slots[len(template.before) :]
    return [[row[0], *before, *row[1:-1], *after, *template.tail, row[-1]] for row in rows]


def bank_sequences(tokenizer: Tokenizer, templates: Sequence[Template], names: Sequence[str]) -> list[list[list[int]]]:
    """The prompts of G experts around C names, expert g owning the next `templates[g].size` context vectors.

    Every name is tokenized once, whatever G.

    Args:
        tokenizer: see `token_ids`.
        templates: of the G experts.
        names: C class names.

    Returns:
        G x C sequences for `make_layout`.

    Raises:
        ValueError: see `name_rows` and `check_prompts`.
    """
    rows, limit = name_rows(tokenizer, names), context_length(tokenizer)
    sequences, first = [], 0
    for template in templates:
        check_prompts(template, names, rows, limit)
        sequences.append(expert_sequences(template, rows, first))
        first += template.size
    return sequences


def initial_context(embedding: nn.Embedding, templates: Sequence[Template]) -> Tensor:
    """Token embeddings of the templates' words: [V, W], V the sum of the templates' sizes."""
    ids = [i for template in templates for i in template.before + template.after]
    return (
        embedding.weight[torch.tensor(ids, dtype=torch.long, device=embedding.weight.device)].detach().clone().float()
    )


def initial_words(encoder: TextEncoder, tokenizer: Tokenizer, words: str, count: int, classes: int = 0) -> Tensor:
    """CoOp's initial context: the token embeddings of `words`, or `count` random vectors (normal, std 0.02).

    Args:
        encoder: the text tower; tokenizer: see `token_ids`.
        words: e.g. "a photo of a" (its number of tokens then replaces `count`); empty = random.
        count: M context vectors.
        classes: C for class-specific context, 0 for one context.

    Returns:
        [M, W], or [C, M, W] if class-specific.
    """
    if words:
        (ids,) = token_ids(tokenizer, [readable(words)], whole=False)
        ctx = encoder.token_embedding.weight[torch.tensor(ids)].detach().clone().float()
        return ctx.expand(classes, -1, -1).clone() if classes else ctx
    ctx = torch.empty((classes, count, encoder.width) if classes else (count, encoder.width)).normal_(std=0.02)
    return ctx.to(encoder.positional_embedding.device)  # (the same numbers on every device)


def prompt_sequences(
    tokenizer: Tokenizer,
    names: Sequence[str],
    n_ctx: int,
    position: str = "end",
    class_specific: bool = False,
    first: int = 0,
) -> list[list[int]]:
    """CoOp's prompts (§3.1): [start][V]_1 ... [V]_M [class] . [end], or the class name in the middle or in front.

    As in the released code name and period are tokenized in one, and cut where the name by itself would end: after
    "kite (bird of prey)" the merged token ")." counts as the name's last one, so middle and front have no period behind
    the context vectors.

    Args:
        tokenizer: texts -> token ids.
        names: C class names.
        n_ctx: M context vectors.
        position: of the class name: end, middle (half of the vectors on either side) or front.
        class_specific: each class has M vectors of its own.
        first: number of the first context vector.

    Returns:
        C sequences for `make_layout`.

    Raises:
        ValueError: a prompt is longer than the context, naming the class.
    """
    left = {"end": n_ctx, "middle": n_ctx // 2, "front": 0}[position]
    limit = context_length(tokenizer)
    texts = [readable(name) for name in names]
    rows = token_ids(tokenizer, [text + "." for text in texts])
    alone = rows if position == "end" else token_ids(tokenizer, texts)  # at the end nothing comes after the cut
    sequences = []
    for c, (row, own) in enumerate(zip(rows, alone, strict=True)):
        if len(row) + n_ctx > limit:
            raise WrongValue(
                f"the prompt of class {names[c]!r} has {len(row) + n_ctx} tokens, the text tower takes {limit}; "
                "shorten the name or N_CTX"
            )
        slots = [context_slot(first + i + (c * n_ctx if class_specific else 0)) for i in range(n_ctx)]
        cut = min(len(own), len(row)) - 1  # merging can save tokens: the end token stays last
        sequences.append([row[0], *slots[:left], *row[1:cut], *slots[left:], *row[cut:]])
    return sequences


SLICE_ROWS = 8192  # where slices are needed at all, larger ones take memory and save no time (docs/PERFORMANCE.md)


def sliced_layouts(sequences: Sequence[Sequence[list[int]]], chunk: int | None, rows: float) -> list[PromptLayout]:
    """Layouts of slices of the classes that are encoded one after the other.

    Args:
        sequences: G experts x C prompts, as for `make_layout`.
        chunk: prompts per slice (at least one class); None = one slice if `rows` allows, else slices of SLICE_ROWS.
        rows: rows that fit into memory at once (see `memory.rows_that_fit`).

    Returns:
        Layouts of consecutive slices; one if everything fits.
    """
    whole = make_layout(sequences)
    experts, classes = whole.shape
    if chunk is None and whole.rows > rows:
        tails = min(rows, SLICE_ROWS) - whole.front_ids.numel()
        cuts = slices_within(whole.lengths.sum(dim=0).tolist(), tails)
    else:
        cuts = list(range(0, classes, classes if chunk is None else max(1, chunk // experts)))
    if len(cuts) == 1:
        return [whole]
    ends = [*cuts[1:], classes]
    return [make_layout([prompts[a:b] for prompts in sequences]) for a, b in zip(cuts, ends, strict=True)]


def slices_within(costs: Sequence[int], limit: float, slack: float = 1.1) -> list[int]:
    """Where to cut a list so that no slice costs more than a limit, in as few slices as that takes.

    Args:
        costs: of each entry, here the rows of a class's tails; limit: per slice.
        slack: what a slice takes on top of its entries (bins are rarely quite full).

    Returns:
        The first entry of each slice; an entry beyond the limit has a slice of its own.
    """
    cuts, total = [0], 0.0
    for i, cost in enumerate(costs):
        total += slack * cost
        if total > limit and i > cuts[-1]:
            cuts.append(i)
            total = slack * cost
    return cuts


@torch.no_grad()
def template_features(
    encoder: TextEncoder,
    tokenizer: Tokenizer,
    templates: Sequence[str],
    names: Sequence[str],
    chunk: int = 4096,
    ranks: Ranks = ALONE,
) -> Tensor:
    """Normalised text features of hand-written prompts.

    Args:
        encoder: the text tower; tokenizer: see `token_ids`.
        templates: T templates with one "{}"; names: C class names.
        chunk: prompts encoded at once.
        ranks: among which the chunks are dealt out; all of them must call this together.

    Returns:
        [T, C, D], each row of norm 1.
    """
    device = encoder.positional_embedding.device
    step = max(1, chunk // len(templates))

    def encoded(first: int) -> Tensor:
        part = [readable(name) for name in names[first : first + step]]
        layout = make_layout([token_ids(tokenizer, [t.format(n) for n in part]) for t in templates])
        return encoder(layout.to(device)).float()

    firsts = range(0, len(names), step)
    parts = ranks.dealt(map(encoded, firsts[ranks.rank :: ranks.size]), len(firsts))
    return nn.functional.normalize(torch.cat(list(parts), dim=1), dim=-1)


def group_prototypes(features: Tensor, sizes: Sequence[int]) -> Tensor:
    """Hard prototypes: the normalised mean over each group's templates (docs/mocoop.md).

    Args:
        features: [T, C, D] of norm 1, the templates of all groups in order.
        sizes: templates per group, sum T.

    Returns:
        [G, C, D] of norm 1.
    """
    means = torch.stack([part.mean(dim=0) for part in features.split(list(sizes))])
    return nn.functional.normalize(means, dim=-1)
