"""What a measurement is of: method, sizes, precision; class names; how much memory the plain path will want."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..clip import architectures, names
from ..methods import LASP_PROMPTS
from ..toolbox.dassl.errors import WrongValue

METHODS = ("MoCoOp", "CoOp", "CoCoOp", "LASP")
KNOWS_OTHERS = ("MoCoOp", "LASP")  # methods to which names of absent classes matter
GROUPS = 6  # MoCoOp's experts on EuroSAT, whose template groups are used unless a number of experts is given
CONTEXT = 77

# EuroSAT's ten classes, then names of the benchmark's other data sets, short and long ones mixed.
REAL_NAMES = """Annual Crop Land|Forest|Herbaceous Vegetation Land|Highway or Road|Industrial Buildings|Pasture Land
Permanent Crop Land|Residential Buildings|River|Sea or Lake|abyssinian|american bulldog|basset hound|egyptian mau
german shorthaired|japanese chin|staffordshire bull terrier|wheaten terrier|pink primrose|hard-leaved pocket orchid
bird of paradise|colts foot|globe thistle|snapdragon|king protea|spear thistle|yellow iris|apple pie|baby back ribs
baklava|beef carpaccio|chicken quesadilla|chocolate mousse|grilled cheese sandwich|hot and sour soup|macarons|pad thai
spaghetti bolognese|707-320|A340-300|Boeing 717|Cessna 172|DHC-8-300|Gulfstream IV|Model B200|Tornado|banded
blotchy|cobwebbed|crosshatched|honeycombed|polka-dotted|potholed|Apply Eye Makeup|Balance Beam|Blowing Candles
Brushing Teeth|Clean And Jerk|Front Crawl|Hammer Throw|Horse Riding|Playing Guitar|Soccer Penalty|Still Rings
Tai Chi|Walking With Dog|abbey|airplane cabin|amusement park|art gallery|barn door|botanical garden
cockpit|dining room|fire escape|ice skating rink outdoor|office building|parking garage indoor|train station platform
2012 Acura TL Sedan|2007 Audi S4 Sedan|2012 BMW X3 SUV|2010 Chevrolet Corvette ZR1|1993 Geo Metro Convertible
2012 Jeep Wrangler SUV|2012 Tesla Model S Sedan|crocodile head|electric guitar|grand piano|inline skate|pagoda
soccer ball|stop sign|wild cat|windsor chair|great white shark|water ouzel|common newt|Komodo dragon|boa constrictor
""".replace("\n", "|")
VARIATIONS = ("", "old", "small", "large", "red", "young", "wooden", "white", "broken", "modern", "dark", "wet")

# A CLIP of a few thousand parameters: for trying the commands out and for their tests.
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"layers": 1, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 32},
    "text_cfg": {"context_length": CONTEXT, "width": 32, "heads": 2, "layers": 2},
    "quick_gelu": True,
}


def class_names(count: int) -> list[str]:
    """The first `count` class names: real ones, then the same with an adjective before them.

    Raises:
        ValueError: more than there are.
    """
    real = [name for name in REAL_NAMES.split("|") if name]
    every = [f"{word} {name}".strip() for word in VARIATIONS for name in real]
    if not 1 <= count <= len(every):
        raise WrongValue(f"expected 1 to {len(every)} class names, found {count}")
    return every[:count]


def template_groups(experts: int) -> list[list[str]]:
    """One group of one template for each of so many experts, from LASP's list.

    Raises:
        ValueError: more than there are templates.
    """
    templates = list(dict.fromkeys(LASP_PROMPTS))
    if not 1 <= experts <= len(templates):
        raise WrongValue(f"expected 1 to {len(templates)} experts, found {experts}")
    return [[template] for template in templates[:experts]]


@dataclass(frozen=True)
class Case:
    """One thing to measure.

    Attributes:
        method: one of `METHODS`; backbone: a name of `clip.names` (its weights will be random), "tiny" or "demo".
        present: C classes scored; known: A >= C names known in all (MoCoOp's and LASP's text loss).
        batch: B images; evaluate: a test batch instead of a training step.
        frozen: the LayerNorms of the image tower do not learn (CoOp, CoCoOp: they never do).
        prec: as PREC of the configs; experts: MoCoOp's, None = EuroSAT's template groups.
        chunk: TRAIN.TEXT_CHUNK; threads: of torch, None = its own choice; device: cpu or cuda.
    """

    method: str = "MoCoOp"
    backbone: str = "ViT-B/16"
    present: int = 20
    known: int = 40
    batch: int = 4
    evaluate: bool = False
    frozen: bool = False
    prec: str = "fp32"
    experts: int | None = None
    chunk: int | None = None
    threads: int | None = None
    device: str = "cpu"

    def __str__(self) -> str:
        learns = self.method in KNOWS_OTHERS and not self.evaluate
        others = f" / {self.known} names" if self.method in KNOWS_OTHERS else ""
        parts = [
            f"{self.method} {'test batch' if self.evaluate else 'training step'}",
            self.backbone,
            f"{self.present} classes{others}",
            *([f"{self.experts or GROUPS} experts"] if self.method == "MoCoOp" else []),
            f"batch {self.batch}",
            self.prec,
            *([f"LayerNorms {'frozen' if self.frozen else 'tuned'}"] if learns else []),
            *([f"TEXT_CHUNK {self.chunk}"] if self.chunk else []),
        ]
        return ", ".join(parts)


def add_case_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that `step` and `scale` share."""
    add = parser.add_argument
    add("--method", choices=METHODS, default="MoCoOp")
    add("--backbone", default="ViT-B/16", help="architecture (random weights); tiny = a toy for trying this out")
    add("--eval", dest="evaluate", action="store_true", help="time test batches instead of training steps")
    add("--frozen", action="store_true", help="the image tower's LayerNorms do not learn (MoCoOp, LASP)")
    add("--prec", choices=["fp32", "bf16", "amp", "fp16"], default="fp32", help="as PREC of the configs")
    add("--chunk", type=int, help="TRAIN.TEXT_CHUNK: prompts encoded at once (default: what fits into memory)")
    add("--threads", type=int, help="torch's threads (default: torch's choice)")
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--repeats", type=int, default=5, help="timed repeats, after one warm-up")
    add("--json", type=Path, help="write everything measured to this file")


