"""The table of methods: a row holds all that the rest of the project needs to know of a method. Imports no torch.

A new method is one file in `trainers/`, one row here and its configs; nothing else names methods. A method of another
package joins through the entry-point group `mocoop.methods`: the entry point names a `Method`.

    [project.entry-points."mocoop.methods"]
    MyMethod = "my_package.row:MY_METHOD"
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

from .config.keys import (
    PREC,
    WEIGHT,
    Key,
    at_least,
    between,
    choice,
    scale,
    template,
    template_groups,
    templates_or_none,
    words,
)
from .toolbox.dassl.errors import ExpectedError
from .toolbox.dassl.utils import did_you_mean

GROUP = "mocoop.methods"
CONFIGS = Path(__file__).parent / "configs/trainers"

# LASP's 35 hand-written prompts, in its order; "a bad photo of the {}." is there twice and counts twice.
LASP_PROMPTS = [
    "a photo of a {}, a type of flower.",
    "a photo of a person doing {}.",
    "a centered satellite photo of {}.",
    "a photo of a {}, a type of aircraft.",
    "{} texture.",
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
    "a photo of a {}.",
    "a photo of many {}.",
    "a photo of the hard to see {}.",
    "a low resolution photo of the {}.",
    "a rendering of a {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a pixelated photo of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a rendering of the {}.",
    "a close-up photo of the {}.",
    "a low resolution photo of a {}.",
    "a rendition of the {}.",
    "a photo of the clean {}.",
    "a photo of a large {}.",
    "a blurry photo of a {}.",
    "a pixelated photo of a {}.",
    "itap of the {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
]


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        name: its name in `--trainer`, run folders and tables; also the name of the trainer's class.
        script: its name in `scripts/<script>/` and in the protocols.
        trainer: "module:class" of its Dassl trainer.
        model: "module:class" of its model, which needs neither Dassl nor a config.
        paper: where it comes from.
        keys: its config keys below `TRAINER.<NODE>`: name -> declaration.
        node: NODE (default: the name in upper case).
        trained: whether it has anything to train.
        configs: (pattern of a data set's name, config) pairs, the first match counts.
        fewshot: the same for the few-shot protocol, with options by shots: (pattern, config, {shots: options}).
        folder: folder of its configs (default: `configs/trainers/<name>`).
        tunes_image: the key that makes it train something in the image tower, "" if none does.
        search: what `mocoop tune` varies beside learning rate and epochs, by the key's name (see `runs/search.py`).
        compared: whether `scripts/run_protocol.sh` runs it when no methods are named.
        in_coop: whether CoOp's own checkout has it, so that `import mocoop` does not register it there.
        colour, marker: in figures (Okabe and Ito's colours, which colour-blind readers can tell apart).
    """

    name: str
    script: str
    trainer: str
    model: str
    paper: str = ""
    keys: Mapping[str, Key] = field(default_factory=dict)
    node: str = ""
    trained: bool = True
    configs: tuple[tuple[str, str], ...] = ()
    fewshot: tuple[tuple[str, str, Mapping[int, tuple[object, ...]]], ...] = ()
    folder: Path | None = None
    tunes_image: str = ""
    search: Mapping[str, object] = field(default_factory=dict)
    compared: bool = True
    in_coop: bool = False
    colour: str | None = None
    marker: str | None = None

    def __post_init__(self):
        object.__setattr__(self, "node", self.node or self.name.upper())
        object.__setattr__(self, "folder", Path(self.folder) if self.folder else CONFIGS / self.name)

    def paths(self) -> dict[str, Key]:
        """Its keys by their full path, "TRAINER.COOP.N_CTX"."""
        return {f"TRAINER.{self.node}.{name}": key for name, key in self.keys.items()}

    @property
    def tunes_image_path(self) -> str:
        """`tunes_image` by its full path, or ""."""
        return f"TRAINER.{self.node}.{self.tunes_image}" if self.tunes_image else ""

    def default_config(self, dataset: str) -> str | None:
        """The config that it runs with on a data set ("" for one of the user's own), None if the row names none."""
        return next((config for pattern, config in self.configs if fnmatch(dataset, pattern)), None)

    def load_trainer(self) -> type:
        """The class of its trainer, imported now."""
        return load_class(self.trainer)

    def load_model(self) -> type:
        """The class of its model, imported now."""
        return load_class(self.model)


