"""The benchmark protocols as lists of runs (config, folder, arguments), and the command behind `scripts/`.

    python protocols.py base2new_train MoCoOp eurosat 1 [KEY VALUE ...]   # what scripts/mocoop/base2new_train.sh calls
    python protocols.py run base2new demo_icons ["zsclip mocoop" ["1 2" [KEY VALUE ...]]]   # scripts/run_protocol.sh

A run's folder is `<output>/<protocol>/[<part>/]<data set>/shots_<n>/<method>/<config>[-TAG]/seed<k>`. Nothing here
imports torch.
"""

import argparse
import os
import re
import runpy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parent
if __name__ in ("__main__", "__mp_main__"):  # started as a file: train.py's guard of the import path
    runpy.run_path(str(ROOT / "train.py"), run_name="__mp_main__")

from mocoop.config import ConfigError, read_yaml  # noqa: E402 (after the guard)
from mocoop.plugin import UNTRAINED  # noqa: E402
from mocoop.runner import Job, run_jobs  # noqa: E402
from mocoop.toolbox.dassl.utils import cores  # noqa: E402

METHODS = {
    "zsclip": "ZeroshotCLIP",
    "zsclip2": "ZeroshotCLIP2",
    "coop": "CoOp",
    "cocoop": "CoCoOp",
    "lasp": "LASP",
    "mocoop": "MoCoOp",
}
COMPARED = ("zsclip", "coop", "cocoop", "lasp", "mocoop")
SHOTS = (1, 2, 4, 8, 16)
# Source data set -> its targets. The first are other data sets, the second shifted copies of the source.
TARGETS = {
    "imagenet": (
        *("caltech101", "oxford_pets", "stanford_cars", "oxford_flowers", "food101"),
        *("fgvc_aircraft", "sun397", "dtd", "eurosat", "ucf101"),
    ),
    "demo_icons": ("demo_symbols", "demo_objects"),
}
SHIFTS = {
    "imagenet": ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r"),
    "demo_icons": ("demo_icons_sketch", "demo_icons_pixel", "demo_icons_tilted"),
}
# (method, data set, config), the first match counts. CoOp and CoCoOp: as in CoCoOp's scripts. LASP: as in its logs (no
# ImageNet there). MoCoOp: its authors do not say which schedule belongs to which data set; this is LASP's choice among
# the schedules of the same names, a plausible guess.
DEFAULT_CONFIGS = (
    ("*", "demo_*", "demo"),
    ("ZeroshotCLIP*", "*", "vit_b16"),
    ("CoOp", "imagenet*", "vit_b16_ep50_ctxv1"),
    ("CoOp", "*", "vit_b16_ctxv1"),
    ("CoCoOp", "*", "vit_b16_c4_ep10_batch1_ctxv1"),
    ("LASP", "imagenet*", "vit_b16_c4_ep10_batch1_cls_t2t_5_wcl_25_g1_b"),
    ("LASP", "food101", "vit_b16_c4_ep10_batch1_cls_t2t_5_wcl_25_g1_b"),
    ("LASP", "caltech101", "vit_b16_c4_ep50_batch32_cls_t2t_10_wcl_25_g1_b_lr32"),
    ("LASP", "dtd", "vit_b16_c4_ep50_batch32_cls_t2t_10_wcl_25_g1_b_lr32"),
    ("LASP", "ucf101", "vit_b16_c4_ep50_batch32_cls_t2t_10_wcl_25_g1_b_lr32"),
    ("LASP", "eurosat", "vit_b16_c4_ep300_batch32_cls_t2t_5_wcl_25_g1_b_lr32"),
    ("LASP", "*", "vit_b16_c4_ep25_batch32_cls_t2t_5_wcl_25_g1_b_lr32"),
    ("MoCoOp", "imagenet*", "vit_b16_ep10_batch1_imagenet"),
    ("MoCoOp", "food101", "vit_b16_ep10_batch1"),
    ("MoCoOp", "caltech101", "vit_b16_ep50_batch32"),
    ("MoCoOp", "dtd", "vit_b16_ep50_batch32"),
    ("MoCoOp", "ucf101", "vit_b16_ep50_batch32"),
    ("MoCoOp", "eurosat", "vit_b16_ep300_batch32"),
    ("MoCoOp", "*", "vit_b16_ep25_batch32"),
)
# CoOp's few-shot experiments have 16 context vectors and train longer with more shots (on ImageNet always 50 epochs).
COOP_FEWSHOT_CONFIG = "vit_b16"
COOP_FEWSHOT_EPOCHS = {1: 50, 2: 100, 4: 100}


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


