"""A sweep's file as items: written out, counted by hand, and what is refused."""

from pathlib import Path

import mocoop
import pytest
from mocoop import train
from mocoop.config import ConfigError
from mocoop.runs import sweeps
from mocoop.runs.protocols import PROTOCOLS, Experiment, Settings

ROOT = Path(mocoop.__file__).parent
SETTINGS = Settings(data=Path("/d"), output=Path("/o"))


@pytest.fixture()
def grid(tmp_path):
    """A function that reads a grid from the text of its file."""

    def read(text):
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return sweeps.read_grid(path)

    return read


@pytest.fixture()
def items(grid):
    return lambda text: sweeps.items_of(grid(text), SETTINGS)


def folders(found):
    return [[str(job.folder.relative_to("/o")) for job in item.jobs] for item in found]


def test_a_grid_is_each_with_each_and_an_item_is_a_model_with_its_tests(items):
    found = items("protocols: [base2new]\ndatasets: [dtd, eurosat]\nmethods: coop\nseeds: [1, 2]\nshots: [4]")
    assert folders(found) == [
        [f"base2new/{part}/{name}/shots_4/CoOp/vit_b16_ctxv1/seed{seed}" for part in ("train_base", "test_new")]
        for name in ("dtd", "eurosat")
        for seed in (1, 2)
    ]


def test_the_runs_are_those_of_the_protocols(items):
    found = items("protocols: [base2new, cross_dataset]\ndatasets: imagenet\nmethods: [MoCoOp, coop]\nseeds: 3")
    made = {job for item in found for job in item.jobs}
    expected = {
        job
        for protocol in ("base2new", "cross_dataset")
        for method in ("MoCoOp", "CoOp")
        for job in PROTOCOLS[protocol](Experiment(method, "imagenet", 3, SETTINGS))
    }
    assert made == expected and len(found) == 4


def test_a_model_that_two_protocols_share_is_there_once(items):
    found = items("protocols: [cross_dataset, domain_generalization]\ndatasets: demo_icons\nmethods: coop\nseeds: 1")
    assert folders(found) == [
        ["source/demo_icons/shots_16/CoOp/demo/seed1"]
        + [f"cross_dataset/demo_icons/{name}/shots_16/CoOp/demo/seed1" for name in ("demo_symbols", "demo_objects")]
        + [
            f"domain_generalization/demo_icons/demo_icons_{name}/shots_16/CoOp/demo/seed1"
            for name in ("sketch", "pixel", "tilted")
        ]
    ]
    assert all(job.model == found[0].folder for job in found[0].jobs[1:])
    assert found[0].name.endswith("(+ 5 tests)") and found[0].method(Path("/o")) == "CoOp"


def test_a_method_without_training_is_one_item_for_each_seed_and_data_set(items):
    found = items(
        "protocols: [base2new, fewshot, cross_dataset, domain_generalization]\n"
        "datasets: demo_icons\nmethods: zsclip\nseeds: [1, 2]\nshots: [2, 4]"
    )
    # base-to-new and the source with 2 and 4 shots, and their targets; few-shot once, with the last number
    assert [len(item.jobs) for item in found] == [2 * 2 + 1 + 2 * (1 + 2) + 2 * 3] * 2
    assert all(job.model is None for item in found for job in item.jobs)


def test_a_name_given_twice_counts_once(items):
    once = items("protocols: base2new\ndatasets: dtd\nmethods: coop\nseeds: 1")
    assert items("protocols: [base2new, base2new]\ndatasets: dtd\nmethods: [coop, CoOp]\nseeds: [1, 1]") == once


def test_shots_are_an_axis_of_every_protocol(items):
    found = items("protocols: [fewshot, base2new]\ndatasets: dtd\nmethods: lasp\nseeds: 1\nshots: [1, 16]")
    assert [folder.split("/shots_")[1].split("/")[0] for item in folders(found) for folder in item[:1]] == [
        *("1", "16", "1", "16")
    ]


def test_options_reach_every_run_and_variants_have_folders_of_their_own(items):
    found = items(
        "protocols: base2new\ndatasets: demo_icons\nmethods: mocoop\nseeds: 1\n"
        "options: {OPTIM.MAX_EPOCH: 2, TRAINER: {MOCOOP: {TOPK: 1}}}\n"
        "variants:\n  '':\n  groups: {TRAINER.MOCOOP.PROMPT_GROUPS: [['a {}.'], ['{}, here']]}"
    )
    assert [item.folder.parent.name for item in found] == ["demo", "demo-groups"]
    plain, varied = (item.jobs[1].arguments for item in found)
    assert plain[-4:] == ("OPTIM.MAX_EPOCH", "2", "TRAINER.MOCOOP.TOPK", "1")
    assert varied[-2:] == ("TRAINER.MOCOOP.PROMPT_GROUPS", "[['a {}.'], ['{}, here']]")
    cfg, _ = train.config_of(found[1].jobs[0].arguments)
    assert cfg.TRAINER.MOCOOP.PROMPT_GROUPS == [["a {}."], ["{}, here"]] and cfg.OPTIM.MAX_EPOCH == 2


def test_options_that_a_method_does_not_know_are_found_before_anything_starts(items):
    text = "protocols: base2new\ndatasets: dtd\nmethods: [coop, mocoop]\nseeds: [1, 2]\noptions: "
    sweeps.check_options(items(text + "{OPTIM.LR: 0.1}"), train.config_of)
    with pytest.raises(ConfigError, match="OPTIM.LRR"):
        sweeps.check_options(items(text + "{OPTIM.LRR: 0.1}"), train.config_of)
    with pytest.raises(ConfigError, match="TOPK"):
        sweeps.check_options(items(text + "{TRAINER.MOCOOP.TOPK: many}"), train.config_of)


