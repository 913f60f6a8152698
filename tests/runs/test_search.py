"""A search over settings: what may vary, and trials that are run once each, whatever is killed meanwhile."""

import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mocoop import methods, train
from mocoop.config import ConfigError
from mocoop.runs import search
from mocoop.runs.protocols import Experiment, Settings
from mocoop.runs.search import Choice, Groups, Range
from mocoop.toolbox.dassl.errors import WrongValue

optuna = pytest.importorskip("optuna")
optuna.logging.set_verbosity(optuna.logging.WARNING)
TEMPLATES = [["a {}.", "b {}."], ["c {}.", "d {}.", "e {}."]]


def parse(raw):
    return search.parse_space(raw, lambda key: TEMPLATES)


@pytest.fixture
def wanted(tmp_path):
    space = parse({"OPTIM.LR": {"low": 0.01, "high": 1.0, "log": True}, "OPTIM.MAX_EPOCH": [2, 4]})
    experiment = Experiment("MoCoOp", "demo_icons", 3, Settings(data=tmp_path / "data", output=tmp_path / "out"))
    return search.Search(experiment, "base", 4, space)


@pytest.fixture
def study(wanted, tmp_path):
    return search.open_study(wanted, f"sqlite:///{tmp_path / 'tune.db'}", optuna)


def options(job):
    words = job.arguments[job.arguments.index("TEST.SPLIT") :]
    return dict(zip(words[::2], words[1::2], strict=True))


class Runs:
    """Runs that "train" at once: the accuracy on validation images is the best at a learning rate of 0.1."""

    def __init__(self, *codes):
        self.codes, self.jobs = list(codes), []

    def __call__(self, job):
        self.jobs.append(job)
        code = self.codes.pop(0) if self.codes else 0
        if code == 0:
            job.folder.mkdir(parents=True, exist_ok=True)
            accuracy = 90 - 100 * abs(float(options(job)["OPTIM.LR"]) - 0.1)
            (job.folder / "results.json").write_text(json.dumps({"val": {"accuracy": accuracy}}))
        return code


def test_a_space_from_its_description():
    assert parse({"A": [1, "x", True], "B": {"low": 1, "high": 4}, "C": {"low": "1e-3", "high": 1, "log": True}}) == [
        Choice("A", (1, "x", True)),
        Range("B", 1, 4),
        Range("C", 0.001, 1, True),
    ]
    (groups,) = parse({"G": {"groups": [1, 2, 5]}})
    assert groups.deal(2) == [["a {}.", "b {}.", "c {}."], ["d {}.", "e {}."]]
    assert groups.deal(5) == [[f"{letter} {{}}."] for letter in "abcde"]


@pytest.mark.parametrize(
    "described",
    [
        *([], {}, "x", 3, [[1]], [float("nan")], {"low": 2, "high": 1}, {"low": 1, "high": 1}),
        {"low": 1, "high": 2, "log": 1},
        *({"low": 0, "high": 1, "log": True}, {"low": "a", "high": 1}, {"low": 1}, {"groups": []}, {"groups": [0]}),
        *({"groups": [6]}, {"groups": [True]}, {"low": 1, "high": 2, "groups": [1]}, {"low": float("nan"), "high": 1}),
    ],
)  # fmt: skip
def test_what_is_no_space_is_named(described):
    with pytest.raises(ConfigError, match="OPTIM.LR: "):
        parse({"OPTIM.LR": described})
    with pytest.raises(ConfigError, match="nothing may vary"):
        parse({})


def test_a_space_as_the_reader_of_config_files_flattens_it():
    flat = {
        "OPTIM.LR.low": 0.1,
        "OPTIM.LR.high": 1,
        "OPTIM.MAX_EPOCH": [1, 2],
        "TRAINER.MOCOOP.PROMPT_GROUPS.groups": [2],
    }
    assert search.fold(flat) == {
        "OPTIM.LR": {"low": 0.1, "high": 1},
        "OPTIM.MAX_EPOCH": [1, 2],
        "TRAINER.MOCOOP.PROMPT_GROUPS": {"groups": [2]},
    }