def numbers(name: str, text: str) -> tuple[int, ...]:
    """The whole numbers of a setting such as SHOTS="1 2 4".

    Raises:
        ConfigError: something else is there.
    """
    try:
        return tuple(int(word) for word in text.split())
    except ValueError:
        raise ConfigError([f"{name}={text!r}: expected whole numbers with spaces between"]) from None


def from_environment(env: Mapping[str, str]) -> Settings:
    """The settings of the scripts. All are optional; empty is the same as absent.

    DATA     folder of the data sets (default: `data` in the checkout)
    OUTPUT   folder for the runs (default: `output` in the checkout)
    SHOTS    training images per class (default: 16; few-shot: all of 1 2 4 8 16)
    CFG      name of the method's config (default: see DEFAULT_CONFIGS)
    TAG      added to the config's name in the run's folder, to keep runs with other options apart
    SOURCE   data set that the tested model was trained on (default: see TARGETS and SHIFTS)
    TARGETS  what cross-dataset or domain generalization tests (default: see TARGETS and SHIFTS)
    JOBS     runs at once (default: 1; on the demo world one per core, at most 4)

    Relative folders are relative to where you are.

    Raises:
        ConfigError: SHOTS or JOBS is not a number; TAG is no part of a folder's name.
    """
    given = {name: value for name, value in env.items() if value.strip()}
    jobs = numbers("JOBS", given["JOBS"]) if "JOBS" in given else None
    if jobs is not None and (len(jobs) != 1 or jobs[0] < 1):
        raise ConfigError([f"JOBS={given['JOBS']!r}: expected one whole number, at least 1"])
    if Path(given.get("TAG", "")).name != given.get("TAG", ""):
        raise ConfigError([f"TAG={given['TAG']!r}: expected part of a folder's name, without /"])
    return Settings(
        data=Path.cwd() / given.get("DATA", ROOT / "data"),
        output=Path.cwd() / given.get("OUTPUT", ROOT / "output"),
        shots=numbers("SHOTS", given["SHOTS"]) if "SHOTS" in given else None,
        config=given.get("CFG"),
        tag=given.get("TAG"),
        source=given.get("SOURCE"),
        targets=tuple(given["TARGETS"].split()) if "TARGETS" in given else None,
        jobs=jobs[0] if jobs else None,
    )


def is_own(dataset: str) -> bool:
    """Whether a data set is a yaml file of one's own, which is no other data set, however the file is called."""
    return dataset.endswith(".yaml") and Path(dataset).resolve().parent != ROOT / "configs/datasets"


def default_config(method: str, dataset: str) -> str:
    """The config that a method runs with on a data set unless CFG says otherwise.

    Raises:
        ConfigError: the method is not one of ours.
    """
    named = "" if is_own(dataset) else Path(dataset).stem
    for pattern, datasets, config in DEFAULT_CONFIGS:
        if fnmatch(method, pattern) and fnmatch(named, datasets) and method in METHODS.values():
            return config
    raise ConfigError([f"no default config for {method}; set CFG (methods: {', '.join(METHODS.values())})"])