def test_options_are_tried_once_for_all_seeds(items):
    tried = []
    text = "protocols: [base2new]\ndatasets: [dtd, ucf101]\nmethods: [coop, mocoop]\nseeds: [1, 2, 3]"
    sweeps.check_options(items(text), lambda arguments: tried.append(arguments))
    assert len(tried) == 2 * 2 * 2  # data sets, methods, parts


HEAD = "protocols: [base2new]\ndatasets: [dtd]\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "protocols: expected at least one"),
        ("datasets: [dtd]", "protocols: expected at least one"),
        ("protocols: [base2new]", "datasets: expected at least one"),
        ("protocols: []\ndatasets: [dtd]", "protocols: expected at least one"),
        (HEAD + "methods: []", "methods: expected at least one"),
        (HEAD + "seeds: []", "seeds: expected at least one"),
        (HEAD + "seeds: [1, two]", "seeds: expected whole numbers, found 'two'"),
        (HEAD + "seeds: [true]", "seeds: expected whole numbers, found True"),
        (HEAD + "shots: [0]", "shots: expected at least 1, found 0"),
        (HEAD + "method: [coop]", "unknown key 'method'; did you mean methods?"),
        (HEAD + "methods: [mocop]", "method 'mocop' is not known; did you mean mocoop?"),
        (HEAD + "targets: [dtt]", "data set 'dtt' has no config"),
        ("protocols: [base2nev]\ndatasets: [dtd]", "'base2nev' is not known; did you mean base2new?"),
        ("protocols: base2new\ndatasets: [imagnet]", "data set 'imagnet' has no config"),
        (HEAD + "options: [1]", "options: expected KEY: VALUE lines, found [1]"),
        (HEAD + "variants: {a/b: {OPTIM.LR: 1}}", "variants: 'a/b' cannot be part of a folder's name"),
        (HEAD + "variants: {}", "variants: expected at least one"),
        (HEAD + "options: {OPTIM.LR: 1, OPTIM: {LR: 2}}", "has a key twice"),
        (HEAD + "config: 3", "config: expected a name, found 3"),
        (HEAD + "config: ../../x", "config: '../../x' cannot be part of a folder's name"),
        ("[1, 2]", "holds a list, expected a mapping of keys"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(grid, text, said):
    with pytest.raises(ConfigError) as error:
        grid(text)
    assert said in str(error.value)


def test_all_that_is_wrong_is_said_at_once(grid):
    with pytest.raises(ConfigError) as error:
        grid("protocols: [x]\ndatasets: [y]\nmethods: [z]\nseed: 1")
    assert len(error.value.problems) == 1 + 4


def test_what_only_the_protocols_know_is_refused_too(items):
    with pytest.raises(ConfigError, match="no targets are known for dtd"):
        items("protocols: [cross_dataset]\ndatasets: [dtd]")
    with pytest.raises(ConfigError, match="MoCoOp/rn50.yaml does not exist"):
        items(HEAD + "methods: [mocoop]\nconfig: rn50")


def test_two_different_runs_of_one_folder_are_refused(items, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "birds.yaml").write_text("DATASET: {NAME: ImageFolder}")
    with pytest.raises(ConfigError, match="two different runs would have the folder .*birds"):
        items(f"protocols: fewshot\ndatasets: [{tmp_path}/a/birds.yaml, {tmp_path}/b/birds.yaml]\nmethods: coop")


def test_shards_are_all_items_once_whatever_is_finished(items):
    found = items("protocols: fewshot\ndatasets: dtd\nmethods: coop\nseeds: [1, 2]")
    parts = [sweeps.part_of(found, (i, 4)) for i in (1, 2, 3, 4)]
    assert [len(part) for part in parts] == [3, 3, 2, 2] and parts[1][1] is found[5]
    assert sorted(item.folder for part in parts for item in part) == sorted(item.folder for item in found)
    assert sweeps.part_of(found, (12, 12)) == []
    assert sweeps.shard_of("3/8") == (3, 8)
    for wrong in ("0/3", "4/3", "3", "1/0", "a/b", "-1/3", "1/3/5"):
        with pytest.raises(ValueError, match=wrong):
            sweeps.shard_of(wrong)


@pytest.mark.parametrize(
    ("name", "models", "runs"),
    [
        # methods x seeds x data sets
        ("base2new_11", 6 * 3 * 11, 2 * 6 * 3 * 11),
        ("fewshot_11", 5 * 3 * 11 * 5 + 3 * 11, 5 * 3 * 11 * 5 + 3 * 11),
        ("cross_dataset", 6 * 3, 6 * 3 * 11),
        ("domain_generalization", 6 * 3, 6 * 3 * 5),
        # zero-shot once for a seed; base-to-new, five few-shot runs and the source for the others
        ("demo", 2 * (1 + 4 * 7), 2 * (2 + 1 + 1 + 2 + 3) + 2 * 4 * (2 + 5 + 1 + 2 + 3)),
    ],
)
def test_the_published_tables_count_as_they_do_on_paper(name, models, runs):
    path = sweeps.find(name)
    assert path == ROOT / f"configs/sweeps/{name}.yaml"
    found = sweeps.items_of(sweeps.read_grid(path), SETTINGS)
    assert len(found) == models and sum(len(item.jobs) for item in found) == runs
    sweeps.check_options(found, train.config_of)


def test_a_file_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").touch()
    assert sweeps.find("demo") == Path("demo") and sweeps.find("none") == Path("none")
