"""A search over a method's settings: what may vary, and the trials, each a run measured on validation images.

Optuna chooses the settings and keeps the trials, in a file (SQLite) or another storage that several machines share. A
trial is a run like any other, below the search's folder: it is resumed after a kill, and its numbers are read from
`results.json`. Test images are never looked at. Nothing here imports torch.
"""

import json
import math
import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from yacs.config import CfgNode

from .. import methods
from ..config import ConfigError, flatten, read_yaml
from ..config.checks import dataset_setting
from ..config.keys import is_number
from ..config.merge import read_value
from ..toolbox.dassl.errors import ExpectedError, WrongValue
from ..toolbox.dassl.utils import printable
from ..trainers.records import read_accuracies
from .pool import Job
from .protocols import STEPS, Experiment

# Which step of a protocol a trial is, by the classes that it is trained on.
CLASSES = {"all": "xd_train", "base": "base2new_train"}
SPLIT = "val"
HEARTBEAT, GRACE = 20, 120  # seconds: a trial whose process shows no life for so long was killed
LOCKED = 60  # seconds to wait for a file that another process writes to (SQLite's own: 5)
ATTEMPTS = 5  # to open a storage that another process is creating
MEANWHILE = ("already exists", "locked", "UNIQUE constraint")  # what the database says then
FAILURES = 5  # trials that fail one after the other: then it is not the settings
# Keys that a search gives its runs itself, and how to change them.
OWN_KEYS = {
    "TEST.SPLIT": "trials are measured on validation images, never on test images",
    "TEST.NO_TEST": "trials are measured on validation images",
    "OUTPUT_DIR": "give --out",
    "SEED": "give --seed",
    "DATASET.ROOT": "give --data",
    "DATASET.NAME": "give another DATASET",
    "DATASET.NUM_SHOTS": "give --shots",
    "DATASET.SUBSAMPLE_CLASSES": "give --classes",
    "TRAINER.NAME": "give another METHOD",
}
CONTINUES, ENDED = "continues", "ended"  # marks of trials: whose folder it goes on in; its run came to its end


class TrialFailed(ExpectedError, RuntimeError):
    """A trial's run ended with an error."""


class StorageFailed(ExpectedError, OSError):
    """The storage of the trials cannot be used any more."""


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, on a logarithmic scale if `log`."""

    key: str
    low: float
    high: float
    log: bool = False

    def suggest(self, trial: Any) -> object:  # noqa: ANN401 - optuna is optional
        """The value of a trial."""
        return (trial.suggest_int if self.whole else trial.suggest_float)(self.key, self.low, self.high, log=self.log)

    @property
    def whole(self) -> bool:
        """Whether only whole numbers count: both ends are such."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def values(self) -> list[object]:
        """The values at its ends."""
        return [self.low, self.high]


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    key: str
    options: tuple[object, ...]

    def suggest(self, trial: Any) -> object:  # noqa: ANN401
        """The value of a trial."""
        return trial.suggest_categorical(self.key, self.options)

    def values(self) -> list[object]:
        """All of them."""
        return list(self.options)


@dataclass(frozen=True)
class Groups:
    """So many groups of templates: all templates of the data set in their order, dealt out in equal parts."""

    key: str
    numbers: tuple[int, ...]
    templates: tuple[str, ...]

    def suggest(self, trial: Any) -> list[list[str]]:  # noqa: ANN401
        """The groups of a trial."""
        return self.deal(trial.suggest_categorical(self.key, self.numbers))

    def deal(self, number: int) -> list[list[str]]:
        """The templates in so many groups."""
        return [part.tolist() for part in np.array_split(np.array(self.templates, dtype=object), number)]

    def values(self) -> list[object]:
        """All of them."""
        return [self.deal(number) for number in self.numbers]


Space = Sequence[Range | Choice | Groups]