def load_class(target: str) -> type:
    """What "module:name" names, imported now."""
    module, name = target.split(":")
    return getattr(import_module(module), name)


N_CTX = Key(16, "number of context vectors; ignored when CTX_INIT is given", between(1, 1000))
CTX_INIT = Key("", "words whose token embeddings initialise the context; empty = random", words)
HALF_PRECISION = Key("fp16", PREC.meaning, PREC.check)  # the default of CoOp and CoCoOp
CORRECTION = Key(True, "learn the correction vector w added to every text feature")
NORMS = Key(True, "learn ln_1 and ln_2 of every image block")
NORMS_LR = Key(0.1, "learning rate of those LayerNorms relative to OPTIM.LR", at_least(0))
GRAD_CLIP = Key(1.0, "largest gradient norm; 0 = no clipping", at_least(0))
DEMO, MINIATURE = ("demo_*", "demo"), ("mini_*", "miniature")

ZEROSHOT = Method(
    name="ZeroshotCLIP",
    script="zsclip",
    trainer="mocoop.trainers.zsclip:ZeroshotCLIP",
    model="mocoop.trainers.zsclip:ZeroshotModel",
    paper="Radford et al., ICML 2021, arXiv 2103.00020",
    node="ZSCLIP",
    trained=False,
    keys={
        "TEMPLATE": Key("", "hand-written template; empty = the data set's own (benchmark table of CoOp)", template),
        "PREC": Key("fp32", PREC.meaning, PREC.check),
    },
    configs=(DEMO, MINIATURE, ("*", "vit_b16")),
    in_coop=True,
    colour="#4d4d4d",
    marker="s",
)
ZEROSHOT_ENSEMBLE = Method(
    name="ZeroshotCLIP2",
    script="zsclip2",
    trainer="mocoop.trainers.zsclip:ZeroshotCLIP2",
    model="mocoop.trainers.zsclip:ZeroshotModel",
    paper=ZEROSHOT.paper,
    node=ZEROSHOT.node,
    trained=False,
    keys=ZEROSHOT.keys,
    configs=ZEROSHOT.configs,
    folder=ZEROSHOT.folder,
    compared=False,
    in_coop=True,
    colour="#999999",
    marker="p",
)
COOP = Method(
    name="CoOp",
    script="coop",
    trainer="mocoop.trainers.coop:CoOp",
    model="mocoop.trainers.coop:CoOpModel",
    paper="Zhou et al., IJCV 2022, arXiv 2109.01134",
    keys={
        "N_CTX": N_CTX,
        "CSC": Key(False, "class-specific context vectors"),
        "CTX_INIT": CTX_INIT,
        "PREC": HALF_PRECISION,
        "CLASS_TOKEN_POSITION": Key("end", "class name at the", choice("end", "middle", "front")),
    },
    # As in CoCoOp's scripts; few-shot as in CoOp's paper: 16 context vectors, longer with more shots.
    configs=(DEMO, MINIATURE, ("imagenet*", "vit_b16_ep50_ctxv1"), ("*", "vit_b16_ctxv1")),
    fewshot=(
        ("imagenet", "vit_b16", dict.fromkeys((1, 2, 4, 8, 16), ("OPTIM.MAX_EPOCH", 50))),
        (
            "*",
            "vit_b16",
            {shots: ("OPTIM.MAX_EPOCH", epochs) for shots, epochs in {1: 50, 2: 100, 4: 100}.items()},
        ),
    ),
    in_coop=True,
    search={"CSC": [False, True]},
    colour="#E69F00",
    marker="^",
)
COCOOP = Method(
    name="CoCoOp",
    script="cocoop",
    trainer="mocoop.trainers.cocoop:CoCoOp",
    model="mocoop.trainers.cocoop:CoCoOpModel",
    paper="Zhou et al., CVPR 2022, arXiv 2203.05557",
    keys={"N_CTX": N_CTX, "CTX_INIT": CTX_INIT, "PREC": HALF_PRECISION},
    configs=(DEMO, MINIATURE, ("*", "vit_b16_c4_ep10_batch1_ctxv1")),
    in_coop=True,
    colour="#56B4E9",
    marker="v",
)
LASP = Method(
    name="LASP",
    script="lasp",
    trainer="mocoop.trainers.lasp:LASP",
    model="mocoop.trainers.lasp:LASPModel",
    paper="Bulat and Tzimiropoulos, CVPR 2023, arXiv 2210.01115",
    keys={
        "LASP_PROMPTS": Key(
            LASP_PROMPTS,
            "hand-written prompts that the learned ones stay near; empty = those of MoCoOp's groups of the data set",
            templates_or_none,
        ),
        "GROUPS": Key(1, "learned prompts; the hand-written ones are dealt out among them", between(1, 1000)),
        "N_CTX": Key(4, N_CTX.meaning, N_CTX.check),
        "CTX_INIT": Key("a photo of a", CTX_INIT.meaning, words),
        "PREC": PREC,
        "ENABLE_CORRECTION": CORRECTION,
        "FINETUNE_VIT_LN": NORMS,
        "LN_LR_MULT": NORMS_LR,
        "LASP_LOSS_WEIGHT": Key(5.0, "weight of the text-to-text loss", WEIGHT),
        "NOISE_STD": Key(0.05, "noise on the hand-written prompts' features, in half of the steps", at_least(0)),
        "GRAD_CLIP": GRAD_CLIP,
    },
    configs=(  # as in its logs (no ImageNet there)
        DEMO,
        MINIATURE,
        ("imagenet*", "vit_b16_c4_ep10_batch1_cls_t2t_5_wcl_25_g1_b"),
        ("food101", "vit_b16_c4_ep10_batch1_cls_t2t_5_wcl_25_g1_b"),
        ("caltech101", "vit_b16_c4_ep50_batch32_cls_t2t_10_wcl_25_g1_b_lr32"),
        ("dtd", "vit_b16_c4_ep50_batch32_cls_t2t_10_wcl_25_g1_b_lr32"),
        ("ucf101", "vit_b16_c4_ep50_batch32_cls_t2t_10_wcl_25_g1_b_lr32"),
        ("eurosat", "vit_b16_c4_ep300_batch32_cls_t2t_5_wcl_25_g1_b_lr32"),
        ("*", "vit_b16_c4_ep25_batch32_cls_t2t_5_wcl_25_g1_b_lr32"),
    ),
    search={"GROUPS": [1, 2, 3], "LASP_LOSS_WEIGHT": {"low": 0.5, "high": 20.0, "log": True}},
    colour="#009E73",
    marker="D",
    tunes_image="FINETUNE_VIT_LN",
)
KGCOOP = Method(
    name="KgCoOp",
    script="kgcoop",
    trainer="mocoop.trainers.kgcoop:KgCoOp",
    model="mocoop.trainers.kgcoop:KgCoOpModel",
    paper="Yao, Zhang and Xu, CVPR 2023, arXiv 2303.13283",
    keys={
        "N_CTX": Key(4, N_CTX.meaning, N_CTX.check),
        "CTX_INIT": Key("a photo of a", CTX_INIT.meaning, words),
        "TEMPLATE": Key("", "hand-written prompt to stay near; empty = the released one of the data set", template),
        "W": Key(8.0, "weight of L_kg", WEIGHT),
        "PREC": HALF_PRECISION,
    },
    configs=(DEMO, MINIATURE, ("*", "vit_b16_ep100_ctxv1")),
    compared=False,
    search={"W": {"low": 0.5, "high": 20.0, "log": True}},
    colour="#0072B2",
    marker="X",
)
MOCOOP = Method(
    name="MoCoOp",
    script="mocoop",
    trainer="mocoop.trainers.mocoop:MoCoOp",
    model="mocoop.trainers.mocoop:MoCoOpModel",
    paper="Du, Niu and Zhao, Frontiers in AI 2025, arXiv 2409.12011",
    keys={
        "PROMPT_GROUPS": Key(
            [], "groups of templates, one expert each; empty = looked up by DATASET.NAME", template_groups
        ),
        "PREC": PREC,
        "TOPK": Key(2, "experts mixed per image", at_least(1)),
        "ENABLE_CORRECTION": CORRECTION,
        "FINETUNE_VIT_LN": NORMS,
        "LN_LR_MULT": NORMS_LR,
        "TEXT_LOSS_WEIGHT": Key(5.0, "weight of L_text", WEIGHT),
        "GATE_LOSS_WEIGHT": Key(1.0, "weight of L_gate", WEIGHT),
        "TEXT_LOGIT_SCALE": Key(None, 'scale of the text logits: "clip" (None) or a number', scale),
        "GATE_TARGET_SCALE": Key(None, 'scale of the gate target\'s logits: "clip" (None) or a number', scale),
        "GATE_TARGET": Key(
            "topk", "topk (the paper), or authors: the released code's target", choice("topk", "authors")
        ),
        "VIRTUAL_CLASSES": Key(True, "names of absent (new) classes take part in L_text"),
        "GRAD_CLIP": GRAD_CLIP,
    },
    # Its authors do not say which schedule belongs to which data set; this is LASP's choice among the schedules of the
    # same names, a plausible guess.
    configs=(
        DEMO,
        MINIATURE,
        ("imagenet*", "vit_b16_ep10_batch1_imagenet"),
        ("food101", "vit_b16_ep10_batch1"),
        ("caltech101", "vit_b16_ep50_batch32"),
        ("dtd", "vit_b16_ep50_batch32"),
        ("ucf101", "vit_b16_ep50_batch32"),
        ("eurosat", "vit_b16_ep300_batch32"),
        ("*", "vit_b16_ep25_batch32"),
    ),
    search={
        "TOPK": [1, 2, 3],
        "PROMPT_GROUPS": {"groups": [3, 4, 6]},
        "TEXT_LOSS_WEIGHT": {"low": 0.5, "high": 20.0, "log": True},
    },
    colour="#D55E00",
    marker="o",
    tunes_image="FINETUNE_VIT_LN",
)
OURS = (ZEROSHOT, ZEROSHOT_ENSEMBLE, COOP, COCOOP, LASP, KGCOOP, MOCOOP)


