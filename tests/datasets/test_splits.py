"""The shared rules, against values worked out by hand and against a plain restatement of CoOp's draws."""

import json
import multiprocessing
import os
import random
from collections import defaultdict

import pytest
from mocoop.datasets import splits
from mocoop.datasets.errors import DataError, DataMissing
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
    assert paths(splits.few_shot(source, 2, random.Random(1))) == ["2.jpg", "5.jpg", "1.jpg", "4.jpg", "3.jpg"]


def test_few_shot_draws_even_when_a_class_has_exactly_that_many():
    # A draw of three from three permutes; a class short by one is left in order and costs no draw.
    assert paths(splits.few_shot(items(0, 0, 0), 3, random.Random(1))) == ["0.jpg", "2.jpg", "1.jpg"]
    rng = random.Random(1)
    assert paths(splits.few_shot(items(0, 0), 3, rng)) == ["0.jpg", "1.jpg"]
    assert rng.getstate() == random.Random(1).getstate()


@pytest.mark.parametrize("shots", [-1, 0])
def test_below_one_shot_is_everything(shots):
    assert splits.few_shot(items(0, 1), shots, None) == items(0, 1)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
@pytest.mark.parametrize("shots", [1, 4, 8])
def test_draw_is_coops_for_the_seed(tmp_path, seed, shots):
    rng = random.Random(99)
    source = Split(*(items(*(rng.randrange(6) for _ in range(n))) for n in (60, 30, 10)))
    random.seed(seed)
    expected = coop_few_shot(source.train, shots), coop_few_shot(source.val, min(shots, 4))
    random.seed(12345)
    before = random.getstate()
    assert splits.draw(source, shots, seed, "X", tmp_path) == expected
    assert random.getstate() == before  # nothing of the process's own randomness was used


def test_negative_seed_is_never_cached(tmp_path):
    source = Split(items(*[0] * 50), [], items(0))
    draws = {tuple(paths(splits.draw(source, 5, -1, "X", tmp_path)[0])) for _ in range(5)}
    assert len(draws) > 1 and not list(tmp_path.iterdir())


# --- the cache -----------------------------------------------------------------------------------------------------


SOURCE = Split(items(0, 1, 0, 1, 0, 1), items(0, 1, 0, 1), items(0, 1))


def cache(tmp_path):
    return tmp_path / "shot_2-seed_1.json"