def method_named(name: str) -> str:
    """A method's registry name from its script name ("coop") or itself.

    Raises:
        ConfigError: neither.
    """
    if name in METHODS.values():
        return name
    if name not in METHODS:
        raise ConfigError([f"method {name!r} is not known (one of: {', '.join(METHODS)})"])
    return METHODS[name]


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
        return self.method not in UNTRAINED

    def folder(self, *parts: str, shots: int, dataset: str | None = None) -> Path:
        """The folder of a run.

        Args:
            parts: the protocol, and the part of it if it has parts.
            shots: training images per class.
            dataset: another data set than the experiment's, e.g. a target.
        """
        config = self.config + (f"-{self.settings.tag}" if self.settings.tag else "")
        name = label(dataset or self.dataset, self.settings.data)
        return self.settings.output.joinpath(*parts, name, f"shots_{shots}", self.method, config, f"seed{self.seed}")

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
        files = ROOT / "configs"
        named = dataset or self.dataset
        data_file = named if named.endswith(".yaml") else files / f"datasets/{named}.yaml"
        # ZeroshotCLIP2 has ZeroshotCLIP's configs.
        method_file = files / f"trainers/{self.method.removesuffix('2')}/{self.config}.yaml"
        arguments = [] if has_root(named) else ["--root", self.settings.data]
        arguments += ["--seed", self.seed, "--trainer", self.method]
        arguments += ["--dataset-config-file", data_file, "--config-file", method_file, "--output-dir", folder]
        if model is not None:
            arguments += ["--eval-only"] + (["--model-dir", model] if self.trained else [])
        words = [str(word) for word in (*arguments, *options, *self.options)]
        return Job(folder, tuple(words), model if self.trained else None)


def has_root(dataset: str) -> bool:
    """Whether a data set is a yaml file of one's own that says where its images are, so that DATA does not."""
    return dataset.endswith(".yaml") and bool(read_yaml(Path(dataset)).get("DATASET.ROOT"))


def label(dataset: str, data: Path) -> str:
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
    folder = e.folder("base2new", "train_base", shots=shots)
    return [e.job(folder, ["DATASET.SUBSAMPLE_CLASSES", "base", "DATASET.NUM_SHOTS", shots])]


def base2new_test(e: Experiment) -> list[Job]:
    """Test on the new classes what base2new_train has trained."""
    shots = shots_of(e)
    model, folder = (e.folder("base2new", part, shots=shots) for part in ("train_base", "test_new"))
    return [e.job(folder, ["DATASET.SUBSAMPLE_CLASSES", "new", "DATASET.NUM_SHOTS", shots], model)]


def fewshot(e: Experiment) -> list[Job]:
    """Train and test on all classes, with each number of shots (a method without training: once)."""
    jobs = []
    for shots in e.settings.shots or SHOTS:
        options = ["DATASET.NUM_SHOTS", shots]
        own = e
        if e.method == "CoOp" and not e.settings.config and e.config != "demo":
            own = replace(e, settings=replace(e.settings, config=COOP_FEWSHOT_CONFIG))
            epochs = 50 if e.dataset == "imagenet" else COOP_FEWSHOT_EPOCHS.get(shots)
            options += [] if epochs is None else ["OPTIM.MAX_EPOCH", epochs]
        jobs.append(own.job(own.folder("fewshot", shots=shots), options))
    return jobs if e.trained else jobs[-1:]


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
    raise ConfigError([f"{target} is no known target; say what the model was trained on: SOURCE=imagenet"])


def xd_test(e: Experiment) -> list[Job]:
    """Test the source's model on all classes and the full test split of another data set (the experiment's)."""
    source = e.settings.source or source_of(e.dataset)
    if not (e.settings.output / "source" / source).is_dir():  # trained from a yaml file of one's own
        check_dataset(source)
    shots = shots_of(e)
    protocol = "domain_generalization" if e.dataset in SHIFTS.get(source, ()) else "cross_dataset"
    return [test_on(replace(e, dataset=source), e.dataset, protocol, shots)]