class MethodError(ExpectedError, ValueError):
    """A row of another package that cannot be used, or a method that is not known."""


@lru_cache(maxsize=1)
def table() -> dict[str, Method]:
    """Name -> row, ours first, then those that other installed packages bring.

    Raises:
        MethodError: an entry point cannot be imported, is not a `Method`, or uses a name that is taken.
    """
    rows = {row.name: row for row in OURS}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        row = read_entry_point(point)
        check_names(row, rows.values(), point.value)
        rows[row.name] = row
    return rows


def check_names(row: Method, others: Iterable[Method], origin: str) -> None:
    """Refuse names that cannot be folders or config keys, names that are taken, and targets that are not a class.

    Raises:
        MethodError: naming the name.
    """
    names = (row.name, row.script, row.node)
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9][\w-]*", name):
            raise MethodError(f"method {row.name!r} of {origin}: {name!r} must consist of letters, digits, - and _")
    for target in (row.trainer, row.model):
        if not re.fullmatch(r"\w+(\.\w+)*:\w+", target):
            raise MethodError(f"method {row.name} of {origin}: expected a class as 'module:class', found {target!r}")
    taken = {"NAME", *(name for other in others for name in (other.name, other.script, other.node))}
    for name in names:
        if name in taken:
            raise MethodError(f"method {row.name} of {origin}: the name {name!r} is taken; rename it")