def case_fields(args: argparse.Namespace, **others: int | None) -> dict:
    """What the arguments say of a case, once all sizes are checked.

    Args:
        args: with at least what `add_case_arguments` adds; others: more sizes to check, by their argument's name.

    Raises:
        ValueError: a size below one.
    """
    for name, value in {"repeats": args.repeats, "chunk": args.chunk, "threads": args.threads, **others}.items():
        if value is not None and value < 1:
            raise WrongValue(f"--{name.replace('_', '-')} must be at least 1, found {value}")
    return {name: value for name, value in vars(args).items() if name in Case.__dataclass_fields__}


def architecture(backbone: str) -> dict:
    """open_clip's configuration of a backbone, QuickGELU for OpenAI's names.

    Raises:
        ValueError: not a name; or a file, whose weights would not be used here.
    """
    if backbone == "tiny":
        return TINY
    parsed = names.parse(backbone)
    if parsed.path or not parsed.arch:
        raise WrongValue(f"expected the name of an architecture such as ViT-B/16 (weights are random), got {backbone}")
    config = architectures.config(parsed.arch)
    return {**config, "quick_gelu": True} if parsed.openai else config


@dataclass(frozen=True)
class Estimate:
    """Bytes that a path will need at its peak, all in all."""

    plain: float
    ours: float


def estimate(case: Case, free: float) -> Estimate:
    """Roughly what the two paths will take, from sizes only; the plain path's is on the high side.

    The plain path keeps about 24 widths of float32 per block and position until the backward pass (LayerNorm inputs 2,
    QuickGELU's factors and their copies 12, attention 10); ours 12 per row, about a dozen rows a prompt, but never
    more than half of the free memory (see `trainers.memory.rows_that_fit`).

    Args:
        free: bytes of memory that are free.
    """
    if case.backbone == "demo":
        return Estimate(2e9, 2e9)
    config = architecture(case.backbone)
    text, vision = config["text_cfg"], config["vision_cfg"]
    per_row = 4 * text["width"] * text["layers"]
    once = {"MoCoOp": case.experts or GROUPS, "CoCoOp": case.batch}.get(case.method, 1)
    twice = case.present + (case.known if case.method in KNOWS_OTHERS else 0)
    base = 0.9e9 + 4 * (12 * text["layers"] * text["width"] ** 2 + 49408 * text["width"]) + _image_weights(vision)
    if case.evaluate:
        one_block = 16 * 4 * text["width"] * CONTEXT * max(case.present, case.known)
        return Estimate(base + one_block, base + one_block)
    graph = 0 if case.frozen or case.method not in KNOWS_OTHERS else 24 * case.batch * _image_rows(vision)
    plain = once * twice * CONTEXT * 24 * per_row
    ours = min(once * max(case.present, case.known) * 12 * 12 * per_row, free / 2)
    return Estimate(base + graph + plain, base + graph + ours)


def _image_weights(vision: dict) -> float:
    return 4.0 * 12 * vision["layers"] * vision["width"] ** 2 if _is_vit(vision) else 2e8


def _image_rows(vision: dict) -> float:
    """Bytes of one width at every block and position of one image."""
    if not _is_vit(vision):
        return 0
    positions = 1 + (architectures.image_size({"vision_cfg": vision}) // vision["patch_size"]) ** 2
    return 4.0 * positions * vision["width"] * vision["layers"]


def _is_vit(vision: dict) -> bool:
    return isinstance(vision.get("layers"), int) and bool(vision.get("patch_size"))


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    import statistics

    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