def test_cache_holds_relative_paths_and_is_used(tmp_path):
    first = splits.draw(SOURCE, 2, 1, "X", tmp_path)
    raw = json.loads(cache(tmp_path).read_text())
    assert set(raw) == {"dataset", "split_sha256", "shots", "seed", "train", "val"}
    assert [entry[0] for entry in raw["train"]] == paths(first[0])
    # What the file says is what comes back (here: another order than the draw's).
    raw["train"].reverse()
    cache(tmp_path).write_text(json.dumps(raw))
    assert splits.draw(SOURCE, 2, 1, "X", tmp_path) == (first[0][::-1], first[1])


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
    first = splits.draw(SOURCE, 2, 1, "X", tmp_path)
    good = cache(tmp_path).read_text()
    cache(tmp_path).write_text(json.dumps({**json.loads(good), **spoil}) if spoil else good[: len(good) // 2])
    capsys.readouterr()
    assert splits.draw(SOURCE, 2, 1, "X", tmp_path) == first
    assert "drawing again" in capsys.readouterr().out
    assert cache(tmp_path).read_text() == good


def test_cache_follows_the_split(tmp_path, capsys):
    splits.draw(SOURCE, 2, 1, "X", tmp_path)
    other = SOURCE._replace(train=SOURCE.train[::-1])
    assert splits.draw(other, 2, 1, "X", tmp_path)[0] == splits.few_shot(other.train, 2, random.Random(1))
    assert "made for another split" in capsys.readouterr().out


def test_pickles_are_left_alone(tmp_path):
    pickle = tmp_path / "shot_2-seed_1.pkl"
    pickle.write_bytes(b"cos\nsystem\n(S'touch hacked'\ntR.")
    splits.draw(SOURCE, 2, 1, "X", tmp_path)
    assert pickle.read_bytes().startswith(b"cos") and not (tmp_path / "hacked").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder_is_no_obstacle(tmp_path, capsys):
    tmp_path.chmod(0o500)
    splits.draw(SOURCE, 2, 1, "X", tmp_path)
    assert "continuing without it" in capsys.readouterr().out


def test_full_disk_is_no_obstacle(tmp_path, capsys, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(splits.os, "replace", full)
    assert splits.draw(SOURCE, 2, 1, "X", tmp_path)[0] == splits.few_shot(SOURCE.train, 2, random.Random(1))
    assert "No space left on device" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())  # no half-made file stays behind


def _draw_often(folder, queue):
    queue.put([splits.draw(SOURCE, 2, 1, "X", folder) for _ in range(20)])


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
    base, base_test = splits.subsample("base", train, test)
    assert [(i.path, i.label, i.classname) for i in base] == [
        ("1.jpg", 1, "class 3"),
        ("3.jpg", 0, "class 1"),
        ("4.jpg", 2, "class 4"),
        ("5.jpg", 1, "class 3"),
    ]
    assert [(i.path, i.label) for i in base_test] == [("1.jpg", 0), ("3.jpg", 2)]
    new, new_test = splits.subsample("new", train, test)
    assert [(i.path, i.label) for i in new] == [("0.jpg", 1), ("2.jpg", 0)]
    assert [(i.path, i.label) for i in new_test] == [("0.jpg", 0), ("2.jpg", 1)]
    assert splits.subsample("all", train, test) == [train, test]


@pytest.mark.parametrize("n, base", [(37, 19), (101, 51), (397, 199), (47, 24), (10, 5), (1000, 500)])
def test_halves_of_the_benchmark(n, base):
    source = items(*range(n))
    assert [len(splits.subsample(half, source)[0]) for half in ("base", "new")] == [base, n - base]


def test_subsample_refuses():
    with pytest.raises(ValueError, match="'novel'"):
        splits.subsample("novel", items(0, 1))
    with pytest.raises(DataError, match="no new classes"):
        splits.subsample("new", items(0))


def test_base_and_new_share_one_draw(tmp_path, make_cfg):
    for n in range(40):
        (tmp_path / f"{n}.jpg").touch()
    source = Split(items(*(n % 4 for n in range(40))), items(0, 1, 2, 3), items(0, 1, 2, 3))
    drawn = {}
    for classes in ("all", "base", "new"):
        data = splits.finish(make_cfg(shots=3, classes=classes), "X", tmp_path, tmp_path, source)
        drawn[classes] = [d.impath for d in data.train]
        assert data.all_classnames == [f"class {n}" for n in range(4)]
    assert drawn["all"] == drawn["base"] + drawn["new"] and len(drawn["base"]) == 6


def test_cfg_without_subsample_classes(tmp_path):
    from dassl.config import get_cfg_default

    cfg = get_cfg_default()
    cfg.DATASET.pop("SUBSAMPLE_CLASSES", None)
    for n in range(2):
        (tmp_path / f"{n}.jpg").touch()
    data = splits.finish(cfg, "X", tmp_path, tmp_path, Split(items(0, 1), [], items(0, 1)))
    assert [d.label for d in data.train] == [0, 1] and data.val == []


# --- making a split ------------------------------------------------------------------------------------------------


def test_split_folder_by_hand():
    # Seven of class 0: round(3.5) = 4 train, round(1.4) = 1 val, 2 test. Five of class 1: round(2.5) = 2, 1, 2 (ties to
    # even). Shuffled by one generator, class after class.
    source = items(*[0] * 7, *[1] * 5)
    rng = random.Random(splits.SPLIT_SEED)
    first, second = source[:7], source[7:]
    rng.shuffle(first)
    rng.shuffle(second)
    split = splits.split_folder(source)
    assert split.train == first[:4] + second[:2]
    assert split.val == first[4:5] + second[2:3]
    assert split.test == first[5:] + second[3:]


def test_split_train_val_by_hand():
    # Label 4 is seen first. Eight of it: round(1.6) = 2 val; three of label 0: round(0.6) = 1 val.
    source = items(4, 0, 4, 4, 0, 4, 4, 0, 4, 4, 4)
    rng = random.Random(splits.SPLIT_SEED)
    four, zero = [i for i in source if i.label == 4], [i for i in source if i.label == 0]
    rng.shuffle(four)
    rng.shuffle(zero)
    assert splits.split_train_val(source) == (four[2:] + zero[1:], four[:2] + zero[:1])


def test_small_classes_are_refused_by_name():
    with pytest.raises(DataError, match=r"1 classes .*class 1 \(3\)"):
        splits.split_folder(items(0, 0, 0, 0, 1, 1, 1))
    with pytest.raises(DataError, match=r"class 1 \(2\)"):
        splits.split_train_val(items(0, 0, 0, 1, 1))


def test_listing_is_sorted_and_skips_what_is_no_image(tmp_path):
    for name in (
        "b/2.jpg",
        "b/10.JPG",
        "B/x.png",
        ".cache/y.jpg",
        "b/.z.jpg",
        "b/notes.txt",
        "b/deep/1.jpg",
        "top.jpg",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert splits.list_folder(tmp_path, names={"b": "bee"}, prefix="train/") == [
        Item("train/B/x.png", 0, "B"),
        Item("train/b/10.JPG", 1, "bee"),
        Item("train/b/2.jpg", 1, "bee"),
        Item("train/b/deep/1.jpg", 1, "bee"),
    ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="hold no image: empty"):
        splits.list_folder(tmp_path)


# --- reading -------------------------------------------------------------------------------------------------------


def write_split(tmp_path, split=SOURCE, touch=True):
    splits.save_split(tmp_path / "split.json", *split)
    for item in {i for part in split for i in part} if touch else ():
        (tmp_path / item.path).touch()
    return tmp_path / "split.json"


def test_split_file_round_trip_in_coops_format(tmp_path):
    path = write_split(tmp_path)
    assert splits.read_split(path, tmp_path) == SOURCE
    text = path.read_text()
    assert json.loads(text)["train"][1] == ["1.jpg", 1, "class 1"]
    assert text.startswith('{\n    "train": [\n        [\n            "0.jpg",\n            0,\n')


def test_missing_images_are_counted_and_ten_named(tmp_path):
    split = Split(items(*[0] * 25), [], [Item("deep/x.jpg", 0, "class 0")])
    path = write_split(tmp_path, split, touch=False)
    for n in range(5):
        (tmp_path / f"{n}.jpg").touch()
    with pytest.raises(DataMissing) as caught:
        splits.read_split(path, tmp_path)
    text = str(caught.value)
    assert "21 of the 26 images" in text and str(path) in text
    assert [line.strip() for line in text.splitlines()[1:12]] == [*(f"{n}.jpg" for n in range(5, 15)), "…"]


def test_images_are_looked_up_folder_by_folder(tmp_path, monkeypatch):
    path = write_split(tmp_path)
    monkeypatch.setattr(splits.os.path, "isfile", lambda p: pytest.fail(f"looked at {p}"))
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(splits.os, "scandir", lambda folder: listed.append(folder) or scandir(folder))
    splits.check_images(tmp_path, [i.path for i in splits._items(json.loads(path.read_text())["train"], "")], "")
    assert len(listed) == 1


@pytest.mark.parametrize(
    "raw, complaint",
    [
        ({"train": [], "val": []}, r"expected an object with the keys train, val, test; found \['train', 'val'\]"),
        ([1, 2], "found list"),
        ({"train": {}, "val": [], "test": []}, "train: expected a list"),
        ({"train": [["0.jpg", "0", "class 0"]], "val": [], "test": []}, "train, entry 0: expected"),
        ({"train": [["0.jpg", -1, "class 0"]], "val": [], "test": []}, "train, entry 0: expected"),
        ({"train": [["0.jpg", 0]], "val": [], "test": []}, "train, entry 0: expected"),
        ({"train": [], "val": [["/etc/passwd", 0, "x"]], "test": []}, "val, entry 0: expected a path below"),
        ({"train": [], "val": [], "test": [["a/../../b", 0, "x"]]}, "test, entry 0: expected a path below"),
    ],
)
def test_broken_split_files(tmp_path, raw, complaint):
    path = tmp_path / "split.json"
    path.write_text(json.dumps(raw))
    with pytest.raises(DataError, match=complaint):
        splits.read_split(path, tmp_path)


def test_split_file_cut_short(tmp_path):
    path = write_split(tmp_path)
    path.write_text(path.read_text()[:100])
    with pytest.raises(DataError, match="split.json is not a whole JSON file"):
        splits.read_split(path, tmp_path)


@pytest.mark.parametrize(
    "split, complaint",
    [
        (Split(items(0, 2), [], items(0)), "labels have gaps: .* from 0 to 2, found none of 1 labels: 1"),
        (Split([*items(0, 1), Item("x", 1, "other")], [], items(0)), "label 1 has two names, 'class 1' and 'other'"),
        (Split(items(0, 1), [], [Item("x", 0, "other")]), "label 0 has two names"),
        (Split(items(0, 1), items(2), items(0)), r"label 2 \(class 2\) is in val but not in train"),
        (Split([], [], items(0)), "found 0 and 1"),
        (Split(items(0), [], []), "found 1 and 0"),
    ],
)
def test_label_faults(split, complaint):
    with pytest.raises(DataError, match=complaint):
        splits.label_names(split, "X")


def test_equal_names_of_two_labels_are_kept():
    twice = [Item("0", 0, "missile"), Item("1", 1, "missile")]
    assert splits.label_names(Split(twice, [], twice), "X") == ["missile", "missile"]
