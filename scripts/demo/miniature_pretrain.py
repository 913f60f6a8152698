"""Pretrain the miniature backbone: a small CLIP on drawings of many domains whose names mean different things.

    python scripts/demo/miniature_pretrain.py --drawings output/miniature/drawings.npz --out output/pretrain --resume

writes `miniature.safetensors` (what `mocoop.clip.miniature_model.load_miniature` reads), `vocabulary.json`,
`checkpoint.pt` and `log.csv`.
`miniature_collect.py` makes the drawings; only designers and fonts that no data set uses are learned from.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from collections import defaultdict
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from miniature_captions import TOLD, Caption, caption, vocabulary
from mocoop.clip.demo_model import pack
from mocoop.clip.miniature_model import EMBED_DIM, build_miniature
from mocoop.datasets import miniature_render as draw
from mocoop.datasets.miniature_classes import CLASSES
from mocoop.trainers.precision import has_bf16_units
from open_clip import get_tokenizer
from pretrain import log, optimizer_of, resumed, save_checkpoint
from safetensors.torch import save_file
from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

# How often a domain is drawn. Within a domain a name is the more frequent, the more designers draw it.
SHARES = {
    "thing": 24, "emoji": 17, "logo": 15, "flag": 7, "letter": 7, "greek": 5, "hebrew": 5, "phoenician": 2, "rune": 2,
    "sky": 5, "math": 6, "music": 6, "currency": 2, "chess": 0.5, "suit": 0.5, "braille": 1.5,
}  # fmt: skip
EFFECT_SHARES = (0.34, 0.13, 0.13, 0.13, 0.05, 0.04, 0.06, 0.03, 0.03, 0.03, 0.03)  # in the order of EFFECTS
STYLES = ("fraktur", "script", "double-struck", "typewriter", "small", "capital")
TURNED = -1.0  # what a look of `TOLD` makes of half of a prototype's coordinates
EASY = 400  # steps in which rare names, effects and wild poses come in, after half as many without them
SAMPLED = 512  # wrong names beside those of the batch in the softmax over names


@dataclass(frozen=True)
class Plan:
    """The settings of a run, as on the command line."""

    drawings: Path
    out: Path
    steps: int
    decay: int
    batch: int
    rate: float
    bend: float
    seed: int
    every: int
    resume: bool


class Drawings:
    """The collected drawings of one side.

    Attributes:
        art: RGBA, uint8 [N, 64, 64, 4].
        mono: which have one colour, bool [N].
        domains, names, styles: of each drawing.
    """

    def __init__(self, path: Path, side: str):
        with np.load(path) as data:
            records = data["records"]
            on_side = records[:, 4] == side
            self.art = torch.from_numpy(data["pictures"][on_side])
        self.domains, self.names, self.designers, self.styles, _ = records[on_side].T.tolist()
        ink = self.art[..., 3].float() / 255
        self.mono = (self.art[..., :3].amax(-1).float() * ink).flatten(1).amax(1) < 40


class Shapes:
    """What an image can show: a sense, of letters in one of their alphabets; plain or in a look of `TOLD`.

    Numbered by form, and within a form by look, of which the first (0) is plain.

    An upside-down union looks like an intersection, and a small alpha unlike a capital one: as one class they would
    teach the towers to overlook what the captions say about it.

    Attributes:
        forms: senses with their alphabets: (domain, name, style).
    """

    ALPHABETIC = ("letter", "greek")

    def __init__(self, drawings: Drawings, senses: list[tuple[str, str]]):
        styles = defaultdict(set)
        for domain, name, style in zip(drawings.domains, drawings.names, drawings.styles, strict=True):
            styles[domain, name].add(style if domain in self.ALPHABETIC else "")
        self.forms = [(*sense, style) for sense in senses for style in sorted(styles[sense])]
        self.number = {form: number for number, form in enumerate(self.forms)}
        self.of_name = defaultdict(list)
        for number, form in enumerate(self.forms):
            self.of_name[form[1]].append(number)

    def __len__(self) -> int:
        return len(self.forms) * (1 + len(TOLD))

    @staticmethod
    def look(looks: frozenset[str]) -> int:
        """Number of the look of `TOLD` among looks, counted from 1; 0 if there is none."""
        return next((k for k, name in enumerate(TOLD, 1) if name in looks), 0)

    def of(self, domain: str, name: str, style: str, looks: frozenset[str]) -> int:
        """The shape of an image."""
        form = self.number[domain, name, style if domain in self.ALPHABETIC else ""]
        return form * (1 + len(TOLD)) + self.look(looks)

    def meant(self, name: str, caption: Caption) -> list[int]:
        """The shapes of which a caption is true. One that names no look of `TOLD` means things plain."""
        told, look = caption.looks & set(STYLES), self.look(caption.looks)
        found = [k for k in self.of_name[name] if self.forms[k][0] in caption.domains]
        found = [k for k in found if self.forms[k][2] in told or not told or not self.forms[k][2]]
        return [k * (1 + len(TOLD)) + look for k in found]


class Batches(Dataset):
    """Batch number `step` of the run: a map from steps to batches, so that a resumed run draws what it would have."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.drawings = Drawings(plan.drawings, "pretrain")
        self.of_sense: dict[tuple[str, str], list[int]] = defaultdict(list)
        for index, sense in enumerate(zip(self.drawings.domains, self.drawings.names, strict=True)):
            self.of_sense[sense].append(index)
        self.senses = sorted(self.of_sense)
        self.shapes = Shapes(self.drawings, self.senses)
        self.words = Words(sorted({name for _, name in self.senses}))
        designers: dict[tuple[str, str], set[str]] = defaultdict(set)
        for domain, name, designer in zip(
            self.drawings.domains, self.drawings.names, self.drawings.designers, strict=True
        ):
            designers[domain, name].add(designer)
        weight = np.array([float(len(designers[sense])) for sense in self.senses])
        domains = np.array([domain for domain, _ in self.senses])
        for domain in set(domains):
            weight[domains == domain] *= SHARES[domain] / weight[domains == domain].sum()
        self.weight = weight / weight.sum()
        count = np.array([len(designers[sense]) for sense in self.senses])
        long = np.array([" " in name for _, name in self.senses])
        self.rare = (np.isin(domains, ("thing", "emoji", "logo")) & (long | (count < 3))) | (domains == "flag")
        self.same_word: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for sense in self.senses:
            self.same_word[sense[1]].append(sense)
        related = ("thing", "emoji")  # an icon of a bell and the emoji of a bell are both bells
        self.ambiguous = [
            word
            for word, senses in self.same_word.items()
            if len(senses) > 1 and not all(domain in related for domain, _ in senses)
        ]

    def __len__(self) -> int:
        return self.plan.steps

    def pick(self, count: int, ramp: float, rng: random.Random, numbers: np.random.Generator) -> list[tuple[str, str]]:
        """Senses of a batch: five eighths by frequency, an eighth twins of these, a quarter pairs of one word."""
        weight = np.where(self.rare, max(ramp, 0.02), 1.0) * self.weight
        twins, pairs = count // 8, []
        while len(pairs) < count // 4:
            pairs += rng.sample(self.same_word[rng.choice(self.ambiguous)], 2)
        free = count - twins - len(pairs)
        picked = numbers.choice(len(self.senses), free, replace=False, p=weight / weight.sum())
        senses = [self.senses[k] for k in picked]
        return [*senses, *senses[:twins], *pairs]

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Normalised images [B, 3, 48, 48], tokens [B, T], shapes [B], shapes of captions [K, 2], which are also true.

        The shapes of captions are pairs of caption and shape, for every shape of which a caption is true. The last,
        bool [B, B]: captions (columns) that are true of images (rows) although written for others.
        """
        plan, seed = self.plan, self.plan.seed * 1_000_003 + step
        rng, numbers, generator = random.Random(seed), np.random.default_rng(seed), Generator().manual_seed(seed)
        ramp = min(1.0, max(0.0, (step - EASY / 2) / EASY))
        senses = self.pick(plan.batch, ramp, rng, numbers)
        chosen = [rng.choice(self.of_sense[sense]) for sense in senses]
        shares = np.array(EFFECT_SHARES) * max(ramp, 0.2)
        shares[0] += 1 - shares.sum()
        mono = self.drawings.mono[chosen]
        effect = torch.from_numpy(numbers.choice(len(draw.EFFECTS), len(senses), p=shares))
        grey, outline = draw.EFFECTS.index("grey"), draw.EFFECTS.index("outline")
        effect[(effect == grey) & mono] = outline
        effect[(effect == outline) & ~mono] = grey
        art, bend = self.drawings.art[chosen], plan.bend * max(ramp, 0.01)
        images = draw.render(art, mono, effect, generator, 0.3 + 0.7 * ramp, bend)
        looks = []
        for index, kind in zip(chosen, effect.tolist(), strict=True):
            style, name = self.drawings.styles[index], draw.EFFECTS[kind]
            looks.append(frozenset({name} | ({style} - {"plain"} if name != "outline" or style != "solid" else set())))
        captions = [
            caption(domain, name, sorted(seen), rng) for (domain, name), seen in zip(senses, looks, strict=True)
        ]
        labels = torch.tensor(
            [
                self.shapes.of(*sense, self.drawings.styles[index], seen)
                for sense, index, seen in zip(senses, chosen, looks, strict=True)
            ]
        )
        meant = [[row, k] for row, c in enumerate(captions) for k in self.shapes.meant(senses[row][1], c)]
        tokens = self.words([c.text for c in captions])
        return (images - 0.5) / 0.5, tokens, labels, torch.tensor(meant), also_true(senses, looks, captions)


def also_true(senses: list[tuple[str, str]], looks: list[frozenset[str]], captions: list[Caption]) -> Tensor:
    """Which captions (columns) are true of which images (rows) but their own, bool [B, B]."""
    of_word: dict[str, list[int]] = defaultdict(list)
    for index, (_, name) in enumerate(senses):
        of_word[name].append(index)
    also = torch.zeros(len(senses), len(senses), dtype=torch.bool)
    for indices in of_word.values():
        for row in indices:
            for column in indices:
                also[row, column] = row != column and captions[column].true_of(senses[row][0], looks[row])
    return also


class Words:
    """Captions as tokens, cut to the longest, with ids counted within the words that can occur."""

    def __init__(self, names: list[str]):
        self.tokenizer = get_tokenizer("ViT-B-32")
        phrases = vocabulary(names)
        self.ids = torch.unique(torch.cat([self.tokenizer([phrase])[0] for phrase in phrases] + [torch.tensor([0])]))

    def __call__(self, texts: list[str]) -> Tensor:
        """Compact ids [N, longest]; they keep the order of the real ids, so the end-of-text id is the largest."""
        tokens = self.tokenizer(texts)
        tokens = tokens[:, : int((tokens != 0).sum(1).max())].contiguous()
        compact = torch.searchsorted(self.ids, tokens)
        if not torch.equal(self.ids[compact], tokens):
            raise ValueError("a caption holds a token that no name or template has")
        return compact


def look_vectors(seed: int = 7) -> Tensor:
    """What a look makes of every coordinate of a prototype, [1 + looks, EMBED_DIM]; the first, plain, changes nothing.

    Every coordinate is turned in two of the four looks of `TOLD`, so that on average over them a prototype is as far
    from itself plain wherever it has its large coordinates.
    """
    pairs = torch.tensor(list(combinations(range(len(TOLD)), 2)))
    order = torch.randperm(EMBED_DIM, generator=Generator().manual_seed(seed)) % len(pairs)
    looks = torch.ones(1 + len(TOLD), EMBED_DIM)
    looks[1 + pairs[order].T, torch.arange(EMBED_DIM)] = TURNED
    return looks


class Learner(nn.Module):
    """The model in training: a small embedding table in place of the whole vocabulary, and heads that name the image.

    The heads are thrown away afterwards: one prototype per shape in the joint space, which images and captions must
    both find, and a linear head on centred image features, which learns faster than normalised features do. A
    prototype is a free vector of the form times the given vector of the look: what a caption says of the look then
    decides which images it is near to, for every name alike.
    """

    def __init__(self, ids: Tensor, forms: int):
        super().__init__()
        self.clip = build_miniature()
        self.ids = ids
        self.clip.token_embedding = nn.Embedding(len(ids), self.clip.token_embedding.embedding_dim)
        nn.init.normal_(self.clip.token_embedding.weight, std=0.02)
        nn.init.normal_(self.clip.visual.positional_embedding, std=0.02)
        self.forms = nn.Parameter(torch.randn(forms, EMBED_DIM) * EMBED_DIM**-0.5)
        self.norm = nn.BatchNorm1d(EMBED_DIM, affine=False)
        self.head = nn.Parameter(torch.randn(forms, EMBED_DIM) * EMBED_DIM**-0.5)
        # A part of the model, but not trained: learned looks become alike, and captions need not name them.
        self.looks = nn.Parameter(look_vectors(), requires_grad=False)

    def prototypes(self, table: Tensor, shapes: Tensor) -> Tensor:
        """Rows of shapes, [N, EMBED_DIM]: those of their forms in a table, times those of their looks."""
        return table[shapes // len(self.looks)] * self.looks[shapes % len(self.looks)]

    def text(self, tokens: Tensor) -> Tensor:
        """Text features of compact ids [N, T] -> [N, EMBED_DIM]."""
        model, length = self.clip, tokens.shape[1]
        x = model.token_embedding(tokens) + model.positional_embedding[:length]
        x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
        return model.ln_final(x[torch.arange(len(x)), tokens.argmax(1)]) @ model.text_projection

    def forward(
        self, images: Tensor, tokens: Tensor, labels: Tensor, meant: Tensor, also: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss and its parts; for the arguments see `Batches`.

        pairs: in-batch contrast between images and captions (captions that are true as well are left out).
        names: softmax over sampled shapes, for images.
        words: the same for captions, whose probability may lie on any of the shapes that they mean.
        linear: softmax over sampled shapes by a linear head on the centred image features.
        """
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16_units()):
            raw, said = self.clip.visual(images), self.text(tokens)
        raw = raw.float()
        f, t = F.normalize(raw, dim=-1), F.normalize(said.float(), dim=-1)
        scale = self.clip.logit_scale.exp()
        logits, target = scale * f @ t.T, torch.arange(len(f))
        logits = logits.masked_fill(also, float("-inf"))
        wrong = torch.randint(len(self.forms) * len(self.looks), (SAMPLED,))
        found, place = torch.unique(torch.cat([labels, meant[:, 1], wrong]), return_inverse=True)
        w = F.normalize(self.prototypes(self.forms, found), dim=-1)
        true = torch.zeros(len(t), len(found), dtype=torch.bool)
        true[meant[:, 0], place[len(labels) : len(labels) + len(meant)]] = True
        spoken = scale * t @ w.T
        parts = {
            "pairs": (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2,
            "names": F.cross_entropy(scale * f @ w.T, place[: len(labels)]),
            "words": (spoken.logsumexp(1) - spoken.masked_fill(~true, float("-inf")).logsumexp(1)).mean(),
            "linear": F.cross_entropy(self.norm(raw) @ self.prototypes(self.head, found).T, place[: len(labels)]),
        }
        loss = parts["pairs"] + parts["names"] + parts["words"] + parts["linear"]
        parts["accuracy"] = (logits.argmax(1) == target).float().mean()
        return loss, {key: value.item() for key, value in parts.items()}

    def export(self, path: Path) -> None:
        """Write the weights file, atomically."""
        model = build_miniature()
        state = self.clip.state_dict()
        full = torch.zeros_like(model.token_embedding.weight.data)
        full[self.ids] = state.pop("token_embedding.weight")
        model.load_state_dict({**state, "token_embedding.weight": full})
        save_file(pack(model, self.ids), path.with_suffix(".tmp"))
        os.replace(path.with_suffix(".tmp"), path)


LOOK_FORMS = {
    "thing": "an icon of a {}.", "emoji": "an emoji of a {}.", "logo": "a logo of {}.", "flag": "a flag of {}.",
    "letter": "a latin letter of {}.", "greek": "a greek letter of {}.", "hebrew": "a hebrew letter of {}.",
    "sky": "an astrological symbol of {}.", "math": "a mathematical symbol of {}.", "music": "a musical symbol of {}.",
}  # fmt: skip


class Look:
    """A look at zero-shot accuracy on drawings of the data sets' designers while training goes on."""

    def __init__(self, path: Path, words: Words, each: int = 250):
        drawings, generator, rng = Drawings(path, "task"), Generator().manual_seed(0), random.Random(0)
        self.images, self.labels, self.tokens = {}, {}, {}
        for domain, names in CLASSES.items():
            rows = [k for k, (d, n) in enumerate(zip(drawings.domains, drawings.names, strict=True)) if d == domain]
            rows = rng.sample(rows, min(each, len(rows)))
            images = draw.render(drawings.art[rows], drawings.mono[rows], torch.zeros(len(rows), dtype=int), generator)
            known = sorted(set(drawings.names[k] for k in rows) & set(names))
            self.images[domain] = (images - 0.5) / 0.5
            self.labels[domain] = torch.tensor([known.index(drawings.names[k]) for k in rows])
            self.tokens[domain] = words([LOOK_FORMS[domain].format(name) for name in known])

    @torch.no_grad()
    def __call__(self, learner: Learner) -> dict[str, float]:
        """Accuracy (%) of each domain with its plain template, on drawings without effects."""
        learner.eval()
        result = {}
        for domain, images in self.images.items():
            text = F.normalize(learner.text(self.tokens[domain]), dim=-1)
            right = (learner.clip.visual(images) @ text.T).argmax(1) == self.labels[domain]
            result[domain] = round(100 * right.float().mean().item(), 1)
        learner.train()
        return result


def rate_at(step: int, plan: Plan) -> float:
    """Warm-up, a plateau, and a linear end, which can be moved while a run goes on."""
    return plan.rate * min(1.0, (step + 1) / 100, (plan.steps - step) / plan.decay)


def write_vocabulary(senses: list[tuple[str, str]], path: Path) -> None:
    """Domain -> names, which `evaluate.py` looks ambiguous names up in."""
    names: dict[str, list[str]] = defaultdict(list)
    for domain, name in senses:
        names[domain].append(name)
    path.write_text(json.dumps(names, separators=(",", ":")) + "\n")


def train(plan: Plan) -> None:
    """Train and export."""
    torch.manual_seed(plan.seed)
    torch.set_flush_denormal(True)
    batches = Batches(plan)
    words = batches.words
    learner, average = (Learner(words.ids, len(batches.shapes.forms)) for _ in range(2))
    average.load_state_dict(learner.state_dict())
    optimizer, parameters = optimizer_of(learner, plan.rate), list(learner.parameters())
    write_vocabulary(batches.senses, plan.out / "vocabulary.json")
    start = resumed(plan, learner=learner, average=average, optimizer=optimizer)
    print(f"{len(batches.senses)} senses, {len(batches.ambiguous)} ambiguous names, {len(words.ids)} tokens")
    look, sums, began = Look(plan.drawings, words), defaultdict(float), time.time()
    loader = DataLoader(batches, batch_size=None, sampler=range(start, plan.steps), num_workers=1, prefetch_factor=8)
    for step, batch in enumerate(tqdm(loader, disable=None), start):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, plan)
        torch.manual_seed(plan.seed * 1_000_003 + step)
        loss, parts = learner(*batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        with torch.no_grad():
            learner.clip.logit_scale.clamp_(max=math.log(100))
            torch._foreach_lerp_(list(average.parameters()), parameters, 1 - min(0.998, (step + 1) / (step + 10)))
            average.norm.load_state_dict(learner.norm.state_dict())
        for key, value in {**parts, "loss": loss.item(), "count": 1}.items():
            sums[key] += value
        done = step + 1
        if done % plan.every == 0 or done == plan.steps:
            count, scale = sums.pop("count"), learner.clip.logit_scale.exp().item()
            row = {"step": done, "seconds": round(time.time() - began)}
            row |= {key: round(value / count, 3) for key, value in sums.items()} | {"scale": round(scale, 1)}
            log(plan.out / "log.csv", row | look(average))
            sums.clear()
            average.export(plan.out / "miniature.safetensors")
            save_checkpoint(plan.out / "checkpoint.pt", done, learner=learner, average=average, optimizer=optimizer)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drawings", type=Path, required=True, help="drawings.npz of miniature_collect.py")
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoint, log and weights")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--decay", type=int, default=800, help="of these, steps in which the rate falls to zero")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--bend", type=float, default=0.03, help="strength of the random bending of drawings")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    train(Plan(**vars(args)))


if __name__ == "__main__":
    main()
