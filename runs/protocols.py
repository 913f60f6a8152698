"""The benchmark protocols as lists of runs: config, folder, arguments. Nothing here imports torch."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

from .. import methods
from ..clip.names import is_demo
from ..config import CONFIGS, ConfigError, read_yaml
from .layout import BASE, NEW, Place, Setting, dataset_folder, read_path, run_folder, tagged
from .pool import Job

SHOTS = (1, 2, 4, 8, 16)
# Source data set -> its targets. The first are other data sets, the second shifted copies of the source.
TARGETS = {
    "imagenet": (
        *("caltech101", "oxford_pets", "stanford_cars", "oxford_flowers", "food101"),
        *("fgvc_aircraft", "sun397", "dtd", "eurosat", "ucf101"),
    ),
    "demo_icons": ("demo_symbols", "demo_objects"),
    "mini_things": (
        *("mini_emoji", "mini_logos", "mini_flags", "mini_letters", "mini_greek"),
        *("mini_hebrew", "mini_sky", "mini_math", "mini_music"),
    ),
}
SHIFTS = {
    "imagenet": ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r"),
    "demo_icons": ("demo_icons_sketch", "demo_icons_pixel", "demo_icons_tilted"),
    "mini_things": ("mini_things_pixel", "mini_things_noise", "mini_things_tilted"),
}


@dataclass(frozen=True)
class Settings:
    """What the environment sets for the scripts; see `from_environment`."""

    data: Path
    output: Path
    shots: tuple[int, ...] | None = None
    config: str | None = None
    tag: str | None = None
    source: str | None = None
    targets: tuple[str, ...] | None = None
    jobs: int | None = None


def is_user_file(dataset: str) -> bool:
    """Whether a data set is a yaml file of the user's own, whatever its name."""
    return dataset.endswith(".yaml") and Path(dataset).resolve().parent != CONFIGS / "datasets"


def default_config(method: str, dataset: str) -> str:
    """The config that a method runs with on a data set unless CFG says otherwise.

    Raises:
        ConfigError: the method's row names none.
    """
    config = methods.named(method).default_config("" if is_user_file(dataset) else Path(dataset).stem)
    if config is None:
        raise ConfigError([f"no default config for {method} on {dataset}; set CFG"])
    return config


def method_named(name: str) -> str:
    """A method's registry name from its script name ("coop") or itself.

    Raises:
        ConfigError: neither.
    """
    try:
        return methods.named(name).name
    except methods.MethodError as error:
        raise ConfigError([str(error)]) from None


@dataclass(frozen=True)
class Experiment:
    """One method on one data set with one seed: everything that the runs of a protocol share.

    `dataset` is a name of configs/datasets, or the path of a yaml file of one's own: its name then names the run, and
    its DATASET.ROOT, if it has one, counts instead of DATA.
    """

    method: str
    dataset: str
    seed: int
    settings: Settings
    options: tuple[str, ...] = ()

    @property
    def config(self) -> str:
        """The name of the method's config file."""
        return self.settings.config or default_config(self.method, self.dataset)

    @property
    def trained(self) -> bool:
        """Whether the method has anything to train."""
        return methods.named(self.method).trained

    @property
    def small_world(self) -> bool:
        """Whether it runs on the demo backbone, whose runs take seconds and little memory."""
        path = methods.named(self.method).folder / f"{self.config}.yaml"
        return path.is_file() and on_demo_backbone(path, path.stat().st_mtime_ns)

    def folder(self, protocol: str, part: str = "", *, shots: int, dataset: str | None = None) -> Path:
        """The folder of a run.

        Args:
            protocol, part: see `layout.LAYOUT`.
            shots: training images per class.
            dataset: another data set than the experiment's, e.g. a target.
        """
        place = Place(protocol, part, folder_name(dataset or self.dataset, self.settings.data), shots)
        setting = Setting(place, self.method, tagged(self.config, self.settings.tag))
        return run_folder(self.settings.output, setting, self.seed)

    def job(
        self, folder: Path, options: Sequence[object], model: Path | None = None, dataset: str | None = None
    ) -> Job:
        """One call of train.py.

        Args:
            folder: of the run.
            options: KEY VALUE pairs; the experiment's own options come after them and win.
            model: the run whose model is tested; None = train (or, where nothing is trained, test).
            dataset: another data set than the experiment's.
        """
        named = dataset or self.dataset
        data_file = named if named.endswith(".yaml") else CONFIGS / f"datasets/{named}.yaml"
        method_file = methods.named(self.method).folder / f"{self.config}.yaml"
        arguments = [] if has_root(named) else ["--root", self.settings.data]
        arguments += ["--seed", self.seed, "--trainer", self.method]
        arguments += ["--dataset-config-file", data_file, "--config-file", method_file, "--output-dir", folder]
        if model is not None:
            arguments += ["--eval-only"] + (["--model-dir", model] if self.trained else [])
        words = [str(word) for word in (*arguments, *options, *self.options)]
        return Job(folder, tuple(words), model if self.trained else None, self.title(folder))

    def title(self, folder: Path) -> str:
        """What the run of a folder is, in a few words: method, data set, shots, seed, and the protocol's part."""
        setting, seed = read_path(folder.relative_to(self.settings.output))
        place = setting.place
        part = f"{place.protocol}/{place.part}" if place.part else place.protocol
        named = f"{setting.method} {self.settings.tag}" if self.settings.tag else setting.method
        return f"{part}  {named}, {place.dataset}, {place.shots} shots, seed {seed}"


