"""`mocoop tune`: search a method's settings on validation images."""

import argparse
import csv
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import methods, train
from ..config import ConfigError, read_yaml
from ..config.merge import read_value
from ..runs import search
from ..runs.protocols import Experiment, Settings, check_dataset, check_files, method_named
from ..toolbox.dassl.errors import MissingPackage, optional
from ..toolbox.dassl.utils import atomic_write, write_text
from .arguments import positive
from .protocol import check_folder, home, run_all

BEST, TRIALS, FIGURE, STORAGE = "best.yaml", "trials.csv", "tune.png", "tune.db"


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="mocoop tune",
        description="Search a method's settings on the validation images of a data set; test images are never looked "
        "at. The same command goes on after an interrupt; started again meanwhile, here or on a machine that sees the "
        "same folder, it joins in.",
        epilog="Without --space, the learning rate (a tenth to ten times the config's), the epochs (half to twice) and "
        "what is special to the method vary. A space is a yaml file: OPTIM.LR: {low: 0.001, high: 0.1, log: true}; "
        "OPTIM.MAX_EPOCH: [10, 20, 50]; TRAINER.MOCOOP.PROMPT_GROUPS: {groups: [2, 4, 6]} deals the data set's "
        "templates out in so many groups.",
    )
    add = parser.add_argument
    add("method", metavar="METHOD", help="a name that `mocoop list methods` prints")
    add("dataset", metavar="DATASET", help="a name that `mocoop list datasets` prints, or a yaml file of your own")
    add("options", nargs="*", metavar="KEY VALUE", help="settings that do not vary")
    add("--out", type=Path, required=True, help="folder of the search: its trials, best.yaml, trials.csv, tune.png")
    add("--trials", type=positive, default=20, help="trials in all (default: %(default)s)")
    add("--space", type=Path, help="yaml file that says what varies")
    add("--classes", choices=search.CLASSES, default="all", help="classes to train and validate on (default: all)")
    add("--shots", type=positive, default=16, help="training images per class (default: %(default)s)")
    add("--seed", type=int, default=1, help="of the shots, the training and the search (default: %(default)s)")
    add("--data", type=Path, help="folder of the data sets (default: DATA, else data in the checkout)")
    add("--config", help="name of the method's config (default: the method's own for the data set)")
    add("--storage", help="where trials are kept, as SQLAlchemy writes it (default: sqlite, tune.db in --out)")
    return parser


def search_of(args: argparse.Namespace) -> search.Search:
    """What the arguments ask for; everything is checked before anything is run.

    Raises:
        ConfigError: a name, an option, the space or one of its values cannot be used.
    """
    row = methods.named(method_named(args.method))
    if not row.trained:
        raise ConfigError([f"{row.name} has nothing to train, so there is nothing to search"])
    check_dataset(args.dataset)
    if len(args.options) % 2:
        raise ConfigError([f"options come as KEY VALUE pairs; {args.options[-1]!r} has no value"])
    search.check_keys(args.options[::2])
    data, out = Path.cwd() / (args.data or os.environ.get("DATA") or home() / "data"), Path.cwd() / args.out
    settings = Settings(data=data, output=out, config=args.config)
    experiment = Experiment(row.name, args.dataset, args.seed, settings, tuple(args.options))
    wanted = search.Search(experiment, args.classes, args.shots, ())
    check_files([wanted.job(0, ())])
    cfg, _ = train.config_of(wanted.job(0, ()).arguments)
    fixed = set(args.options[::2])
    if args.space:
        raw = search.fold(read_yaml(args.space))
        search.check_keys(raw)
        if twice := sorted(fixed & set(raw)):
            raise ConfigError([f"{twice[0]} is given as an option and varies in {args.space}; leave one out"])
    else:
        raw = {key: described for key, described in search.default_space(row, cfg).items() if key not in fixed}
    space = search.parse_space(raw, lambda key: search.groups_of(cfg, key))
    wanted = search.Search(experiment, args.classes, args.shots, space)
    search.check_space(wanted, train.config_of)
    return wanted


def said(study: Any, trials: int) -> str:  # noqa: ANN401
    """What is printed after a trial."""
    done = search.ended(study)
    last = max(done, key=lambda trial: trial.datetime_complete, default=None)
    if last is None:
        return ""
    value = "failed" if last.value is None else f"{last.value:.2f}% on validation images"
    try:
        best = f"; best so far {study.best_value:.2f}% (trial {study.best_trial.number})"
    except ValueError:  # none has ended well
        best = ""
    shown = ", ".join(f"{key} {of_trial(v)}" for key, v in last.params.items())
    return f"[{len(done)}/{trials}] trial {last.number}: {value} with {shown}{best}"