def test_on(e: Experiment, target: str, protocol: str, shots: int) -> Job:
    """The job that tests the model of a source (the experiment's data set) on a target."""
    folder = e.folder(protocol, label(e.dataset, e.settings.data), shots=shots, dataset=target)
    return e.job(folder, ["DATASET.NUM_SHOTS", shots], e.folder("source", shots=shots), dataset=target)


def transfer(protocol: str, known: Mapping[str, tuple[str, ...]], e: Experiment) -> list[Job]:
    """Train on the source, test on every target.

    Args:
        protocol: folder of the tests.
        known: source -> targets.
        e: its data set is the source.

    Raises:
        ConfigError: no targets are known for the source and none given; one is no data set.
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
    folder = ROOT / "configs/datasets"
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


def workers_for(dataset: str, settings: Settings) -> int:
    """How many runs go at once: JOBS, else one per core, at most 4, for the small demo world, else one."""
    if settings.jobs is not None:
        return settings.jobs
    return min(cores(), 4) if Path(dataset).name.startswith("demo_") and not is_own(dataset) else 1


def run_step(name: str, args: Sequence[str], settings: Settings) -> int:
    """One script of a method: METHOD DATASET SEED [KEY VALUE ...]; returns the exit code.

    Raises:
        ConfigError: arguments are missing or not known.
    """
    if len(args) < 3 or not re.fullmatch(r"-?[0-9]+", args[2]):
        usage = f"scripts/<method>/{name}.sh DATASET SEED [KEY VALUE ...], e.g. demo_icons 1 OPTIM.MAX_EPOCH 5"
        raise ConfigError([f"usage: bash {usage}"])
    check_dataset(args[1])
    experiment = Experiment(method_named(args[0]), args[1], int(args[2]), settings, tuple(args[3:]))
    jobs = STEPS[name](experiment)
    check_files(jobs)
    return run_jobs(jobs, settings.jobs or 1, last=True)


def run_protocol(args: Sequence[str], settings: Settings) -> int:
    """A whole protocol: PROTOCOL DATASET [METHODS [SEEDS [KEY VALUE ...]]], then its table; returns the exit code.

    Raises:
        ConfigError: arguments are missing or not known.
    """
    options = tuple(args[4:])
    unquoted = len(options) % 2 or any(re.fullmatch(r"-?[0-9]+", key) for key in options[::2])
    if len(args) < 2 or unquoted or args[0] not in PROTOCOLS:
        usage = f"run_protocol.sh {'|'.join(PROTOCOLS)} DATASET ['zsclip coop mocoop' ['1 2 3' [KEY VALUE ...]]]"
        raise ConfigError([f"usage: bash scripts/{usage}"])
    protocol, dataset = args[:2]
    check_dataset(dataset)
    methods = (args[2] if len(args) > 2 else " ".join(COMPARED)).split()
    seeds = numbers("seeds", args[3] if len(args) > 3 else "1 2 3")
    experiments = [Experiment(method_named(m), dataset, seed, settings, options) for m in methods for seed in seeds]
    jobs = [job for experiment in experiments for job in PROTOCOLS[protocol](experiment)]
    check_files(jobs)
    code = run_jobs(jobs, workers_for(dataset, settings))
    if code == 0:
        from mocoop import results

        print()
        code = results.main([str(settings.output), "--protocol", protocol, "--dataset", label(dataset, settings.data)])
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Run a step of a method or a whole protocol; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="protocols.py", description="The runs behind scripts/.", epilog=from_environment.__doc__.split("\n\n")[1]
    )
    parser.add_argument("what", choices=[*STEPS, "run"])
    parser.add_argument("args", nargs=argparse.REMAINDER, help="see the head of this file")
    given = parser.parse_args(argv)
    try:
        settings = from_environment(os.environ)
        if given.what == "run":
            return run_protocol(given.args, settings)
        return run_step(given.what, given.args, settings)
    except ConfigError as error:
        print("Error: " + "\n".join(error.problems), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted. The same command again goes on.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