@cache  # sweeps ask for each of thousands of runs
def on_demo_backbone(config: Path, changed: int) -> bool:
    """Whether a config file, last changed at that time, names the demo backbone."""
    return is_demo(str(read_yaml(config).get("MODEL.BACKBONE.NAME", "")))


def has_root(dataset: str) -> bool:
    """Whether a data set is a yaml file of one's own that says where its images are, so that DATA does not."""
    return dataset.endswith(".yaml") and bool(read_yaml(Path(dataset)).get("DATASET.ROOT"))


def folder_name(dataset: str, data: Path) -> str:
    """The name of a data set in the folders of runs; a folder of images, where DATA is the data set, adds its own."""
    name = Path(dataset).stem if dataset.endswith(".yaml") else dataset
    return f"image_folder-{Path(os.path.abspath(data)).name}" if name == "image_folder" else name


def shots_of(experiment: Experiment) -> int:
    """The one number of shots of a protocol other than few-shot.

    Raises:
        ConfigError: SHOTS names several.
    """
    shots = experiment.settings.shots or (16,)
    if len(shots) > 1:
        raise ConfigError([f"SHOTS={' '.join(map(str, shots))}: only the few-shot protocol takes more than one number"])
    return shots[0]


def base2new_train(e: Experiment) -> list[Job]:
    """Train on the base classes (the first half) and test on them."""
    shots = shots_of(e)
    folder = e.folder("base2new", BASE, shots=shots)
    return [e.job(folder, ["DATASET.SUBSAMPLE_CLASSES", "base", "DATASET.NUM_SHOTS", shots])]


def base2new_test(e: Experiment) -> list[Job]:
    """Test on the new classes what base2new_train has trained."""
    shots = shots_of(e)
    model, folder = (e.folder("base2new", part, shots=shots) for part in (BASE, NEW))
    return [e.job(folder, ["DATASET.SUBSAMPLE_CLASSES", "new", "DATASET.NUM_SHOTS", shots], model)]


def fewshot(e: Experiment) -> list[Job]:
    """Train and test on all classes, with each number of shots (a method without training: once)."""
    jobs = []
    for shots in e.settings.shots or SHOTS:
        own, options = e, ()
        if not e.settings.config and not e.small_world:
            config, options = fewshot_config(e.method, e.dataset, shots)
            own = replace(e, settings=replace(e.settings, config=config))
        jobs.append(own.job(own.folder("fewshot", shots=shots), ["DATASET.NUM_SHOTS", shots, *options]))
    return jobs if e.trained else jobs[-1:]