def of_trial(value: object) -> str:
    """A value of a trial, short."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def trials_csv(study: Any) -> str:  # noqa: ANN401
    """All trials that have ended: number, accuracy in percent, state, seconds, settings."""
    trials = search.ended(study)
    keys = list(dict.fromkeys(key for trial in trials for key in trial.params))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "folder", "val_accuracy", "state", "seconds", *keys])
    for trial in trials:
        seconds = f"{trial.duration.total_seconds():.1f}"
        values = [trial.params.get(key, "") for key in keys]
        folder = f"trial{search.folder_number(trial)}"
        writer.writerow([trial.number, folder, trial.value, trial.state.name.lower(), seconds, *values])
    return text.getvalue()


def best_yaml(wanted: search.Search, study: Any) -> str:  # noqa: ANN401
    """The best trial's settings as a config file for `--config-file`."""
    import yaml

    best, e = study.best_trial, wanted.experiment
    words = best.user_attrs["options"]
    chosen = {key: read_value(value, None) for key, value in zip(words[::2], words[1::2], strict=True)}
    nested: dict[str, Any] = {}
    for key, value in search.config_with(wanted, chosen).items():
        *nodes, name = key.split(".")
        node = nested
        for part in nodes:
            node = node.setdefault(part, {})
        node[name] = value
    trials, where = len(search.ended(study)), Path(e.dataset).stem
    head = (
        f"# {e.method}, found by `mocoop tune`: trial {best.number} of {trials}, {best.value:.2f}% on\n"
        f"# validation images of {where} ({wanted.classes} classes, {wanted.shots} shots, seed {e.seed}); starts from\n"
        f"# {e.config}.yaml.\n"
    )
    return head + yaml.safe_dump(nested, sort_keys=False, allow_unicode=True, width=120)


def draw(wanted: search.Search, study: Any, path: Path) -> None:  # noqa: ANN401
    """The figure: accuracy by trial with the best so far, then accuracy by each setting.

    Raises:
        MissingPackage: matplotlib is not installed.
    """
    optional("matplotlib", "figures")
    from matplotlib.figure import Figure

    good = [trial for trial in search.ended(study) if trial.value is not None]
    values = [trial.value for trial in good]
    figure = Figure(figsize=(3.2 * (1 + len(wanted.space)), 3.2), layout="constrained")
    first, *others = figure.subplots(1, 1 + len(wanted.space), sharey=True)
    first.plot(range(1, len(good) + 1), values, "o", color="#0072B2")
    first.plot(range(1, len(good) + 1), [max(values[: n + 1]) for n in range(len(good))], color="#D55E00")
    first.set(xlabel="trial (line: the best so far)", ylabel="accuracy on validation images (%)")
    for axes, dimension in zip(others, wanted.space, strict=True):
        given = [trial.params[dimension.key] for trial in good]
        axes.plot(given if isinstance(dimension, search.Range) else list(map(str, given)), values, "o", color="#0072B2")
        axes.set_xlabel(dimension.key, fontsize="small")
        if getattr(dimension, "log", False):
            axes.set_xscale("log")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)


def write_out(wanted: search.Search, study: Any, out: Path) -> None:  # noqa: ANN401
    """Write what a search has found so far: trials.csv, best.yaml and the figure."""
    write_text(trials_csv(study), out / TRIALS)
    if all(trial.value is None for trial in search.ended(study)):
        return
    write_text(best_yaml(wanted, study), out / BEST)
    try:
        draw(wanted, study, out / FIGURE)
    except MissingPackage as error:
        print(f"Note: no {FIGURE}: {error}")


def main(argv: Sequence[str] | None = None) -> int:
    """Search; returns the exit code."""
    args = build_parser().parse_intermixed_args(argv)
    wanted = search_of(args)
    optuna = optional("optuna", "tune")
    optuna.logging.set_verbosity(
        optuna.logging.ERROR
    )  # it warns of failed trials with a traceback; we say so ourselves
    check_folder("--out", Path.cwd() / args.out).mkdir(parents=True, exist_ok=True)
    url = args.storage or f"sqlite:///{Path.cwd() / args.out / STORAGE}"
    study = search.open_study(wanted, url, optuna)
    with search.storage_at_hand():
        if not study.get_trials(deepcopy=False):
            cfg, _ = train.config_of(wanted.job(0, ()).arguments)
            study.enqueue_trial(search.as_configured(wanted.space, cfg))

    def watch(study: Any) -> None:  # noqa: ANN401
        print(said(study, args.trials), flush=True)
        write_out(wanted, study, args.out)

    try:
        search.go_on(wanted, study, args.trials, lambda job: run_all([job], 1), watch)
    except KeyboardInterrupt:
        print("Interrupted. The same command again goes on.", file=sys.stderr)
        return 130
    write_out(wanted, study, args.out)
    if not (args.out / BEST).is_file():
        print("Error: no trial ended well; see what they printed above", file=sys.stderr)
        return 1
    print(
        f"{args.out / BEST}: {study.best_value:.2f}% on validation images; use it with train.py --trainer "
        f"{wanted.experiment.method} --config-file"
    )
    return 0
