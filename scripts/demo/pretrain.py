"""Pretrain the demo backbone: a small CLIP on icons of three designers, with captions that name style and effect.

    python scripts/demo/pretrain.py --out output/pretrain --resume

writes `demo.safetensors` (what `mocoop.clip.demo_model.load_demo` reads), `checkpoint.pt` and `log.csv` into the
folder; the defaults are what the shipped weights were trained with. Only designers that no demo data set uses are drawn
from (Material Design Icons, Codicons, Elusive).
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import random
import re
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from mocoop.clip.demo_model import EMBED_DIM, build_demo, pack
from mocoop.datasets import demo_render as draw
from open_clip import get_tokenizer
from safetensors.torch import save_file
from torch import Generator, Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

DESIGNERS = ("material", "codicon", "elusive")
STYLES = {"outline": ("outline", "outlined", "line"), "solid": ("solid", "filled")}
LOOKS = {
    "pixelated": ("pixelated", "low resolution", "jpeg corrupted"),
    "blurry": ("blurry", "out of focus"),
    "noisy": ("noisy", "grainy"),
    "dark": ("dark", "black"),
    "bright": ("bright", "pale"),
    "sketch": ("sketchy", "hand drawn", "sketched"),
}
NOUNS = ("icon", "icon", "icon", "drawing", "photo", "picture", "image", "symbol", "rendering")
PLAIN = (
    "{}", "{}.", "{} icon.", "{} symbol.", "{} texture.", "itap of a {}.", "art of the {}.", "a photo of many {}.",
    "a photo of a small {}.", "a photo of the large {}.", "a cropped photo of the {}.", "a close-up photo of a {}.",
    "a {} in a video game.", "a photo of the clean {}.", "a rendition of the {}.",
)  # fmt: skip
GOOD = ("good", "clean", "clear", "plain")  # said of drawings without an effect


@dataclass(frozen=True)
class Drawing:
    """One glyph: its designer's name for it, as words without the style, and the style if the name tells it."""

    name: str
    style: str | None


def describe(designer: str, names: Sequence[str]) -> list[Drawing]:
    """What the icon names of a designer say: "bell-ring-outline" -> ("bell ring", "outline").

    Numbers and the words "variant" and "alt" at the end only count drawings of one thing and are dropped. A Material
    icon that has an outline sibling is the solid one.
    """
    known, drawings = set(names), []
    for name in names:
        style = None
        stem = re.sub(r"-(outline|filled)$", "", name)
        if stem != name:
            style = "outline" if name.endswith("outline") else "solid"
        elif f"{name}-outline" in known:
            style = "solid"
        stem = re.sub(r"(-(variant|alt|\d))+$", "", stem) if designer != "codicon" else stem
        drawings.append(Drawing(stem.replace("-", " "), style))
    return drawings


def caption(name: str, style: str | None, effect: str, rng: random.Random) -> tuple[str, set[str]]:
    """A caption that is true of the drawing, and what it claims: its style and its effect, either, or neither."""
    words, claims = [], set()
    if effect != "none" and rng.random() < 0.6:
        words.append(rng.choice(LOOKS[effect]))
        claims.add(effect)
    if style and rng.random() < 0.5:
        words.append(rng.choice(STYLES[style]))
        claims.add(style)
    if not words:
        if rng.random() < 0.35:
            return rng.choice(PLAIN).format(name), claims
        if effect == "none" and rng.random() < 0.2:
            words.append(rng.choice(GOOD))
            claims.add("none")
    if effect == "sketch" and rng.random() < 0.2:
        return f"{rng.choice(('a', 'the'))} sketch of {rng.choice(('a', 'the'))} {name}.", {"sketch"}
    noun = rng.choice(NOUNS)
    article = rng.choice(("a", "a", "the"))
    first = " ".join([*words, noun])
    if article == "a" and first[0] in "aeiou":
        article = "an"
    return f"{article} {first} of {rng.choice(('a', 'the'))} {name}.", claims


def contradicts(claims: set[str], style: str | None, effect: str) -> bool:
    """Whether a caption's claims are false of a drawing; a style that nobody knows contradicts nothing."""
    return any(claim != effect if claim in draw.EFFECTS else style is not None and claim != style for claim in claims)


