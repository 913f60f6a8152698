"""What is wrong with a folder of runs is said, and nothing else is lost."""

import json

import pytest
from mocoop import results
from mocoop.results import Place, Setting, reading
from mocoop.toolbox.dassl.utils import read_json

BASE, NEW = "base2new/train_base/dtd/shots_16", "base2new/test_new/dtd/shots_16"


def setting(part="train_base", dataset="dtd", method="CoOp", config="vit"):
    return Setting(Place("base2new", part, dataset, 16), method, config)


def test_every_protocol_is_found_at_full_precision(write_run, output):
    value = 66.66666666666667
    for place in (
        *("fewshot/dtd/shots_1", "source/dtd/shots_16", "cross_dataset/dtd/ucf101/shots_16"),
        *("domain_generalization/imagenet/imagenet_r/shots_16", BASE, "base2new/other/dtd/shots_16"),
    ):
        write_run(place, 1, value)
    found = results.collect(output)
    assert [str(run.setting.place) for run in found.runs] == [
        "train_base on dtd, 16 shots",
        "cross_dataset on dtd to ucf101, 16 shots",
        "domain_generalization on imagenet to imagenet_r, 16 shots",
        "fewshot on dtd, 1 shot",
        "source on dtd, 16 shots",
    ]
    assert all(run.metrics["test"]["accuracy"] == value for run in found.runs)
    assert found.values(setting()) == {1: value} and found.errors() == []


def test_only_one_data_set_with_what_was_trained_on_it(write_run, output):
    for place in (BASE, "source/dtd/shots_16", "cross_dataset/dtd/ucf101/shots_16", "fewshot/ucf101/shots_1"):
        write_run(place, 1, 50.0)

    def kept(dataset):
        return [run.setting.place.protocol for run in results.collect(output, dataset).runs]

    assert kept("dtd") == ["base2new", "cross_dataset", "source"]
    assert kept("ucf101") == ["cross_dataset", "fewshot", "source"]
    with pytest.raises(ValueError, match="no runs found.*train_base/sun397"):
        results.collect(output, "sun397")


def test_nothing_there(output):
    output.mkdir()
    with pytest.raises(ValueError, match="no runs found; expected folders .*train_base.*fewshot"):
        results.collect(output)
    with pytest.raises(ValueError, match="no runs found"):
        results.collect(output / "nothing")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"test": {"accur', "half-written"),
        ("", "half-written"),
        ("[]", "half-written or damaged"),
        ('{"val": {"accuracy": 1.0}}', "no entry 'test'"),
        ('{"test": {"accuracy": NaN}}', "expected a number"),
        ('{"test": {"accuracy": "80"}}', "expected a number"),
        (None, "does not exist"),
    ],
)
def test_damaged_files_are_named_and_nothing_else_is_lost(content, words, write_run, output):
    write_run(BASE, 1, 80.0)
    path = write_run(BASE, 2, 70.0) / "results.json"
    path.unlink() if content is None else path.write_text(content)
    found = results.collect(output)
    assert found.values(setting()) == {1: 80.0} and found.seen[setting()] == {1, 2}
    (error,) = found.errors()
    assert str(path) in error and words in error


def test_two_configs_under_one_name_have_no_mean(write_run, output):
    write_run(BASE, 1, 80.0)
    write_run(BASE, 2, 80.0, lr=0.2)
    write_run(NEW, 1, 60.0)
    found = results.collect(output)
    (error,) = found.errors()
    assert error.endswith(": OPTIM.LR") and "seed2 ran with another config than" in error and "seed1" in error
    assert found.values(setting()) == {} and found.values(setting("test_new")) == {1: 60.0}
    assert len(found.runs) == 3  # the CSV still has them


def test_configs_may_differ_in_what_changes_nothing(write_run, output):
    for seed, root in ((1, "data"), (2, "elsewhere")):
        path = write_run(BASE, seed, 80.0) / "config.yaml"
        path.write_text(path.read_text() + f"DATASET:\n  ROOT: {root}\n  NAME: dtd\n")
    assert results.collect(output).errors() == []


def test_a_damaged_config_is_named(write_run, output):
    write_run(BASE, 1, 80.0)
    path = write_run(BASE, 2, 80.0) / "config.yaml"
    path.write_text("SEED: 2\nOPTIM: {")
    (error,) = results.collect(output).errors()
    assert str(path) in error and "damaged" in error


def test_duplicate_seeds(write_run, output):
    write_run(BASE, "1", 80.0, written_seed=1)
    write_run(BASE, "01", 90.0, written_seed=1)
    found = results.collect(output)
    (error,) = found.errors()
    assert "seed 1 is there twice" in error and "seed01" in error and found.values(setting()) == {}