def read_entry_point(point: object) -> Method:
    """The row that an entry point names.

    Raises:
        MethodError: it cannot be imported or is not a `Method`.
    """
    try:
        row = point.load()
    except Exception as error:
        raise MethodError(
            f"entry point {point.name} = {point.value} of group {GROUP} cannot be imported "
            f"({type(error).__name__}: {error}); repair or uninstall that package"
        ) from error
    if not isinstance(row, Method):
        raise MethodError(f"entry point {point.name} = {point.value}: expected a mocoop.methods.Method, found {row!r}")
    return row


def untrained() -> tuple[str, ...]:
    """Names of the methods that have nothing to train: `train.py` only tests them."""
    return tuple(row.name for row in table().values() if not row.trained)


def keys() -> dict[str, Key]:
    """Every config key of every method by its full path."""
    return {path: key for row in table().values() for path, key in row.paths().items()}


def named(name: str) -> Method:
    """The row of a method from its name or its script's name.

    Raises:
        MethodError: neither is known.
    """
    for row in table().values():
        if name in (row.name, row.script):
            return row
    scripts = [row.script for row in table().values()]
    near = did_you_mean(str(name), scripts) or did_you_mean(str(name), [row.name for row in table().values()])
    raise MethodError(f"method {name!r} is not known{near} (one of: {', '.join(scripts)})")