def parse_space(raw: Mapping[str, object], groups_of: Callable[[str], list[list[str]]]) -> Space:
    """What may vary, from its description.

    Args:
        raw: config key -> a list of values, {"low", "high"[, "log"]}, or {"groups": [2, 4]} for groups of templates.
        groups_of: the groups of templates that a key has without the search.

    Raises:
        ConfigError: listing every key whose description is none of these.
    """
    space, problems = [], []
    for key, described in raw.items():
        try:
            space.append(dimension(key, described, groups_of))
        except WrongValue as error:
            problems.append(f"{key}: {error}")
    if not raw:
        problems.append("nothing may vary: the space is empty")
    if problems:
        raise ConfigError(problems)
    return space


def fold(flat: Mapping[str, object]) -> dict[str, object]:
    """A space as a config file's reader flattens it ("OPTIM.LR.low"), by config key."""
    space: dict[str, object] = {}
    for path, value in flat.items():
        key, _, word = path.rpartition(".")
        if word in ("low", "high", "log", "groups"):
            space.setdefault(key, {})[word] = value
        else:
            space[path] = value
    return space


def dimension(key: str, described: object, groups_of: Callable[[str], list[list[str]]]) -> Range | Choice | Groups:
    """One key of `parse_space`.

    Raises:
        WrongValue: its description is none that is known.
    """
    if isinstance(described, list | tuple) and described and all(map(is_plain, described)):
        return Choice(key, tuple(read_value(value, None) for value in described))
    if isinstance(described, Mapping) and set(described) == {"groups"}:
        templates = tuple(template for group in groups_of(key) for template in group)
        numbers = described["groups"]
        if isinstance(numbers, list | tuple) and numbers and all(type(n) is int for n in numbers):
            wrong = [n for n in numbers if not 1 <= n <= len(templates)]
            if wrong:
                raise WrongValue(f"{wrong[0]} groups cannot be made of {len(templates)} templates")
            return Groups(key, tuple(numbers), templates)
    if isinstance(described, Mapping) and {"low", "high"} <= set(described) <= {"low", "high", "log"}:
        low, high = (read_value(described[end], None) for end in ("low", "high"))  # YAML takes 1e-3 for a text
        log = described.get("log", False)
        if all(type(n) in (int, float) and math.isfinite(n) for n in (low, high)) and isinstance(log, bool):
            if low < high and not (log and low <= 0):
                return Range(key, low, high, log)
    raise WrongValue(
        f"expected a list of values, {{low: 0.001, high: 0.1, log: true}} (low below high, above 0 with log) or "
        f"{{groups: [2, 4]}}, found {printable(str(described))[:200]}"
    )


def is_plain(value: object) -> bool:
    """Whether a value can be kept as a choice: a text, a finite number, true or false."""
    return isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value))