class Icons:
    """The pretraining data: glyph masks, names, and how often each name is drawn."""

    def __init__(self):
        masks, drawings = [], []
        for designer in tqdm(DESIGNERS, desc="glyphs"):
            names = list(draw.glyph_names(designer))
            masks.append(draw.glyph_masks(designer, names))
            drawings += describe(designer, names)
        self.masks = torch.from_numpy(np.concatenate(masks))
        self.drawings = drawings
        filled = self.masks.flatten(1).any(1).tolist()
        self.by_name: dict[str, list[int]] = defaultdict(list)
        for index, drawing in enumerate(drawings):
            if filled[index]:
                self.by_name[drawing.name].append(index)
        self.names = sorted(self.by_name)
        self.label = {name: label for label, name in enumerate(self.names)}
        self.length = np.array([len(name.split()) for name in self.names])

    def batch(
        self, size: int, bend: float, seed: int, ramp: float, copies: int
    ) -> tuple[Tensor, list[str], Tensor, Tensor]:
        """`size` drawings.

        Short names are the everyday ones and are seen more often, as they are in captions on the web. Learning starts
        with them and with drawings without effects; as `ramp` goes from 0 to 1 everything else comes in. With `copies`
        above 1 every name is drawn that often in other looks, so that captions differ in looks alone.

        Returns:
            Normalised images [B, 3, 48, 48], captions, labels of the names in the captions [B], and which captions
            (columns) are true of which images (rows) although they were not written for them, bool [B, B].
        """
        rng, numbers = random.Random(seed), np.random.default_rng(seed)
        generator = Generator().manual_seed(seed)
        weight = np.where(self.length == 1, 6.0, np.where(self.length == 2, 2.0, 1.0) * max(ramp, 0.01))
        names = np.repeat(
            numbers.choice(len(self.names), size // copies, replace=False, p=weight / weight.sum()), copies
        )
        chosen = [rng.choice(self.by_name[self.names[k]]) for k in names]
        share = 0.11 * max(ramp, 0.2)
        effect = torch.from_numpy(numbers.choice(len(draw.EFFECTS), len(names), p=[1 - 6 * share] + [share] * 6))
        masks = self.masks[chosen][:, None].float() / 255
        masks, styles = self._restyle(masks, [self.drawings[k].style for k in chosen], rng, generator)
        images = draw.render(masks[:, 0], effect, generator, 0.4 + 0.8 * ramp, bend * max(ramp, 0.01))
        effects, texts, labels, claims = [draw.EFFECTS[kind] for kind in effect.tolist()], [], [], []
        for index, style, kind in zip(chosen, styles, effects, strict=True):
            name = self.drawings[index].name
            first = name.split()[0]
            if first in self.label and rng.random() < 0.25:
                name = first  # a ringing bell is also a bell
            text, claimed = caption(name, style, kind, rng)
            texts.append(text)
            labels.append(self.label[name])
            claims.append(claimed)
        labels, drawn = torch.tensor(labels), torch.from_numpy(names)
        also = ((labels[:, None] == labels) | (drawn[:, None] == drawn)) & ~torch.eye(len(names), dtype=torch.bool)
        if copies > 1:
            for row, column in also.nonzero().tolist():
                also[row, column] = not contradicts(claims[column], styles[row], effects[row])
        return (images - 0.5) / 0.5, texts, labels, also

    def _restyle(
        self, masks: Tensor, styles: list[str | None], rng: random.Random, generator: Generator
    ) -> tuple[Tensor, list[str | None]]:
        """Draw some solid glyphs as outlines, and make all strokes thinner or thicker."""
        styles = list(styles)
        traced = [k for k, style in enumerate(styles) if style == "solid" and rng.random() < 0.25]
        if traced:
            shrunk = F.pad(F.interpolate(masks[traced], scale_factor=0.9375, mode="area"), (3, 3, 3, 3))
            masks[traced] = draw.contour(shrunk, rng.choice((1, 2, 3)))
            for k in traced:
                styles[k] = "outline"
        steps = torch.randint(-2, 3, (len(masks),), generator=generator)
        steps *= torch.rand(len(masks), generator=generator) < 0.6
        steps[traced] = 0
        return draw.thicken(masks, steps), styles


class Words:
    """Captions as tokens, cut to the longest, with ids counted within the words that can occur."""

    def __init__(self, names: Sequence[str]):
        self.tokenizer = get_tokenizer("ViT-B-32")
        phrases = [*names, *PLAIN, *GOOD, "a an the of", *NOUNS, "sketch"]
        phrases += [f"{word} {word}." for group in (*STYLES.values(), *LOOKS.values()) for word in group]
        phrases += [f"{word} ." for word in "{} icon. of,".split()] + [f"a {name}." for name in names]
        self.ids = torch.unique(torch.cat([self.tokenizer([phrase])[0] for phrase in phrases] + [torch.tensor([0])]))

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Compact ids [N, longest]; they keep the order of the real ids, so the end-of-text id is the largest."""
        tokens = self.tokenizer(list(texts))
        tokens = tokens[:, : int((tokens != 0).sum(1).max())]
        compact = torch.searchsorted(self.ids, tokens.contiguous())
        if not torch.equal(self.ids[compact], tokens):
            raise ValueError("a caption holds a token that no name or template has")
        return compact


class Learner(nn.Module):
    """The model in training: a small embedding table in place of the whole vocabulary, and heads that name the image.

    The heads are thrown away afterwards. A softmax over all names of normalised features (`classes`) stays at chance
    for long, because all images look alike to a fresh network; the linear head on centred features does not.
    """

    def __init__(self, words: Words, names: int):
        super().__init__()
        self.clip = build_demo()
        self.ids = words.ids
        self.clip.token_embedding = nn.Embedding(len(words.ids), self.clip.token_embedding.embedding_dim)
        nn.init.normal_(self.clip.token_embedding.weight, std=0.02)
        nn.init.normal_(self.clip.visual.positional_embedding, std=0.02)
        self.classes = nn.Parameter(torch.randn(names, EMBED_DIM) * EMBED_DIM**-0.5)
        self.head = nn.Sequential(nn.BatchNorm1d(EMBED_DIM, affine=False), nn.Linear(EMBED_DIM, names))

    def text(self, tokens: Tensor) -> Tensor:
        """Text features of compact ids [N, T] -> [N, EMBED_DIM]."""
        model, length = self.clip, tokens.shape[1]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.training), sdpa_kernel(SDPBackend.MATH):
            x = model.token_embedding(tokens) + model.positional_embedding[:length]
            x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
            return (model.ln_final(x[torch.arange(len(x)), tokens.argmax(1)]) @ model.text_projection).float()

    def image(self, images: Tensor) -> Tensor:
        """Image features [B, EMBED_DIM]."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.training), sdpa_kernel(SDPBackend.MATH):
            return self.clip.visual(images).float()

    def forward(self, images: Tensor, tokens: Tensor, labels: Tensor, also: Tensor) -> tuple[Tensor, dict[str, float]]:
        """The loss and its parts; for the arguments see `Icons.batch`.

        pairs: in-batch contrast between images and captions (captions that happen to be true as well are left out).
        names, words: softmax over all names, for images and captions, against one free vector per name.
        linear: softmax over all names by a linear head on the centred image features.
        """
        raw = self.image(images)
        f, t, w = (F.normalize(x, dim=-1) for x in (raw, self.text(tokens), self.classes))
        scale = self.clip.logit_scale.exp()
        logits, target = scale * f @ t.T, torch.arange(len(f))
        logits = logits.masked_fill(also, float("-inf"))
        pairs = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        by_image, by_text = scale * f @ w.T, scale * t @ w.T
        parts = {
            "pairs": pairs,
            "names": F.cross_entropy(by_image, labels),
            "words": F.cross_entropy(by_text, labels),
            "linear": F.cross_entropy(self.head(raw), labels),
        }
        loss = parts["pairs"] + parts["names"] + 0.5 * parts["words"] + parts["linear"]
        accuracy = (by_image.argmax(1) == labels).float().mean()
        return loss, {key: value.item() for key, value in (parts | {"accuracy": accuracy}).items()}

    def export(self, path: Path) -> None:
        """Write the weights file of the demo backbone, atomically."""
        model = build_demo()
        state = self.clip.state_dict()
        rows = state.pop("token_embedding.weight")
        full = torch.zeros_like(model.token_embedding.weight.data)
        full[self.ids] = rows
        model.load_state_dict({**state, "token_embedding.weight": full})
        save_file(pack(model, self.ids), path.with_suffix(".tmp"))
        path.with_suffix(".tmp").chmod(0o644)
        os.replace(path.with_suffix(".tmp"), path)


@torch.no_grad()
def held_out(learner: Learner, words: Words, icons: Icons) -> float:
    """Zero-shot accuracy (%) on one-word Phosphor icons whose names Material knows too, in two weights, no effects."""
    learner.eval()
    known = [name for name in draw.glyph_names("phosphor") if name in icons.label]
    glyphs = [name + suffix for suffix in ("", "-fill") for name in known]
    masks = torch.from_numpy(draw.glyph_masks("phosphor", glyphs)).float() / 255
    images = draw.render(masks, torch.zeros(len(masks), dtype=torch.long), Generator().manual_seed(0), 0.5)
    text = learner.text(words([f"an icon of a {name}." for name in known]))
    guess = (learner.image((images - 0.5) / 0.5) @ F.normalize(text, dim=-1).T).argmax(1)
    learner.train()
    return 100 * (guess == torch.arange(len(known)).repeat(2)).float().mean().item()


def optimizer_of(learner: Learner, rate: float) -> torch.optim.AdamW:
    """AdamW, weight decay on matrices only."""
    decayed = [p for p in learner.parameters() if p.ndim > 1]
    others = [p for p in learner.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), foreach=True)


