"""The runs of the benchmark on the miniature world: methods, protocols, ablations, learning rates."""

import random
from collections.abc import Sequence
from dataclasses import replace

from mocoop import config, methods
from mocoop.runs.pool import Job
from mocoop.runs.protocols import PROTOCOLS, SHIFTS, STEPS, TARGETS, Experiment, Settings

CONFIG, MAIN = "miniature", "mini_things"
SETS = (MAIN, *TARGETS[MAIN])
HELD_OUT = ("mini_sky", "mini_logos")  # where learning rates are chosen; left out of all averages
AVERAGED = tuple(name for name in SETS if name not in HELD_OUT)
SHIFTED = SHIFTS[MAIN]
METHODS = [row.name for row in methods.OURS if row.compared or row.name == "KgCoOp"]
TRAINED = [name for name in METHODS if methods.named(name).trained]
SEEDS, SHOTS = (1, 2, 3, 4, 5), (1, 16)
ZERO_SEED = 1  # of what trains nothing, and is the same whatever the seed
RATES, RATE_SEEDS = (0.03, 0.1, 0.3), (1,)

# ---- MoCoOp's ablations

ABLATION_SETS = ("mini_emoji", "mini_hebrew", "mini_music")
# Tag -> what it is. The plain run has a group for each of the four looks, TOPK 2, frozen LayerNorms and stored
# views; the two variants that encode images in each step are compared with each other.
ABLATIONS = {
    "topk1": "TOPK 1",
    "topkall": "TOPK 4 (all experts)",
    "groups1": "1 expert",
    "groups2": "2 experts",
    "groups8": "8 experts",
    "random": "random groups",
    "nogate": "no gate loss",
    "notext": "no text loss",
    "nocorrection": "no correction vector",
    "images": "images encoded in each step",
    "images-ln": "the same, LayerNorms tuned",
}
AGAINST = {"images-ln": "images"}  # every other variant is compared with the plain run
OPTIONS = {
    "topk1": {"TOPK": 1},
    "topkall": {"TOPK": 4},
    "nogate": {"GATE_LOSS_WEIGHT": 0.0},
    "notext": {"TEXT_LOSS_WEIGHT": 0.0},
    "nocorrection": {"ENABLE_CORRECTION": False},
    "images": {"INPUT.FEATURE_VIEWS": 0},
    "images-ln": {"INPUT.FEATURE_VIEWS": 0, "FINETUNE_VIT_LN": True},
}


def groups_of(dataset: str) -> list[list[str]]:
    """MoCoOp's template groups of a data set."""
    return config.read_yaml(config.CONFIGS / f"datasets/{dataset}.yaml")["TRAINER.MOCOOP.PROMPT_GROUPS"]


def regrouped(groups: Sequence[Sequence[str]], count: int) -> list[list[str]]:
    """The same templates in so many groups: neighbours are merged, or the largest groups (the first of them) halved.

    Raises:
        ValueError: there are fewer templates.
    """
    if count > sum(map(len, groups)):
        raise ValueError(f"{sum(map(len, groups))} templates cannot make {count} groups")
    parts = [list(group) for group in groups]
    while len(parts) < count:
        at = max(range(len(parts)), key=lambda place: len(parts[place]))
        half = (len(parts[at]) + 1) // 2
        parts[at : at + 1] = [parts[at][:half], parts[at][half:]]
    ends = [len(parts) * (number + 1) // count for number in range(count)]
    starts = [0, *ends[:-1]]
    return [[text for part in parts[a:b] for text in part] for a, b in zip(starts, ends, strict=True)]


def shuffled(groups: Sequence[Sequence[str]]) -> list[list[str]]:
    """Groups of the same sizes with the templates dealt out at random, always in the same way."""
    templates = [text for group in groups for text in group]
    random.Random(0).shuffle(templates)
    return [[templates.pop(0) for _ in group] for group in groups]


def options_of(tag: str, dataset: str) -> tuple[str, ...]:
    """The KEY VALUE words of an ablation on a data set; a key without a dot is one of TRAINER.MOCOOP."""
    if tag.startswith("groups"):
        pairs = {"PROMPT_GROUPS": regrouped(groups_of(dataset), int(tag.removeprefix("groups")))}
    elif tag == "random":
        pairs = {"PROMPT_GROUPS": shuffled(groups_of(dataset))}
    else:
        pairs = OPTIONS[tag]
    named = {key if "." in key else f"TRAINER.MOCOOP.{key}": value for key, value in pairs.items()}
    return tuple(word for key, value in named.items() for word in (key, str(value)))


# ---- the runs


def clean(settings: Settings) -> Settings:
    """Settings without what would make other runs of the same ones: only folders and JOBS count."""
    return Settings(data=settings.data, output=settings.output, jobs=settings.jobs)


def jobs_of(
    protocol: str,
    datasets: Sequence[str],
    seeds: Sequence[int],
    settings: Settings,
    names: Sequence[str] = tuple(METHODS),
) -> list[Job]:
    """The runs of a protocol, those that test other runs' models last; what trains nothing has a seed of its own.

    One data set after the other comes first, so that two runs at once do not draw the same one.
    """
    jobs = [
        job
        for method in names
        for seed in (seeds if method in TRAINED else [ZERO_SEED])
        for dataset in datasets
        for job in PROTOCOLS[protocol](Experiment(method, dataset, seed, settings))
    ]
    return sorted(jobs, key=lambda job: "--eval-only" in job.arguments)


def ablation_jobs(seed: int, settings: Settings) -> list[Job]:
    """The runs of all ablations."""
    jobs = []
    for tag in ABLATIONS:
        own = replace(settings, tag=tag)
        for dataset in ABLATION_SETS:
            jobs += PROTOCOLS["base2new"](Experiment("MoCoOp", dataset, seed, own, options_of(tag, dataset)))
    return jobs


PARTS = ("base2new", "ablations", "transfers", "fewshot")


def plan(settings: Settings, seed: int, parts: Sequence[str] = PARTS) -> list[Job]:
    """All runs of a seed, or those of some parts; with the last run of a part the seed counts for that part."""
    settings, jobs = clean(settings), []
    if "base2new" in parts:
        jobs += jobs_of("base2new", SETS, [seed], settings)
    if "ablations" in parts:
        jobs += jobs_of("base2new", ABLATION_SETS, [seed], settings, ["MoCoOp"]) + ablation_jobs(seed, settings)
    if "transfers" in parts:
        for protocol in ("cross_dataset", "domain_generalization"):
            jobs += jobs_of(protocol, [MAIN], [seed], settings)
    if "fewshot" in parts:
        jobs += jobs_of("fewshot", SETS, [seed], replace(settings, shots=SHOTS))
    return list(dict.fromkeys(jobs))  # parts share runs: both transfers have the same sources


def rate_job(method: str, rate: float, dataset: str, seed: int, settings: Settings) -> Job:
    """Training on the base classes with a learning rate, measured on their validation images only."""
    own = replace(clean(settings), output=settings.output / "rates", tag=f"lr{rate:g}")
    options = ("OPTIM.LR", f"{rate:g}", "TEST.SPLIT", "val")
    (job,) = STEPS["base2new_train"](Experiment(method, dataset, seed, own, options))
    return job
