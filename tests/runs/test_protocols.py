"""The runs of every protocol, written out: folders, arguments, defaults, and what is refused."""

import subprocess
import sys
from pathlib import Path

import mocoop
import pytest
from mocoop import config, methods
from mocoop.commands import protocol
from mocoop.config import ConfigError
from mocoop.runs import protocols
from mocoop.runs.protocols import Experiment, Settings

ROOT = Path(mocoop.__file__).parent
DATA_SETS = sorted(path.stem for path in (ROOT / "configs/datasets").glob("*.yaml"))
SETTINGS = Settings(data=Path("/d"), output=Path("/o"))


def experiment(method="CoOp", dataset="dtd", seed=2, options=(), **settings):
    return Experiment(
        method, dataset, seed, Settings(**{"data": Path("/d"), "output": Path("/o"), **settings}), options
    )


def tail(job):
    """What follows --output-dir FOLDER in a job's arguments."""
    place = job.arguments.index("--output-dir")
    assert job.arguments[place + 1] == str(job.folder)
    return " ".join(job.arguments[place + 2 :])


def test_base_to_new_is_two_calls_of_train_py():
    train, test = protocols.PROTOCOLS["base2new"](experiment("MoCoOp", "eurosat"))
    assert train.folder == Path("/o/base2new/train_base/eurosat/shots_16/MoCoOp/vit_b16_ep300_batch32/seed2")
    assert " ".join(train.arguments) == (
        "--root /d --seed 2 --trainer MoCoOp"
        f" --dataset-config-file {ROOT}/configs/datasets/eurosat.yaml"
        f" --config-file {ROOT}/configs/trainers/MoCoOp/vit_b16_ep300_batch32.yaml --output-dir {train.folder}"
        " DATASET.SUBSAMPLE_CLASSES base DATASET.NUM_SHOTS 16"
    )
    assert train.model is None and test.model == train.folder
    assert test.folder == Path("/o/base2new/test_new/eurosat/shots_16/MoCoOp/vit_b16_ep300_batch32/seed2")
    # No epoch is named: the last one that was saved is found.
    assert tail(test) == f"--eval-only --model-dir {train.folder} DATASET.SUBSAMPLE_CLASSES new DATASET.NUM_SHOTS 16"


def test_zero_shot_needs_no_model():
    _, test = protocols.PROTOCOLS["base2new"](experiment("ZeroshotCLIP2"))
    assert test.model is None and tail(test).startswith("--eval-only DATASET")
    assert f"{ROOT}/configs/trainers/ZeroshotCLIP/vit_b16.yaml" in test.arguments


def test_few_shot_has_a_run_per_number_of_shots():
    jobs = protocols.fewshot(experiment("LASP", "dtd"))
    assert [str(job.folder.relative_to("/o/fewshot/dtd").parents[2]) for job in jobs] == [
        *("shots_1", "shots_2", "shots_4", "shots_8", "shots_16")
    ]
    assert [tail(job) for job in jobs] == [f"DATASET.NUM_SHOTS {shots}" for shots in (1, 2, 4, 8, 16)]
    assert [tail(job) for job in protocols.fewshot(experiment("LASP", shots=(4, 2)))] == [
        *("DATASET.NUM_SHOTS 4", "DATASET.NUM_SHOTS 2")
    ]


def test_few_shot_of_a_method_without_training_is_one_run():
    (job,) = protocols.fewshot(experiment("ZeroshotCLIP"))
    assert job.folder == Path("/o/fewshot/dtd/shots_16/ZeroshotCLIP/vit_b16/seed2")


def test_coop_few_shot_has_its_papers_epochs():
    def epochs(**more):
        return [
            tail(job).partition("MAX_EPOCH ")[2] or "of the config" for job in protocols.fewshot(experiment(**more))
        ]

    assert epochs() == ["50", "100", "100", "of the config", "of the config"]
    assert epochs(dataset="imagenet") == ["50"] * 5
    assert epochs(config="rn50") == ["of the config"] * 5 == epochs(dataset="demo_icons")
    (job,) = protocols.fewshot(experiment(shots=(1,)))
    assert job.folder == Path(
        "/o/fewshot/dtd/shots_1/CoOp/vit_b16/seed2"
    )  # 16 vectors, not base-to-new's "a photo of a"