def test_every_trained_method_has_a_space_that_its_checks_allow(tmp_path):
    for row in methods.OURS:
        if row.trained:
            experiment = Experiment(row.name, "demo_icons", 1, Settings(data=tmp_path, output=tmp_path))
            bare = search.Search(experiment, "all", 4, ())
            cfg, _ = train.config_of(bare.job(0, ()).arguments)
            raw = search.default_space(row, cfg)
            space = search.parse_space(raw, lambda key, cfg=cfg: search.groups_of(cfg, key))
            assert [d.key for d in space][:2] == ["OPTIM.LR", "OPTIM.MAX_EPOCH"] and len(space) == 2 + len(row.search)
            search.check_space(search.Search(experiment, "all", 4, space), train.config_of)
            first = search.as_configured(space, cfg)
            assert first["OPTIM.LR"] == cfg.OPTIM.LR and first["OPTIM.MAX_EPOCH"] == cfg.OPTIM.MAX_EPOCH


def test_values_that_the_config_refuses_are_named_before_anything_runs(wanted):
    for key, values, words in (
        ("OPTIM.LRR", [1], "OPTIM.LRR"),
        ("TRAINER.MOCOOP.TOPK", [0, 1], "TRAINER.MOCOOP.TOPK"),
        ("OPTIM.LR", [-1.0], "OPTIM.LR"),
    ):
        broken = search.Search(wanted.experiment, "base", 4, [Choice(key, tuple(values))])
        with pytest.raises(ConfigError, match=words):
            search.check_space(broken, train.config_of)


def test_a_trial_is_a_run_that_is_measured_on_validation_images(wanted):
    job = wanted.job(7, ["OPTIM.LR", 0.5])
    below = job.folder.relative_to(wanted.experiment.settings.output)
    assert below == Path("base2new/train_base/demo_icons/shots_4/MoCoOp/demo-trial7/seed3")
    assert options(job) == {"TEST.SPLIT": "val", "OPTIM.LR": "0.5"}


def test_trials_until_so_many_have_ended(wanted, study):
    runs, seen = Runs(), []
    search.go_on(wanted, study, 12, runs, lambda study: seen.append(study.best_value))
    assert len(runs.jobs) == 12 == len({job.folder for job in runs.jobs}) and seen == sorted(seen)
    rates = [float(options(job)["OPTIM.LR"]) for job in runs.jobs]
    assert all(0.01 <= rate <= 1 for rate in rates) and {options(job)["OPTIM.MAX_EPOCH"] for job in runs.jobs} <= {
        "2",
        "4",
    }
    assert study.best_value == pytest.approx(max(90 - 100 * abs(rate - 0.1) for rate in rates))
    search.go_on(wanted, study, 12, runs, seen.append)
    assert len(runs.jobs) == 12  # nothing is left


def test_an_interrupted_trial_goes_on_in_its_folder(wanted, study):
    runs = Runs(0, 130)
    with pytest.raises(KeyboardInterrupt):
        search.go_on(wanted, study, 3, runs, lambda study: None)
    search.go_on(wanted, study, 3, runs, lambda study: None)
    assert len(runs.jobs) == 4 and runs.jobs[1] == runs.jobs[2]
    assert len({job.folder for job in runs.jobs}) == 3 and len(search.ended(study)) == 3


def test_a_failed_trial_counts_and_is_not_repeated(wanted, study):
    runs = Runs(0, 1)
    search.go_on(wanted, study, 3, runs, lambda study: None)
    assert (
        len({job.folder for job in runs.jobs}) == 3 and [t.value is None for t in search.ended(study)].count(True) == 1
    )


def test_when_every_trial_fails_the_search_ends(wanted, study):
    runs = Runs(*[1] * 20)
    with pytest.raises(search.TrialFailed, match="5 runs failed one after the other"):
        search.go_on(wanted, study, 20, runs, lambda study: None)
    assert len(runs.jobs) == 5


def test_two_processes_share_the_trials(wanted, study, tmp_path):
    other = search.open_study(wanted, f"sqlite:///{tmp_path / 'tune.db'}", optuna)
    runs = Runs()
    search.go_on(
        wanted, study, 3, runs, lambda _: other.optimize(lambda t: search.measure(wanted, t, runs), n_trials=1)
    )
    assert len(runs.jobs) == 4 == len({job.folder for job in runs.jobs})  # two by each