def fewshot_config(method: str, dataset: str, shots: int) -> tuple[str | None, tuple[object, ...]]:
    """A method's own config for few-shot learning and its options for a number of shots; (None, ()) if it has none."""
    for pattern, config, options in methods.named(method).fewshot:
        if fnmatch(dataset, pattern):
            return config, options.get(shots, ())
    return None, ()


def xd_train(e: Experiment) -> list[Job]:
    """Train on all classes of the source and test on it: the models of cross-dataset and domain generalization."""
    shots = shots_of(e)
    return [e.job(e.folder("source", shots=shots), ["DATASET.NUM_SHOTS", shots])]


def source_of(target: str) -> str:
    """The source that a target is usually tested from.

    Raises:
        ConfigError: none is known.
    """
    for source in TARGETS:
        if target in (*TARGETS[source], *SHIFTS[source]):
            return source
    raise ConfigError([f"the target {target} is not known; say what the model was trained on: SOURCE=imagenet"])


def xd_test(e: Experiment) -> list[Job]:
    """Test the source's model on all classes and the full test split of another data set (the experiment's)."""
    source = e.settings.source or source_of(e.dataset)
    if not dataset_folder(e.settings.output, "source", "", source).is_dir():  # trained from a yaml file of one's own
        check_dataset(source)
    shots = shots_of(e)
    protocol = "domain_generalization" if e.dataset in SHIFTS.get(source, ()) else "cross_dataset"
    return [test_on(replace(e, dataset=source), e.dataset, protocol, shots)]


def test_on(e: Experiment, target: str, protocol: str, shots: int) -> Job:
    """The job that tests the model of a source (the experiment's data set) on a target."""
    folder = e.folder(protocol, folder_name(e.dataset, e.settings.data), shots=shots, dataset=target)
    return e.job(folder, ["DATASET.NUM_SHOTS", shots], e.folder("source", shots=shots), dataset=target)


def transfer(protocol: str, known: Mapping[str, tuple[str, ...]], e: Experiment) -> list[Job]:
    """Train on the source, test on every target.

    Args:
        protocol: folder of the tests.
        known: source -> targets.
        e: its data set is the source.

    Raises:
        ConfigError: no targets are known for the source and none are given; or one is not a data set.
    """
    targets = e.settings.targets or known.get(e.dataset)
    if not targets:
        have = "; ".join(f"{source}: {' '.join(names)}" for source, names in known.items())
        raise ConfigError(
            [f"{protocol}: no targets are known for {e.dataset} (known are {have}); name them: TARGETS='dtd eurosat'"]
        )
    for target in targets:
        check_dataset(target)
    return xd_train(e) + [test_on(e, target, protocol, shots_of(e)) for target in targets]


# What a script of a method does.
STEPS = {step.__name__: step for step in (base2new_train, base2new_test, fewshot, xd_train, xd_test)}

# What scripts/run_protocol.sh does.
PROTOCOLS = {
    "base2new": lambda e: base2new_train(e) + base2new_test(e),
    "fewshot": fewshot,
    "cross_dataset": lambda e: transfer("cross_dataset", TARGETS, e),
    "domain_generalization": lambda e: transfer("domain_generalization", SHIFTS, e),
}


def check_dataset(dataset: str) -> None:
    """Refuse a data set that has no config.

    Raises:
        ConfigError: no such file; names what there is.
    """
    folder = CONFIGS / "datasets"
    if not (Path(dataset) if dataset.endswith(".yaml") else folder / f"{dataset}.yaml").is_file():
        names = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
        raise ConfigError([f"data set {dataset!r} has no config (one of: {names}; or the path of a yaml file)"])


def check_files(jobs: Sequence[Job]) -> None:
    """Refuse configs of methods and data sets that are not there, before hours of runs that come first.

    Raises:
        ConfigError: naming each missing file, and what its folder has.
    """
    named = {word for job in jobs for word in job.arguments[: job.arguments.index("--output-dir")]}
    problems = []
    for path in sorted(Path(word) for word in named if word.endswith(".yaml") and not Path(word).is_file()):
        there = ", ".join(sorted(other.stem for other in path.parent.glob("*.yaml")))
        problems.append(f"config {path} does not exist" + (f" (there are: {there})" if there else ""))
    if problems:
        raise ConfigError(problems)