def test_cross_dataset_trains_once_and_tests_every_target():
    source, *tests = protocols.PROTOCOLS["cross_dataset"](experiment("CoOp", "imagenet"))
    assert source.folder == Path("/o/source/imagenet/shots_16/CoOp/vit_b16_ep50_ctxv1/seed2")
    assert tail(source) == "DATASET.NUM_SHOTS 16"
    assert len(tests) == 10 == len({test.folder for test in tests})
    pets = tests[1]
    # The source's config, on the target's data.
    assert pets.folder == Path("/o/cross_dataset/imagenet/oxford_pets/shots_16/CoOp/vit_b16_ep50_ctxv1/seed2")
    assert f"{ROOT}/configs/datasets/oxford_pets.yaml" in pets.arguments and pets.model == source.folder
    assert tail(pets) == f"--eval-only --model-dir {source.folder} DATASET.NUM_SHOTS 16"


def test_domain_generalization_uses_the_same_model():
    source, *tests = protocols.PROTOCOLS["domain_generalization"](experiment("CoOp", "imagenet"))
    assert source == protocols.xd_train(experiment("CoOp", "imagenet"))[0]
    names = [test.folder.relative_to("/o/domain_generalization/imagenet").parts[0] for test in tests]
    assert names == ["imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r"]


def test_the_script_for_one_target_finds_its_source_and_its_protocol():
    for target in ("oxford_pets", "imagenet_r"):
        (job,) = protocols.xd_test(experiment(dataset=target))
        assert job in [
            job
            for name in ("cross_dataset", "domain_generalization")
            for job in protocols.PROTOCOLS[name](experiment(dataset="imagenet"))
        ]
    (job,) = protocols.xd_test(experiment(dataset="dtd", source="eurosat"))
    assert job.folder == Path("/o/cross_dataset/eurosat/dtd/shots_16/CoOp/vit_b16_ctxv1/seed2")
    with pytest.raises(ConfigError, match="SOURCE="):
        protocols.xd_test(experiment(dataset="image_folder"))


def test_own_targets_and_none():
    with pytest.raises(ConfigError, match="'dtt' has no config"):
        protocols.PROTOCOLS["cross_dataset"](experiment(dataset="eurosat", targets=("dtd", "dtt")))
    with pytest.raises(ConfigError, match="no targets are known for eurosat.*imagenet: imagenetv2.*TARGETS="):
        protocols.PROTOCOLS["domain_generalization"](experiment(dataset="eurosat"))
    _, job = protocols.PROTOCOLS["cross_dataset"](experiment(dataset="eurosat", targets=("dtd",)))
    assert job.folder == Path("/o/cross_dataset/eurosat/dtd/shots_16/CoOp/vit_b16_ctxv1/seed2")


def test_settings_and_options(tmp_path):
    own_file = tmp_path / "my_icons.yaml"
    own_file.write_text("DATASET: {NAME: ImageFolder}")
    own = experiment(
        *("CoOp", str(own_file), 0, ("OPTIM.MAX_EPOCH", "5")), **{"config": "rn50", "shots": (4,), "tag": "short"}
    )
    (job,) = protocols.base2new_train(own)
    assert job.folder == Path("/o/base2new/train_base/my_icons/shots_4/CoOp/rn50-short/seed0")
    assert str(own_file) in job.arguments and job.arguments[:2] == ("--root", "/d")
    assert tail(job) == "DATASET.SUBSAMPLE_CLASSES base DATASET.NUM_SHOTS 4 OPTIM.MAX_EPOCH 5"
    with pytest.raises(ConfigError, match="only the few-shot protocol"):
        protocols.base2new_train(experiment(shots=(1, 2)))


