"""train.py as a user calls it: start-up, precedence, errors, shadowing. (Whole runs: test_end_to_end.py.)"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import mocoop
import pytest
from mocoop import config, train
from mocoop.plugin import all_keys
from mocoop.runs import folder as runs

ROOT = Path(mocoop.__file__).parent
TRAIN = str(ROOT / "train.py")
EUROSAT = str(ROOT / "configs/datasets/eurosat.yaml")
COOP = str(ROOT / "configs/trainers/CoOp/vit_b16_ep50.yaml")


def call(*args, cwd, python=("-X", "importtime"), **env):
    """Run python in a folder; returns (exit code, stdout, stderr without import times, imported modules)."""
    done = subprocess.run(
        [sys.executable, *python, *map(str, args)],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=120,
    )
    times = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    errors = "\n".join(line for line in done.stderr.splitlines() if not line.startswith("import time:"))
    return done.returncode, done.stdout, errors, {line.rpartition("|")[2].strip() for line in times}


def config_of(*args):
    return train.build_config(train.build_parser().parse_intermixed_args(list(map(str, args))))[0]


def usual(*more):
    return ["--trainer", "CoOp", "--dataset-config-file", EUROSAT, "--config-file", COOP, *map(str, more)]


def test_help_is_light(tmp_path):
    code, out, _, modules = call(TRAIN, "--help", cwd=tmp_path)
    assert code == 0 and "--dataset-config-file" in out and "KEY VALUE" in out
    words = set(out.replace(",", " ").split())
    assert words >= {*mocoop.methods.table(), *(path.stem for path in (ROOT / "configs/datasets").glob("*.yaml"))}
    assert "argparse" in modules and not modules & {"torch", "numpy"}


def test_all_config_problems_at_once_before_torch(tmp_path):
    code, out, err, modules = call(
        *(TRAIN, "--trainer", "MoCop", "--backbone", "ViT-B/61", "--seed", "1", "--output-dir", "out"),
        *("--dataset-config-file", ROOT / "configs/datasets/eurosatt.yaml", "--config-file", COOP, "--eval-only"),
        *("OPTIM.LRR", "3", "OPTIM.NAME", "sdg", "INPUT.TRANSFORMS", "['random_flipp']", "OPTIM.LR_SCHEDULER", "cos"),
        *("DATALOADER.TRAIN_X.SAMPLER", "Randomsampler", "TRAINER.COOP.PREC", "fp17"),
        cwd=tmp_path,
    )
    assert code == 1 and out == "" and "Traceback" not in err
    expected = [
        "eurosatt.yaml does not exist; did you mean eurosat.yaml?",
        "unknown key OPTIM.LRR (options); did you mean OPTIM.LR?",
        "TRAINER.NAME = 'MoCop' is not known; did you mean MoCoOp?",
        "DATASET.NAME is not set",
        "did you mean random_flip?",
        "did you mean sgd?",
        "did you mean cosine?",
        "did you mean RandomSampler?",
        "TRAINER.COOP.PREC = 'fp17'",
        "ViT-B/16",
        "--eval-only needs --model-dir",
    ]
    assert [words for words in expected if words not in err] == []
    assert len(re.findall(r"^  - ", err, re.M)) == len(expected)
    assert "yacs.config" in modules and "torch" not in modules
    assert list(tmp_path.iterdir()) == []


def test_data_set_name_with_a_typo(tmp_path):
    code, _, err, modules = call(TRAIN, *usual(), "DATASET.NAME", "EuroSat", cwd=tmp_path)
    assert code == 1 and "did you mean EuroSAT?" in err and "torch" not in modules


def test_backbone_file_without_an_architecture(tmp_path):
    """It says its size itself if it is OpenAI's; anything else is one of the config's problems."""
    (tmp_path / "notes.pt").write_text("hello")
    code, _, err, _ = call(TRAIN, *usual("--backbone", "notes.pt"), cwd=tmp_path)
    assert code == 1 and "Traceback" not in err
    assert "  - MODEL.BACKBONE.NAME: notes.pt is not a checkpoint" in err


def test_precedence(tmp_path):
    """Data set file < method file < arguments < options."""
    data, method = tmp_path / "data.yaml", tmp_path / "method.yaml"
    data.write_text("DATASET: {NAME: EuroSAT, ROOT: d}\nSEED: 1\nOUTPUT_DIR: d\nOPTIM: {LR: 0.1, MAX_EPOCH: 1}\n")
    method.write_text("DATASET: {ROOT: m}\nSEED: 2\nOUTPUT_DIR: m\nOPTIM: {LR: 0.2}\nTRAINER: {NAME: MoCoOp}\n")
    files = ["--dataset-config-file", data, "--config-file", method, "--backbone", "ViT-B/32"]
    cfg = config_of(*files)
    assert (cfg.OPTIM.MAX_EPOCH, cfg.OPTIM.LR, cfg.SEED, cfg.OUTPUT_DIR, cfg.TRAINER.NAME) == (1, 0.2, 2, "m", "MoCoOp")
    cfg = config_of(*files, "--seed", 3, "--output-dir", "a", "--root", "a", "--trainer", "CoOp")
    assert (cfg.SEED, cfg.OUTPUT_DIR, cfg.DATASET.ROOT, cfg.TRAINER.NAME) == (3, "a", "a", "CoOp")
    cfg = config_of(*files, "--seed", 3, "--output-dir", "a", "SEED", 4, "OUTPUT_DIR", "o", "OPTIM.LR", 0.3)
    assert (cfg.SEED, cfg.OUTPUT_DIR, cfg.OPTIM.LR, cfg.MODEL.BACKBONE.NAME) == (4, "o", 0.3, "ViT-B/32")
    assert cfg.is_frozen()


def test_configs_of_the_package_are_found_from_any_folder_but_a_local_file_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = ["--trainer", "CoOp", "--dataset-config-file", "configs/datasets/eurosat.yaml", "--backbone", "RN50"]
    assert config_of(*args).DATASET.NAME == "EuroSAT"
    (tmp_path / "configs/datasets").mkdir(parents=True)
    (tmp_path / "configs/datasets/eurosat.yaml").write_text("DATASET: {NAME: Food101}\n")
    assert config_of(*args).DATASET.NAME == "Food101"


def test_seed_zero_is_a_seed_and_no_seed_keeps_the_files():
    assert config_of(*usual()).SEED == -1
    assert config_of(*usual("--seed", 0)).SEED == 0
    assert config_of(*usual("--seed", -1, "SEED", 5)).SEED == 5


def test_options_may_stand_before_arguments_and_numbers_may_be_negative():
    cfg = config_of("DATASET.NUM_SHOTS", 4, *usual("OPTIM.LR", 1), "--seed", -1, "OPTIM.WARMUP_EPOCH", -1)
    assert (cfg.DATASET.NUM_SHOTS, cfg.OPTIM.LR, cfg.SEED, cfg.OPTIM.WARMUP_EPOCH) == (4, 1.0, -1, -1)


def test_all_of_coops_arguments():
    cfg = config_of(
        *usual("--root", "r", "--source-domains", "a", "b", "--target-domains", "c", "--head", "h"),
        *("--transforms", "random_flip", "normalize", "--resume", "x", "--no-train", "--backbone", "ViT-B/32"),
    )
    assert (cfg.DATASET.ROOT, cfg.DATASET.SOURCE_DOMAINS, cfg.DATASET.TARGET_DOMAINS) == ("r", ("a", "b"), ("c",))
    assert (cfg.MODEL.HEAD.NAME, cfg.INPUT.TRANSFORMS, cfg.RESUME) == ("h", ("random_flip", "normalize"), "x")
    assert cfg.MODEL.BACKBONE.NAME == "ViT-B/32"


def test_input_is_filled_from_the_backbone_or_checked_against_it():
    cfg = config_of("--trainer", "CoOp", "--dataset-config-file", EUROSAT, "--backbone", "demo")
    assert cfg.INPUT.SIZE == (48, 48) and cfg.INPUT.PIXEL_MEAN == [0.5, 0.5, 0.5]
    with pytest.raises(config.ConfigError, match=r"SIZE is \(224, 224\), but backbone demo .* \(48, 48\)"):
        config_of(*usual("--backbone", "demo"))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--eval-only"], "--eval-only needs --model-dir"),
        (["--eval-only", "--model-dir", "nowhere"], "nowhere does not exist"),
        (["--eval-only", "--model-dir", ".", "--load-epoch", "0"], "--load-epoch 0: --model-dir has epochs none"),
        (["DATASET.NUM_SHOTS"], "has no value"),
    ],
)
def test_more_problems(more, words):
    with pytest.raises(config.ConfigError, match=re.escape(words)):
        config_of(*usual(*more))


def test_zero_shot_needs_no_model():
    given = config_of(*usual("--eval-only", "--trainer", "ZeroshotCLIP", "--model-dir", ".", "--load-epoch", "50"))
    assert given.TRAINER.NAME == "ZeroshotCLIP"  # CoOp's scripts name them for every method
    assert config_of(*usual("--eval-only", "--trainer", "ZeroshotCLIP")).TRAINER.NAME == "ZeroshotCLIP"


def test_an_output_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err, modules = call(TRAIN, *usual("--output-dir", "file/out"), cwd=tmp_path)
    assert code == 1 and "Traceback" not in err and "torch" not in modules
    assert 'Cannot write to the output folder "file/out"' in err


def test_an_output_folder_that_holds_another_run(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    loader = ("DATALOADER.NUM_WORKERS", 3, "DATALOADER.CACHE_MB", 7)
    first = config_of(*usual("--output-dir", "elsewhere", "DATASET.NUM_SHOTS", 16, *loader))
    (out / "config.yaml").write_text(first.dump())
    (out / "results.json").write_text("{}")
    code, _, err, modules = call(TRAIN, *usual("--output-dir", out, "DATASET.NUM_SHOTS", 8, "SEED", 7), cwd=tmp_path)
    assert code == 1 and "Traceback" not in err and "torch" not in modules
    assert "DATASET.NUM_SHOTS: was 16, is now 8" in err and "SEED: was -1, is now 7" in err and "--output-dir" in err
    assert "DATALOADER.NUM_WORKERS: was 3, is now " in err  # the crops that workers draw depend on their number
    assert "CACHE_MB" not in err and "OUTPUT_DIR" not in err
    assert sorted(path.name for path in out.iterdir()) == ["config.yaml", "results.json"]
    assert (out / "config.yaml").read_text() == first.dump()


def test_an_output_folder_where_nothing_was_computed_may_be_used(tmp_path):
    (tmp_path / "config.yaml").write_text(config_of(*usual("DATASET.NUM_SHOTS", 16)).dump())
    with runs.claim(config_of(*usual("--output-dir", tmp_path)), config.compose([], all_keys())[0]) as folder:
        assert folder == tmp_path


def test_resume_from_nothing(tmp_path):
    code, _, err, _ = call(TRAIN, *usual("--output-dir", "out", "--resume", "nothing"), cwd=tmp_path)
    assert code == 1 and "--resume nothing: no checkpoint there" in err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("saved", "more", "words"),
    [
        (None, [], "Nothing was saved yet: the same command again starts anew."),
        ("run/learner/model.pth.tar-12", [], "… goes on after epoch 12, saved N s ago."),
        ("run/learner/model-rolling.pth.tar-7", [], "… goes on after epoch 7, saved N s ago."),
        ("run/learner/model-best.pth.tar", [], "… goes on from model-best.pth.tar, saved N s ago."),
        ("it/learner/model.pth.tar-3", ["--resume", "it"], "… goes on after epoch 3, saved N s ago."),
        ("run/learner/model.pth.tar-3", ["--eval-only", "--model-dir", "."], "… starts anew."),
    ],
)
def test_interrupt_says_how_to_go_on(monkeypatch, capsys, tmp_path, saved, more, words):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    if saved is not None:
        pointer = (tmp_path / saved).with_name("checkpoint")
        pointer.parent.mkdir(parents=True)
        pointer.write_text(f"{Path(saved).name}\n")
        os.utime(pointer, (time.time() - 34.2,) * 2)
    monkeypatch.setattr(train, "compute", interrupted)
    assert train.main(usual("--output-dir", "run", *more)) == 130
    expected = words.replace("…", "The same command again")
    assert re.sub("saved [3-9][0-9] s", "saved N s", capsys.readouterr().err) == f"\nInterrupted. {expected}\n"


def test_the_header_is_two_lines():
    def header(*args):
        given = train.build_parser().parse_intermixed_args(usual("--output-dir", "out", *args))
        return train.header(given, train.build_config(given)[0], "cpu (2 threads)").splitlines()

    first, second = header("--seed", 3, "DATASET.NUM_SHOTS", 4, "DATASET.SUBSAMPLE_CLASSES", "base")
    assert first == "CoOp on EuroSAT, base classes, 4 shots, seed 3: 50 epochs, backbone ViT-B/16, cpu (2 threads)"
    assert second == "out: log.txt gets everything that is printed, config.yaml all settings"
    first = header()[0]
    assert first == "CoOp on EuroSAT, all training images, no seed: 50 epochs, backbone ViT-B/16, cpu (2 threads)"
    first = header("--eval-only", "--model-dir", ".", "--seed", 0)[0]
    assert first == "CoOp on EuroSAT, seed 0: test of ., backbone ViT-B/16, cpu (2 threads)"


def test_an_unexpected_error_keeps_its_traceback(monkeypatch, capsys):
    monkeypatch.setattr(train, "run", lambda *_: {}["absent"])
    assert train.main([]) == 1
    assert "Traceback" in capsys.readouterr().err


SPY = """
import atexit

