"""Shots, their cache, base and new classes: by hand, and against a plain restatement of CoOp's draws."""

import json
import multiprocessing
import os
import random
from collections import defaultdict

import pytest
from mocoop.datasets import shots
from mocoop.datasets.base import finish
from mocoop.datasets.errors import DataError
from mocoop.datasets.splits import Item, Split


def items(*labels):
    return [Item(f"{n}.jpg", label, f"class {label}") for n, label in enumerate(labels)]


def paths(found):
    return [item.path for item in found]


def coop_few_shot(source, shots):
    """Dassl's draw, restated: Python's global generator, classes in order of first appearance."""
    tracker, drawn = defaultdict(list), []
    for item in source:
        tracker[item.label].append(item)
    for group in tracker.values():
        drawn += random.sample(group, shots) if len(group) >= shots else group
    return drawn


# --- shots ---------------------------------------------------------------------------------------------------------


def test_few_shot_by_hand():
    # Label 7 comes first in the list, so it is drawn first: random.Random(1) gives sample(range(4), 2) = [1, 2]. Then
    # label 2 with three items: sample(range(3), 2) = [0, 1]. Label 5 has one item, which is taken without a draw.
    source = items(7, 2, 7, 5, 2, 7, 2, 7)
    rng = random.Random(1)
    assert [rng.sample(range(4), 2), rng.sample(range(3), 2)] == [[1, 2], [0, 1]]
    assert paths(shots.few_shot(source, 2, random.Random(1))) == ["2.jpg", "5.jpg", "1.jpg", "4.jpg", "3.jpg"]


def test_few_shot_draws_even_when_a_class_has_exactly_that_many():
    # A draw of three from three permutes; a class short by one is left in order and costs no draw.
    assert paths(shots.few_shot(items(0, 0, 0), 3, random.Random(1))) == ["0.jpg", "2.jpg", "1.jpg"]
    rng = random.Random(1)
    assert paths(shots.few_shot(items(0, 0), 3, rng)) == ["0.jpg", "1.jpg"]
    assert rng.getstate() == random.Random(1).getstate()


@pytest.mark.parametrize("count", [-1, 0])
def test_below_one_shot_is_everything(count):
    assert shots.few_shot(items(0, 1), count, None) == items(0, 1)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
@pytest.mark.parametrize("count", [1, 4, 8])
def test_draw_is_coops_for_the_seed(tmp_path, seed, count):
    rng = random.Random(99)
    source = Split(*(items(*(rng.randrange(6) for _ in range(n))) for n in (60, 30, 10)))
    random.seed(seed)
    expected = coop_few_shot(source.train, count), coop_few_shot(source.val, min(count, 4))
    random.seed(12345)
    before = random.getstate()
    assert shots.draw(source, count, seed, "X", tmp_path) == expected
    assert random.getstate() == before  # nothing of the process's own randomness was used


def test_negative_seed_is_never_cached(tmp_path):
    source = Split(items(*[0] * 50), [], items(0))
    draws = {tuple(paths(shots.draw(source, 5, -1, "X", tmp_path)[0])) for _ in range(5)}
    assert len(draws) > 1 and not list(tmp_path.iterdir())


# --- the cache -----------------------------------------------------------------------------------------------------


SOURCE = Split(items(0, 1, 0, 1, 0, 1), items(0, 1, 0, 1), items(0, 1))


def cache(tmp_path):
    return tmp_path / "shot_2-seed_1.json"


def test_cache_holds_relative_paths_and_is_used(tmp_path):
    first = shots.draw(SOURCE, 2, 1, "X", tmp_path)
    raw = json.loads(cache(tmp_path).read_text())
    assert set(raw) == {"dataset", "split_sha256", "shots", "seed", "train", "val"}
    assert [entry[0] for entry in raw["train"]] == paths(first[0])
    # What the file says is what comes back (here: another order than the draw's).
    raw["train"].reverse()
    cache(tmp_path).write_text(json.dumps(raw))
    assert shots.draw(SOURCE, 2, 1, "X", tmp_path) == (first[0][::-1], first[1])