def test_another_search_in_the_same_storage_is_refused(wanted, study, tmp_path):
    for other in (
        search.Search(wanted.experiment, "all", 4, wanted.space),
        search.Search(wanted.experiment, "base", 4, wanted.space[:1]),
    ):
        with pytest.raises(WrongValue, match="holds a search with another (classes|space)"):
            search.open_study(other, f"sqlite:///{tmp_path / 'tune.db'}", optuna)


@pytest.mark.parametrize("url", ["nonsense", "sqlite:////nowhere/at/all.db", "sqlite:///{tmp}/text.db"])
def test_a_storage_that_cannot_be_used(wanted, tmp_path, url):
    (tmp_path / "text.db").write_text("no database at all, " * 100)
    with pytest.raises(WrongValue, match="cannot be used as the storage"):
        search.open_study(wanted, url.format(tmp=tmp_path), optuna)


def test_groups_are_dealt_out_in_a_trial(wanted, study):
    wanted = search.Search(
        wanted.experiment, "base", 4, [Groups("TRAINER.MOCOOP.PROMPT_GROUPS", (2,), ("a {}.", "b {}."))]
    )
    jobs = []

    def run(job):
        jobs.append(job)
        job.folder.mkdir(parents=True)
        (job.folder / "results.json").write_text('{"val": {"accuracy": 50.0}}')
        return 0

    study.optimize(lambda trial: search.measure(wanted, trial, run), n_trials=1)
    assert options(jobs[0])["TRAINER.MOCOOP.PROMPT_GROUPS"] == "[['a {}.'], ['b {}.']]"


def test_no_trial_repeats_another_whichever_call_or_process_made_it(wanted, study, tmp_path):
    search.go_on(wanted, study, 3, Runs(), lambda study: None)
    again = search.open_study(wanted, f"sqlite:///{tmp_path / 'tune.db'}", optuna)
    search.go_on(wanted, again, 6, Runs(), lambda study: None)
    rates = [trial.params["OPTIM.LR"] for trial in again.get_trials()]
    assert len(set(rates)) == len(rates) == 6
    alike = optuna.create_study(direction="maximize")  # the same seed and numbers: the same first settings
    search.go_on(wanted, alike, 6, Runs(), lambda study: None)
    assert [trial.params["OPTIM.LR"] for trial in alike.get_trials()] == rates


def test_several_processes_may_create_the_storage_at_once(wanted, tmp_path):
    url = f"sqlite:///{tmp_path / 'new.db'}"
    with ThreadPoolExecutor(4) as pool:
        studies = list(pool.map(lambda _: search.open_study(wanted, url, optuna), range(4)))
    assert len({study._study_id for study in studies}) == 1


@pytest.mark.parametrize(("direction", "trials"), [("minimize", 0), ("maximize", 1)])
def test_a_foreign_study_of_our_name_is_not_joined(wanted, tmp_path, direction, trials):
    url = f"sqlite:///{tmp_path / 'theirs.db'}"
    theirs = optuna.create_study(storage=url, study_name="mocoop", direction=direction)
    theirs.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=trials)
    with pytest.raises(WrongValue, match="holds a study of something else"):
        search.open_study(wanted, url, optuna)
    assert not theirs.user_attrs


def test_a_password_is_not_printed(wanted):
    assert search.unsaid("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"
    assert search.unsaid("sqlite:////a:b/c@d.db") == "sqlite:////a:b/c@d.db"


def test_a_storage_that_stays_locked_ends_the_search_with_one_message(wanted, tmp_path, monkeypatch):
    monkeypatch.setattr(search, "LOCKED", 0.1)
    path = tmp_path / "tune.db"
    study = search.open_study(wanted, f"sqlite:///{path}", optuna)
    other = sqlite3.connect(path)

    def locks(job):
        other.execute("BEGIN EXCLUSIVE")
        return Runs()(job)

    with pytest.raises(search.StorageFailed, match="database is locked.*what was measured is kept"):
        search.go_on(wanted, study, 2, locks, lambda study: None)
    other.close()
    study = search.open_study(wanted, f"sqlite:///{path}", optuna)
    search.go_on(wanted, study, 2, Runs(), lambda study: None)
    assert len(search.ended(study)) == 2