def test_a_copied_run_under_another_seed(write_run, output):
    write_run(BASE, 1, 80.0)
    write_run(BASE, 2, 80.0, written_seed=1)
    write_run(NEW, 3, 80.0, written_seed=4)
    twice, other = results.collect(output).errors()[::-1]
    assert "seed 1 is there twice" in twice and "holds a run of seed 4" in other and "seed3" in other


def test_the_csv_gives_the_same_results_back(write_run, output, tmp_path):
    write_run(BASE, 1, 200 / 3)
    write_run("fewshot/dtd/shots_1", 2, 0.1 + 0.2, method="MoCoOp", config="a-b", routing=[0.25, 0.75])
    found = results.collect(output)
    path = tmp_path / "results.csv"
    path.write_text(results.csv_text(found))
    lines = path.read_text().splitlines()
    assert lines[0] == "protocol,part,dataset,shots,method,config,seed,split,metric,value"
    assert lines[1] == "base2new,train_base,dtd,16,CoOp,vit,1,test,accuracy,66.66666666666667"
    assert lines[6] == "fewshot,,dtd,1,MoCoOp,a-b,2,test,accuracy,0.30000000000000004" and len(lines) == 11
    again = results.collect(path)
    assert [(run.setting, run.seed, run.metrics) for run in again.runs] == [
        (run.setting, run.seed, run.metrics) for run in found.runs
    ]
    assert isinstance(again.runs[0].metrics["test"]["images"], int)
    assert len(results.collect(path, "dtd").runs) == 2
    with pytest.raises(ValueError, match="no runs found in .*'val'"):
        results.collect(path, split="val")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: ["a,b", "1,2"], "expected the columns protocol"),
        (lambda lines: [*lines, lines[1]], "line 7: .*seed 1 is there twice"),
        (lambda lines: [*lines[:2], lines[2].rpartition(",")[0] + ",x"], "line 3: .*'x'"),
        (lambda lines: lines[:1], "no runs found"),
    ],
)
def test_a_damaged_csv(change, words, write_run, output, tmp_path):
    write_run(BASE, 1, 80.0)
    path = tmp_path / "results.csv"
    path.write_text("\n".join(change(results.csv_text(results.collect(output)).splitlines())) + "\n")
    with pytest.raises(ValueError, match=words):
        results.collect(path)


def test_the_config_that_others_extend():
    assert results.main_config({"demo", "demo-topk1", "demo-a"}) == "demo"
    assert results.main_config(["only"]) == "only"
    assert results.main_config({"demo-topk1", "demo-a"}) is None and results.main_config({"demo", "demolition"}) is None


def test_routing_is_kept(write_run, output):
    folder = write_run(BASE, 1, 80.0, method="MoCoOp", routing=[0.25, 0.75])
    (run,) = results.collect(output).runs
    assert run.routing["test"] == json.loads((folder / "results.json").read_text())["test"]["routing"]


def test_of_the_lines_that_differ_from_run_to_run_only_those_at_the_top_level_are_left_out():
    text = "OUTPUT_DIR: a\nOTHER:\n  SEED: 5\nRESUME: ''\nSEED: 3\n"
    for key in ("SEED", "OUTPUT_DIR", "RESUME", "ABSENT"):
        text = reading.without_line(text, key)
    assert text == "OTHER:\n  SEED: 5\n"
    assert reading.without_line("A: 1\nSEED: 3", "SEED") == "A: 1\n"
    texts = ("SEED: 3\n", "A: 1\nSEED: -2\n", "XSEED: 1\n", "")
    assert [reading.stated_seed(text) for text in texts] == [3, -2, None, None]


def test_reading_takes_time_in_proportion_to_the_number_of_runs(write_run, output, monkeypatch):
    reads = []
    monkeypatch.setattr(reading, "read_json", lambda path: reads.append(path) or read_json(path))
    for seed in range(1, 41):
        write_run("fewshot/dtd/shots_1", seed, 50.0 + seed, method="MoCoOp", routing=[0.25, 0.75])
    compared, equal = [], Setting.__eq__
    monkeypatch.setattr(Setting, "__eq__", lambda a, b: compared.append(1) or equal(a, b))
    found = results.collect(output)
    assert len(found.runs) == 40 and len(reads) == 40 and len(compared) < 5 * 40
    assert [run.routing["test"]["share"] for run in found.runs] == [[0.25, 0.75]] * 40  # only now read again
    assert len(reads) == 80