def test_a_file_of_ones_own_may_say_where_its_images_are(tmp_path):
    own = tmp_path / "birds.yaml"
    own.write_text("DATASET: {NAME: ImageFolder, ROOT: /pictures/birds}")
    source, test = protocols.PROTOCOLS["cross_dataset"](experiment(dataset="eurosat", targets=(str(own),)))
    assert "--root" in source.arguments and "--root" not in test.arguments
    assert test.folder == Path("/o/cross_dataset/eurosat/birds/shots_16/CoOp/vit_b16_ctxv1/seed2")


def test_a_folder_of_images_names_its_runs():
    (job,) = protocols.base2new_train(experiment(dataset="image_folder", data=Path("/pictures/birds")))
    assert job.folder.relative_to("/o/base2new/train_base").parts[0] == "image_folder-birds"
    assert f"{ROOT}/configs/datasets/image_folder.yaml" in job.arguments


def test_without_a_checkout_data_and_output_are_where_you_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(protocol, "ROOT", tmp_path / "site-packages/mocoop")
    assert protocol.from_environment({}) == Settings(data=tmp_path / "data", output=tmp_path / "output")


def test_environment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    none = protocol.from_environment({"SHOTS": "", "OTHER": "1"})
    assert none == Settings(data=ROOT / "data", output=ROOT / "output")
    given = protocol.from_environment(
        {
            "DATA": "d",
            "OUTPUT": "/o",
            "SHOTS": "1 16",
            "CFG": "c",
            "TAG": "t",
            "SOURCE": "s",
            "TARGETS": "a b",
            "JOBS": "2",
        }
    )
    assert given == Settings(tmp_path / "d", Path("/o"), (1, 16), "c", "t", "s", ("a", "b"), 2)
    for wrong in ({"SHOTS": "few"}, {"JOBS": "0"}, {"JOBS": "2 3"}, {"TAG": "a/b"}):
        with pytest.raises(ConfigError, match="SHOTS=|JOBS=|TAG="):
            protocol.from_environment(wrong)


def test_a_file_where_a_folder_is_asked_for_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    for name in ("DATA", "OUTPUT"):
        with pytest.raises(ConfigError, match=f"{name}={tmp_path}/file/a/b: {tmp_path}/file is not a folder"):
            protocol.from_environment({name: f"{tmp_path}/file/a/b"})
        with pytest.raises(ConfigError, match=f"{tmp_path}/link is a link to nothing"):
            protocol.from_environment({name: f"{tmp_path}/link"})


@pytest.mark.parametrize("row", methods.OURS, ids=lambda row: row.name)
def test_every_data_set_has_a_default_config_that_exists(row):
    assert len(DATA_SETS) >= 15
    backbones = {"demo": "demo", "mini": "miniature"}
    for name in DATA_SETS:
        path = row.folder / f"{protocols.default_config(row.name, name)}.yaml"
        assert config.read_yaml(path)["MODEL.BACKBONE.NAME"] == backbones.get(name.partition("_")[0], "ViT-B/16")


def test_ones_own_data_set_is_no_other_whatever_its_file_is_called():
    assert protocols.default_config("MoCoOp", "demo_mine.yaml") == protocols.default_config("MoCoOp", "image_folder")
    assert protocols.default_config("CoOp", "/data/imagenet_mine.yaml") == "vit_b16_ctxv1"
    assert protocol.workers_for([experiment(dataset="demo_mine.yaml")], SETTINGS) == 1
    ours = str(ROOT / "configs/datasets/demo_icons.yaml")
    assert protocols.default_config("MoCoOp", ours) == "demo"


def test_a_source_that_is_no_data_set_is_named(tmp_path):
    e = experiment("ZeroshotCLIP", source="imagnet", output=tmp_path)
    with pytest.raises(ConfigError, match="data set 'imagnet' has no config"):
        protocols.xd_test(e)
    (tmp_path / "source/imagnet").mkdir(parents=True)  # of a yaml file imagnet.yaml
    (job,) = protocols.xd_test(e)
    assert "cross_dataset/imagnet/dtd" in str(job.folder)