@pytest.mark.parametrize(
    "spoil",
    [
        {"split_sha256": "0" * 64},
        {"dataset": "Y"},
        {"seed": 2},
        {"shots": 1},
        {"train": [["elsewhere.jpg", 0, "class 0"]]},
        {"train": [["../0.jpg", 0, "class 0"]]},
        {"train": "none"},
        {"train": []},
        None,
    ],
)
def test_stale_or_foreign_cache_is_rebuilt_with_a_message(tmp_path, capsys, spoil):
    first = shots.draw(SOURCE, 2, 1, "X", tmp_path)
    good = cache(tmp_path).read_text()
    cache(tmp_path).write_text(json.dumps({**json.loads(good), **spoil}) if spoil else good[: len(good) // 2])
    capsys.readouterr()
    assert shots.draw(SOURCE, 2, 1, "X", tmp_path) == first
    assert "drawing again" in capsys.readouterr().out
    assert cache(tmp_path).read_text() == good


def test_cache_follows_the_split(tmp_path, capsys):
    shots.draw(SOURCE, 2, 1, "X", tmp_path)
    other = SOURCE._replace(train=SOURCE.train[::-1])
    assert shots.draw(other, 2, 1, "X", tmp_path)[0] == shots.few_shot(other.train, 2, random.Random(1))
    assert "made for another split" in capsys.readouterr().out


def test_pickles_are_left_alone(tmp_path):
    pickle = tmp_path / "shot_2-seed_1.pkl"
    pickle.write_bytes(b"cos\nsystem\n(S'touch hacked'\ntR.")
    shots.draw(SOURCE, 2, 1, "X", tmp_path)
    assert pickle.read_bytes().startswith(b"cos") and not (tmp_path / "hacked").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder_is_no_obstacle(tmp_path, capsys):
    tmp_path.chmod(0o500)
    shots.draw(SOURCE, 2, 1, "X", tmp_path)
    assert "continuing without it" in capsys.readouterr().out


def test_full_disk_is_no_obstacle(tmp_path, capsys, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert shots.draw(SOURCE, 2, 1, "X", tmp_path)[0] == shots.few_shot(SOURCE.train, 2, random.Random(1))
    assert "No space left on device" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())  # no half-made file stays behind


def _draw_often(folder, queue):
    queue.put([shots.draw(SOURCE, 2, 1, "X", folder) for _ in range(20)])


def test_parallel_runs_agree(tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=_draw_often, args=(tmp_path, queue)) for _ in range(4)]
    for worker in workers:
        worker.start()
    results = [draw for _ in workers for draw in queue.get(timeout=60)]
    for worker in workers:
        worker.join()
    assert all(draw == results[0] for draw in results) and len(results) == 80
    assert [path.name for path in tmp_path.iterdir()] == ["shot_2-seed_1.json"]


# --- base and new --------------------------------------------------------------------------------------------------


def test_subsample_by_hand():
    # Labels 1, 3, 4, 8, 9 of the first list: base = ceil(5/2) = 3 of them = 1, 3, 4 -> 0, 1, 2; new = 8, 9 -> 0, 1.
    train, test = items(9, 3, 8, 1, 4, 3), items(8, 1, 9, 4)
    base, base_test = shots.subsample("base", train, test)
    assert [(i.path, i.label, i.classname) for i in base] == [
        ("1.jpg", 1, "class 3"),
        ("3.jpg", 0, "class 1"),
        ("4.jpg", 2, "class 4"),
        ("5.jpg", 1, "class 3"),
    ]
    assert [(i.path, i.label) for i in base_test] == [("1.jpg", 0), ("3.jpg", 2)]
    new, new_test = shots.subsample("new", train, test)
    assert [(i.path, i.label) for i in new] == [("0.jpg", 1), ("2.jpg", 0)]
    assert [(i.path, i.label) for i in new_test] == [("0.jpg", 0), ("2.jpg", 1)]
    assert shots.subsample("all", train, test) == [train, test]


@pytest.mark.parametrize("n, base", [(37, 19), (101, 51), (397, 199), (47, 24), (10, 5), (1000, 500)])
def test_halves_of_the_benchmark(n, base):
    source = items(*range(n))
    assert [len(shots.subsample(half, source)[0]) for half in ("base", "new")] == [base, n - base]


def test_subsample_refuses():
    with pytest.raises(ValueError, match="'novel'"):
        shots.subsample("novel", items(0, 1))
    with pytest.raises(DataError, match="no new classes"):
        shots.subsample("new", items(0))


def test_base_and_new_share_one_draw(tmp_path, make_cfg):
    for n in range(40):
        (tmp_path / f"{n}.jpg").touch()
    source = Split(items(*(n % 4 for n in range(40))), items(0, 1, 2, 3), items(0, 1, 2, 3))
    drawn = {}
    for classes in ("all", "base", "new"):
        data = finish(make_cfg(shots=3, classes=classes), "X", tmp_path, tmp_path, source)
        drawn[classes] = [d.impath for d in data.train]
        assert data.all_classnames == [f"class {n}" for n in range(4)]
    assert drawn["all"] == drawn["base"] + drawn["new"] and len(drawn["base"]) == 6


def test_cfg_without_subsample_classes(tmp_path):
    from dassl.config import get_cfg_default

    cfg = get_cfg_default()
    cfg.DATASET.pop("SUBSAMPLE_CLASSES", None)
    for n in range(2):
        (tmp_path / f"{n}.jpg").touch()
    data = finish(cfg, "X", tmp_path, tmp_path, Split(items(0, 1), [], items(0, 1)))
    assert [d.label for d in data.train] == [0, 1] and data.val == []