def default_space(row: methods.Method, cfg: CfgNode) -> dict[str, object]:
    """What varies unless a file says so: learning rate and epochs around the config's, and what the method's row names.

    Args:
        row: of the method; cfg: its config on the data set.
    """
    rate, epochs = cfg.OPTIM.LR, cfg.OPTIM.MAX_EPOCH
    space = {
        "OPTIM.LR": {"low": rate / 10, "high": rate * 10, "log": True},
        "OPTIM.MAX_EPOCH": sorted({max(1, epochs // 2), epochs, 2 * epochs}),
    }
    return space | {f"TRAINER.{row.node}.{name}": described for name, described in row.search.items()}


@dataclass(frozen=True)
class Search:
    """What is searched.

    Attributes:
        experiment: method, data set, seed, and the settings that stay; its output folder is the search's.
        classes: a key of `CLASSES`; shots: training images per class.
        space: what may vary.
    """

    experiment: Experiment
    classes: str
    shots: int
    space: Space

    def job(self, number: int, options: Sequence[object]) -> Job:
        """The run of a trial: KEY VALUE options beside those of the experiment."""
        settings = replace(self.experiment.settings, shots=(self.shots,), tag=f"trial{number}")
        words = tuple(map(str, ("TEST.SPLIT", SPLIT, *self.experiment.options, *options)))
        (job,) = STEPS[CLASSES[self.classes]](replace(self.experiment, settings=settings, options=words))
        return job

    def identity(self) -> dict[str, object]:
        """What all trials of a study must share, as JSON."""
        e = self.experiment
        return {
            "method": e.method,
            "config": e.config,
            "data set": Path(e.dataset).name,
            "seed": e.seed,
            "shots": self.shots,
            "classes": self.classes,
            "options": list(e.options),
            "space": [[d.key, *map(str, d.values())] + [str(getattr(d, "log", ""))] for d in self.space],
        }


def option_words(values: Mapping[str, object]) -> list[object]:
    """Settings as KEY VALUE words."""
    return [word for key, value in values.items() for word in (key, value if isinstance(value, str) else repr(value))]


def check_keys(keys: Iterable[str]) -> None:
    """Refuse options and what varies where they are the search's own.

    Raises:
        ConfigError: naming each, and what to do instead.
    """
    if problems := [f"{key} cannot be set in a search: {OWN_KEYS[key]}" for key in keys if key in OWN_KEYS]:
        raise ConfigError(problems)


def check_space(search: Search, config_of: Callable) -> None:
    """Try the ends of every range and every choice against the checks of the configs.

    Raises:
        ConfigError: a key that is not known, or a value that it may not have.
    """
    problems = {}
    for dimension_ in search.space:
        for value in dimension_.values():
            try:
                config_of(search.job(0, option_words({dimension_.key: value})).arguments)
            except ConfigError as error:
                problems.update(dict.fromkeys(error.problems))
    if problems:
        raise ConfigError(list(problems))


def as_configured(space: Space, cfg: CfgNode) -> dict[str, object]:
    """The config's own values of what varies, where a search may take them: they are the first trial."""
    values = {}
    for d in space:
        value = flatten(cfg)[d.key]
        whole = isinstance(d, Range) and isinstance(d.low, int) and isinstance(d.high, int)
        if (
            isinstance(d, Range)
            and is_number(value)
            and d.low <= value <= d.high
            and (not whole or value == int(value))
        ):
            values[d.key] = int(value) if whole else float(value)
        elif isinstance(d, Choice) and value in d.options:
            values[d.key] = value
    return values


def groups_of(cfg: CfgNode, key: str) -> list[list[str]]:
    """The groups of templates of a key that a config has, or its data set."""
    return flatten(cfg).get(key) or dataset_setting(cfg.DATASET.NAME, key) or dataset_setting("ImageFolder", key) or []


def open_study(search: Search, url: str, optuna: Any) -> Any:  # noqa: ANN401
    """The study in a storage: created, or joined and gone on with.

    Raises:
        WrongValue: the storage cannot be opened, or holds a search of something else.
    """
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # says nothing to a user
    patient = {"connect_args": {"timeout": LOCKED}} if url.startswith("sqlite") else {}
    for attempt in range(ATTEMPTS):
        try:
            storage = optuna.storages.RDBStorage(
                url, engine_kwargs=patient, heartbeat_interval=HEARTBEAT, grace_period=GRACE
            )
            study = optuna.create_study(storage=storage, study_name="mocoop", direction="maximize", load_if_exists=True)
            known = study.user_attrs.get("search")
            foreign = known is None and (study.get_trials(deepcopy=False) or study.direction.name != "MAXIMIZE")
            if known is None and not foreign:
                study.set_user_attr("search", search.identity())
            break
        except Exception as error:  # sqlalchemy's errors, whose classes only it knows
            what = first_line(error)
            if attempt + 1 == ATTEMPTS or not any(word in what for word in MEANWHILE):
                raise WrongValue(f"{unsaid(url)} cannot be used as the storage of a search: {what}") from error
            time.sleep(0.5 * (attempt + 1))
    if foreign:
        raise WrongValue(f"{unsaid(url)} holds a study of something else; give another --out or --storage")
    if known is not None and known != json.loads(json.dumps(search.identity())):
        differing = ", ".join(key for key, value in search.identity().items() if known.get(key) != value)
        raise WrongValue(
            f"{unsaid(url)} holds a search with another {differing}; give another --out, or the same arguments"
        )
    return study


def unsaid(url: str) -> str:
    """A storage's address without its password."""
    return re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:***@", url)


def first_line(error: BaseException) -> str:
    """What an error says, short."""
    return str(error).splitlines()[0][:300] if str(error) else type(error).__name__


@contextmanager
def storage_at_hand() -> Iterator[None]:
    """Say it in one message if the storage fails in the block (Optuna's own errors may come on top of it).

    Raises:
        StorageFailed: it was locked for long, is full, or went away.
    """
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and type(cause).__module__.partition(".")[0] not in ("sqlalchemy", "sqlite3"):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        said = f"the storage of the search cannot be used any more ({first_line(cause)})"
        raise StorageFailed(f"{said}; what was measured is kept, and the same command goes on") from error


def sampler_of(search: Search, trial: int) -> Any:  # noqa: ANN401
    """What chooses the settings of a trial: seeded by its number, so that no other call or machine draws the same."""
    from optuna.samplers import TPESampler

    seed = np.random.SeedSequence((search.experiment.seed % 2**32, trial)).generate_state(1)[0]
    return TPESampler(seed=int(seed), constant_liar=True)


def killed(study: Any) -> list[Any]:  # noqa: ANN401
    """Trials whose run was cut off and that no other trial goes on with."""
    trials = study.get_trials(deepcopy=False)
    taken_up = {trial.user_attrs.get(CONTINUES) for trial in trials}
    return [t for t in trials if t.state.name == "FAIL" and ENDED not in t.user_attrs and t.number not in taken_up]


def ended(study: Any) -> list[Any]:  # noqa: ANN401
    """Trials whose run came to its end, well or not."""
    return [t for t in study.get_trials(deepcopy=False) if t.state.name == "COMPLETE" or ENDED in t.user_attrs]


def folder_number(trial: Any) -> int:  # noqa: ANN401
    """The number in the name of a trial's folder: of the trial that it goes on with, if it does."""
    return trial.user_attrs.get("folder", trial.number)


def measure(search: Search, trial: Any, run: Callable[[Job], int]) -> float:  # noqa: ANN401
    """Run a trial; returns its accuracy on the validation images, in percent.

    Raises:
        TrialFailed: the run ended with an error.
        KeyboardInterrupt: it was interrupted.
    """
    trial.study.sampler = sampler_of(search, trial.number)
    values = {dimension_.key: dimension_.suggest(trial) for dimension_ in search.space}
    job = search.job(folder_number(trial), option_words(values))
    trial.set_user_attr("options", option_words(values))
    code = run(job)
    if code == 130:
        raise KeyboardInterrupt
    accuracy = read_accuracies(job.folder).get(SPLIT)
    if code or accuracy is None:
        trial.set_user_attr(ENDED, True)
        raise TrialFailed(f"the run in {job.folder} failed")
    return accuracy


def go_on(search: Search, study: Any, trials: int, run: Callable[[Job], int], watch: Callable[[Any], None]) -> None:  # noqa: ANN401
    """Run trials until so many have ended, those of other processes included.

    Args:
        search, study: see `open_study`; trials: how many in all.
        run: a job -> exit code; watch: called with the study after every trial.

    Raises:
        TrialFailed: several failed one after the other.
        StorageFailed: the storage was locked for long, is full, or went away.
    """
    failed = 0
    with storage_at_hand():
        while len(ended(study)) < trials:
            for trial in killed(study):
                marks = {CONTINUES: trial.number, "folder": folder_number(trial)}
                study.enqueue_trial(trial.params, user_attrs=marks)
            study.optimize(lambda trial: measure(search, trial, run), n_trials=1, catch=(TrialFailed,))
            last = max(ended(study), key=lambda trial: trial.datetime_complete, default=None)
            failed = failed + 1 if last is not None and ENDED in last.user_attrs else 0
            watch(study)
            if failed >= FAILURES:
                raise TrialFailed(
                    f"{failed} runs failed one after the other, the last with {last.user_attrs['options']}"
                )


def config_with(search: Search, values: Mapping[str, object]) -> dict[str, object]:
    """The method's config file with other values, flat: what `--config-file` can be given."""
    e = search.experiment
    own = read_yaml(methods.named(e.method).folder / f"{e.config}.yaml")
    given = {key: read_value(value, None) for key, value in zip(e.options[::2], e.options[1::2], strict=True)}
    return own | given | dict(values)