def tell():
    import sys
    import clip, datasets
    print("clip:", clip.WHOSE, "datasets:", datasets.WHOSE, "mocoop:", sys.modules["mocoop"].__file__)

atexit.register(tell)
"""


@pytest.fixture()
def foreign(tmp_path):
    """A site with other people's `clip` and `datasets`, and a hook that tells at exit which ones are found."""
    site = tmp_path / "site"
    for name in ("clip", "datasets"):
        (site / name).mkdir(parents=True)
        (site / name / "__init__.py").write_text("WHOSE = 'foreign'\n")
    (site / "sitecustomize.py").write_text(SPY)
    return str(site)


@pytest.mark.parametrize("how", ["script", "script in the checkout", "module in the checkout"])
def test_foreign_packages_are_not_shadowed(how, foreign, tmp_path):
    cwd = ROOT if "checkout" in how else tmp_path
    start = ["-m", "mocoop.train"] if "module" in how else [TRAIN]
    code, out, err, _ = call(*start, "--trainer", "x", cwd=cwd, python=(), PYTHONPATH=foreign)
    assert code == 1 and "TRAINER.NAME = 'x'" in err
    assert out == f"clip: foreign datasets: foreign mocoop: {ROOT / '__init__.py'}\n"


def test_a_copy_under_any_name_runs_itself_not_the_installed_one(foreign, tmp_path, copy_checkout):
    copy = copy_checkout(tmp_path / "my-copy")
    code, out, err, _ = call(copy / "train.py", "--trainer", "x", cwd=tmp_path, python=(), PYTHONPATH=foreign)
    assert code == 1 and "TRAINER.NAME = 'x'" in err
    assert out == f"clip: foreign datasets: foreign mocoop: {copy / '__init__.py'}\n"


def test_what_a_run_records(tmp_path):
    cfg = config_of(*usual("--output-dir", tmp_path / "run", "DATASET.NUM_SHOTS", 4))
    defaults = config.compose([], all_keys())[0]
    with runs.claim(cfg, defaults) as folder:
        (folder / "DONE").write_text("")
    runs.start(folder, cfg, runs.environment("cpu", model_dir=None))
    assert not runs.is_finished(folder)
    assert config.read_yaml(folder / "config.yaml")["DATASET.NUM_SHOTS"] == 4
    runs.finish(folder, 1.25)
    with runs.claim(cfg, defaults) as again:  # what was written is recognised as the same config
        assert again == folder
    assert runs.is_finished(folder)
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "DONE", "config.yaml", "env.json"]