@pytest.mark.parametrize("seeds", [["1", "2"], ["1", "2", "3"], ["1 2", "OPTIM.MAX_EPOCH"]])
def test_seeds_that_are_not_one_argument_are_a_usage_error(seeds):
    with pytest.raises(ConfigError, match="usage"):
        protocol.run_protocol(["base2new", "dtd", "mocoop", *seeds], SETTINGS)


def test_options_of_a_protocol_reach_every_run(monkeypatch):
    jobs = []
    monkeypatch.setattr(protocol, "run_all", lambda found, workers: jobs.extend(found) or 1)
    protocol.run_protocol(["base2new", "dtd", "coop mocoop", "1 2", "OPTIM.MAX_EPOCH", "5"], SETTINGS)
    assert len(jobs) == 2 * 2 * 2
    assert all(job.arguments[-2:] == ("OPTIM.MAX_EPOCH", "5") for job in jobs)


def test_a_config_that_some_method_lacks_is_named_before_anything_starts():
    jobs = [job for m in ("CoOp", "MoCoOp") for job in protocols.fewshot(experiment(m, config="rn50"))]
    with pytest.raises(ConfigError, match=r"MoCoOp/rn50.yaml does not exist \(there are: demo, ") as error:
        protocols.check_files(jobs)
    assert "CoOp/rn50.yaml" not in str(error.value).replace("MoCoOp/", "")


def test_targets_are_data_sets():
    for known in (protocols.TARGETS, protocols.SHIFTS):
        assert {name for source, names in known.items() for name in (source, *names)} <= set(DATA_SETS)


def test_demo_runs_share_the_cores(monkeypatch):
    for cores, workers in ((2, 2), (64, 4)):
        monkeypatch.setattr(protocol, "cores", lambda cores=cores: cores)
        assert protocol.workers_for([experiment(dataset="demo_icons")], SETTINGS) == workers
    assert protocol.workers_for([experiment()], SETTINGS) == 1
    assert protocol.workers_for([experiment()], experiment(jobs=3).settings) == 3


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["base2new_train", "MoCoOp", "dtd"], "usage: bash scripts/<method>/base2new_train.sh DATASET SEED"),
        (["base2new_train", "MoCoOp", "dtd", "one"], "usage: "),
        (["base2new_train", "MoCoOp", "imagnet", "1"], "'imagnet' has no config"),
        (["base2new_train", "Mocop", "dtd", "1"], "'Mocop' is not known"),
        (["run", "base2new"], "usage: bash scripts/run_protocol.sh"),
        (["run", "base3new", "dtd"], "usage: bash scripts/run_protocol.sh"),
        (["run", "base2new", "dtd", "coop", "one"], "expected whole numbers"),
        (["run", "base2new", "dtd", "coop maple"], "'maple' is not known"),
        (["run", "domain_generalization", "dtd", "coop"], "no targets are known for dtd"),
    ],
)
def test_wrong_calls_say_what_is_expected(args, said):
    done = subprocess.run([sys.executable, str(ROOT), "protocol", *args], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr.startswith("Error: ") and said in done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""


@pytest.mark.parametrize("args", [["--help"], ["run", "--help"], ["base2new_train", "MoCoOp", "-h"]])
def test_help_lists_steps_protocols_and_each_setting_on_a_line(args):
    done = subprocess.run([sys.executable, str(ROOT), "protocol", *args], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert {line.split()[0] for line in lines if line.split()} >= {"STEP", "PROTOCOL", "METHOD", "DATASET", "SEED"}
    names = ["DATA", "OUTPUT", "SHOTS", "CFG", "TAG", "SOURCE", "TARGETS", "JOBS"]
    assert [line.split()[0] for line in lines[-8:]] == names