def rate_at(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def save_checkpoint(path: Path, step: int, **parts: nn.Module | torch.optim.Optimizer) -> None:
    """Write everything that resuming needs, atomically."""
    state = {name: part.state_dict() for name, part in parts.items()}
    torch.save({"step": step, **state}, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


@dataclass(frozen=True)
class Plan:
    """The settings of a run, as on the command line."""

    out: Path
    steps: int
    batch: int
    rate: float
    bend: float
    seed: int
    every: int
    resume: bool
    processes: int


def average_gradients(parameters: list[nn.Parameter], processes: int) -> None:
    """Replace every gradient by its mean over the processes."""
    if processes == 1:
        return
    flat = torch.cat([p.grad.flatten() for p in parameters])
    dist.all_reduce(flat)
    flat /= processes
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad.copy_(part.view_as(parameter))


def join_processes(rank: int, plan: Plan) -> None:
    """Let several processes find one another, one thread each: many small operations gain little from threads."""
    if plan.processes > 1:
        torch.set_num_threads(1)
        meeting = f"file://{(plan.out / 'rendezvous').resolve()}"
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=plan.processes)


def resumed(plan: Plan, **parts: nn.Module | torch.optim.Optimizer) -> int:
    """Fill the parts from the checkpoint if the plan says so and there is one. Returns the step to start at."""
    path = plan.out / "checkpoint.pt"
    if not plan.resume or not path.is_file():
        return 0
    saved = torch.load(path, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(saved[name])
    return saved["step"]


def train(rank: int, plan: Plan) -> None:
    """Train and export. Each process draws its own share of a batch; the gradients are averaged.

    Args:
        rank: number of this process; the first one logs and saves.
        plan: the settings.
    """
    torch.manual_seed(plan.seed)
    torch.set_flush_denormal(True)
    join_processes(rank, plan)
    icons = Icons()
    words = Words(icons.names)
    learner, average = Learner(words, len(icons.names)), Learner(words, len(icons.names))
    average.load_state_dict(learner.state_dict())
    optimizer, parameters = optimizer_of(learner, plan.rate), list(learner.parameters())
    start = resumed(plan, learner=learner, average=average, optimizer=optimizer)
    if rank == 0:
        print(f"{len(icons.names)} names, {len(icons.drawings)} drawings, {len(words.ids)} tokens", flush=True)
    sums, began = defaultdict(float), time.time()
    for step in tqdm(range(start, plan.steps), initial=start, total=plan.steps, disable=None if rank == 0 else True):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, plan.steps, plan.rate, min(200, plan.steps // 10))
        ramp = min(1.0, max(0.0, (step / plan.steps - 0.1) / 0.25))
        copies = 1 if step < 0.4 * plan.steps else 2  # names first, then looks
        seed = (plan.seed * 1_000_003 + step) * 64 + rank
        images, texts, labels, also = icons.batch(plan.batch // plan.processes, plan.bend, seed, ramp, copies)
        loss, parts = learner(images, words(texts), labels, also)
        optimizer.zero_grad()
        loss.backward()
        average_gradients(parameters, plan.processes)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        with torch.no_grad():
            learner.clip.logit_scale.clamp_(max=math.log(100))
            torch._foreach_lerp_(list(average.parameters()), parameters, 1 - min(0.998, (step + 1) / (step + 10)))
        for key, value in {**parts, "loss": loss.item(), "count": 1}.items():
            sums[key] += value
        done, last = step + 1, step + 1 == plan.steps
        save = done % plan.every == 0 or last
        if rank == 0 and (done % 50 == 0 or save):
            count, scale = sums.pop("count"), learner.clip.logit_scale.exp().item()
            row = {"step": done, "seconds": round(time.time() - began)}
            row |= {key: round(value / count, 4) for key, value in sums.items()} | {"scale": round(scale, 2)}
            log(plan.out / "log.csv", row | {"held_out": round(held_out(average, words, icons), 2) if save else ""})
            sums.clear()
        if rank == 0 and save:
            average.export(plan.out / "demo.safetensors")
            save_checkpoint(plan.out / "checkpoint.pt", done, learner=learner, average=average, optimizer=optimizer)


def log(path: Path, row: dict) -> None:
    """Append one line to the CSV log and print it."""
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, row)
        if fresh:
            writer.writeheader()
        writer.writerow(row)
    print(row, flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoint, log and weights")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=192)
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--bend", type=float, default=0.03, help="strength of the random bending of glyphs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=int, default=250, help="steps between checkpoints")
    parser.add_argument("--processes", type=int, default=2, help="one thread each; 1 uses torch's own threads")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    plan = Plan(**vars(args))
    if plan.processes == 1:
        train(0, plan)
    else:
        (plan.out / "rendezvous").unlink(missing_ok=True)
        mp.spawn(train, (plan,), nprocs=plan.processes)


if __name__ == "__main__":
    main()
