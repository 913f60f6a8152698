"""The training loop: log lines, checkpoint tree, resume to the same bits, best_val, what is shown, and its errors."""

import io
import os
import re
import shutil
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from dassl.engine import TrainerX, build_trainer
from dassl.engine import trainer as engine
from dassl.utils import CheckpointError, load_checkpoint, set_random_seed, setup_logger


def tree(folder):
    return sorted(
        os.path.relpath(os.path.join(root, name), folder) for root, _, names in os.walk(folder) for name in names
    )


def test_log_lines_and_checkpoint_tree(make_cfg, build, capsys, tmp_path):
    trainer = build(make_cfg("TRAIN.PRINT_FREQ", 2, "TRAIN.CHECKPOINT_FREQ", 2))
    trainer.train()
    lines = capsys.readouterr().out.splitlines()
    number = r"\d+\.\d{3} \(\d+\.\d{3}\)"
    progress = rf"epoch \[(\d)/4\] batch \[(\d)/3\] time {number} data {number} "
    progress += r"loss \d+\.\d{4} \(\d+\.\d{4}\) lr \d\.\d{4}e-\d\d eta 0:00:\d\d"
    found = [re.fullmatch(progress, line) for line in lines if line.startswith("epoch")]
    assert all(found) and [match.groups() for match in found] == [(str(e), "2") for e in range(1, 5)]
    end = lines.index("Finish training")
    assert lines[end + 1 : end + 4] == ["Deploy the last-epoch model", "Evaluate on the *test* set", "=> result"]
    assert re.fullmatch(r"Elapsed: 0:00:\d\d", lines[-1])
    assert "No checkpoint found, train from scratch" in lines
    names = ["checkpoint", "model.pth.tar-2", "model.pth.tar-4"]
    assert [name for name in tree(tmp_path / "run") if "tensorboard" not in name] == [
        f"prompt_learner/{n}" for n in names
    ]
    assert (tmp_path / "run/prompt_learner/checkpoint").read_text() == "model.pth.tar-4\n"
    checkpoint = load_checkpoint(tmp_path / "run/prompt_learner/model.pth.tar-4")
    assert {"state_dict", "epoch", "optimizer", "scheduler", "val_result", "rng", "best_result"} <= checkpoint.keys()
    assert checkpoint["epoch"] == 4 and checkpoint["val_result"] is None
    assert trainer.results["test"]["accuracy"] == trainer.test()


def test_every_batch_of_a_short_epoch_is_printed_and_the_last_shows_the_next_rate(make_cfg, build, capsys):
    build(make_cfg("OPTIM.MAX_EPOCH", 2, "TEST.NO_TEST", True)).train()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    rates = [re.search(r"lr (\S+)", line)[1] for line in lines]
    # Epoch 1 at the warm-up rate; the step on its last batch shows already.
    assert rates == ["1.0000e-05"] * 2 + ["5.0000e-02"] * 3 + ["2.5000e-02"]


def test_epoch_metrics_are_full_precision_means(make_cfg, build):
    trainer = build(make_cfg("OPTIM.MAX_EPOCH", 1, "TEST.NO_TEST", True))
    losses, seen = [], []
    step, after = trainer.forward_backward, trainer.after_epoch

    def recording(batch):
        summary = step(batch)
        losses.append(summary["loss"])
        return summary

    trainer.forward_backward = recording
    trainer.after_epoch = lambda: (seen.append(dict(trainer.epoch_metrics)), after())
    trainer.train()
    assert len(losses) == 3 and seen == [{"loss": sum(losses) / 3}]


@pytest.mark.parametrize("final", ["last_step", "best_val"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("rolling", [False, True])
def test_two_plus_two_epochs_equal_four(make_cfg, build, tmp_path, final, optimizer, rolling, monkeypatch):
    opts = ["TEST.FINAL_MODEL", final, "OPTIM.NAME", optimizer, "TRAIN.CHECKPOINT_FREQ", 0 if rolling else 2]
    if rolling:
        monkeypatch.setattr(engine, "MOST_UNSAVED_SECONDS", 0.0)
    whole = build(make_cfg(*opts, "OUTPUT_DIR", str(tmp_path / "whole")))
    whole.train()
    interrupted = build(make_cfg(*opts))
    interrupted.stop_before = 3  # one epoch after the last checkpoint is lost
    with pytest.raises(KeyboardInterrupt):
        interrupted.train()
    resumed = build(make_cfg(*opts), seed=99)  # other draws until the checkpoint is read
    resumed.train()
    first = resumed.start_epoch
    # Every epoch is saved, or every second; then the file saved last may be the best one.
    assert first == 3 if rolling else first == 2 or (first == 3 and final == "best_val")
    assert resumed.rates == whole.rates[first:]
    assert resumed.draws == whole.draws[3 * first :]
    for folder in ("model.pth.tar-4",) + (("model-best.pth.tar",) if final == "best_val" else ()):
        one, two = (load_checkpoint(tmp_path / run / "prompt_learner" / folder) for run in ("whole", "run"))
        for name, value in one["state_dict"].items():
            assert torch.equal(value, two["state_dict"][name])
        for key in ("epoch", "scheduler", "val_result", "best_result"):
            assert one[key] == two[key]
        assert one["rng"]["python"] == two["rng"]["python"] and torch.equal(one["rng"]["torch"], two["rng"]["torch"])
        assert str(one["optimizer"]) == str(two["optimizer"])
    assert whole.results == resumed.results
    assert tree(tmp_path / "run") == tree(tmp_path / "whole")  # nothing rolling is left


@pytest.mark.parametrize(
    ("seconds", "freq", "saved"),
    [
        (5, 0, []),  # 10 epochs are over in 50 s
        (25, 0, [2, 4, 6, 8]),  # a third epoch would make it 75 s
        (60, 0, [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (25, 3, [2, 5, 8]),  # the numbered ones count
        (15, 3, []),
    ],
)
def test_no_more_than_a_minute_of_work_is_ever_unsaved(make_cfg, build, monkeypatch, seconds, freq, saved):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(engine, "time", SimpleNamespace(time=time.time, monotonic=lambda: clock.now))
    trainer = build(make_cfg("TEST.NO_TEST", True, "OPTIM.MAX_EPOCH", 10, "TRAIN.CHECKPOINT_FREQ", freq))
    names, save, epoch = [], trainer.save_model, trainer.run_epoch

    def spend():
        epoch()
        clock.now += seconds

    def note(*args, model_name="", **kwargs):
        names.append(model_name)
        save(*args, model_name=model_name, **kwargs)

    trainer.run_epoch, trainer.save_model = spend, note
    trainer.train()
    assert [name for name in names if name] == [f"model-rolling.pth.tar-{number}" for number in saved]


def test_one_rolling_checkpoint_is_kept_and_none_after_the_end(make_cfg, build, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "MOST_UNSAVED_SECONDS", 0.0)
    first = build(make_cfg("TEST.NO_TEST", True))
    first.stop_before = 3
    with pytest.raises(KeyboardInterrupt):
        first.train()
    assert tree(tmp_path / "run/prompt_learner") == ["checkpoint", "model-rolling.pth.tar-3"]
    (tmp_path / "run/prompt_learner/model-rolling.pth.tar-2").touch()  # killed before the older one was removed
    build(make_cfg("TEST.NO_TEST", True)).train()
    assert tree(tmp_path / "run/prompt_learner") == ["checkpoint", "model.pth.tar-4"]


def test_several_models_killed_between_their_rolling_saves_go_back_to_the_older(make_cfg, build, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "MOST_UNSAVED_SECONDS", 0.0)

    def two():
        trainer = build(make_cfg("TEST.NO_TEST", True))
        trainer.register_model("other", torch.nn.Linear(1, 1))
        return trainer

    killed = two()
    killed.stop_before = 2
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    newer = tmp_path / "run/prompt_learner"  # the first model's next one was written, the second's not
    state = load_checkpoint(newer / "model-rolling.pth.tar-2")
    torch.save({**state, "epoch": 3}, newer / "model-rolling.pth.tar-3")
    (newer / "checkpoint").write_text("model-rolling.pth.tar-3\n")
    assert two().resume_model_if_exist(str(tmp_path / "run")) == 2


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_sees_a_bar_over_the_run_and_the_log_gets_the_lines(
    make_cfg, build, tmp_path, monkeypatch, terminal
):
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(engine, "warn_of_overlap", lambda *_: print("Warning: seen before"))
    opts = ["TEST.FINAL_MODEL", "best_val", "TRAIN.CHECKPOINT_FREQ", 2]
    setup_logger(str(tmp_path / "run"))
    first = build(make_cfg(*opts))
    first.stop_before = 2
    with pytest.raises(KeyboardInterrupt):
        first.train()
    before, _ = stream.getvalue(), stream.truncate(0)
    build(make_cfg(*opts)).train()
    sys.stdout.close()
    after, log = stream.getvalue(), (tmp_path / "run/log.txt").read_text()
    lines = re.findall(r"^epoch \[(\d)/4\] batch \[\d/3\]", log, re.M)
    assert lines == ["1"] * 3 + ["2"] * 3 + ["3"] * 3 + ["4"] * 3 and "epoch 4/4" not in log
    assert "Warning: seen before" in before and "Finish training" in after and "* accuracy" in after
    if not terminal:
        assert before.count("epoch [") == 6 and "%|" not in before + after
        return
    assert "epoch [" not in before + after and "Checkpoint saved" not in before + after
    assert re.search(r"epoch 1/4   0%\|", before) and re.search(r"epoch 2/4  50%\|.*\| 00:\d\d<\S+ loss \d", before)
    assert re.search(r"epoch 3/4  50%\|", after)  # it goes on where it was
    assert re.search(r"epoch 4/4 100%\|.*loss \d\.\d{3} val \d+\.\d", after)


def test_a_trainer_with_its_own_loop_shows_what_it_prints(make_cfg, build, toy_trainer, tmp_path, monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(toy_trainer, "run_epoch", lambda self: print("my own line"))
    setup_logger(str(tmp_path / "run"))
    build(make_cfg("TEST.NO_TEST", True)).train()
    assert stream.getvalue().count("my own line\n") == 4 and "epoch 1/4" not in stream.getvalue()


def test_resumed_with_workers_equals_uninterrupted(make_cfg, build, toy_trainer, tmp_path):
    """The same number of workers draws the same crops after a resume; another number draws others."""

    def weights(folder, workers, stop_before=None):
        where = ["OUTPUT_DIR", str(tmp_path / folder), "DATALOADER.NUM_WORKERS", workers, "TRAIN.CHECKPOINT_FREQ", 1]
        trainer = build(make_cfg(*where))
        trainer.stop_before = stop_before
        if stop_before is None:
            trainer.train()
        else:
            with pytest.raises(KeyboardInterrupt):
                trainer.train()
        return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])

    whole = weights("whole", 2)
    weights("run", 2, stop_before=2)
    assert torch.equal(weights("run", 2), whole) and not torch.equal(weights("other", 1), whole)


def test_a_finished_run_only_tests_again(make_cfg, build, tmp_path, capsys):
    first = build(make_cfg())
    first.train()
    capsys.readouterr()
    again = build(make_cfg())
    again.train()
    printed = capsys.readouterr().out
    assert again.start_epoch == 4 and again.draws == [] and "will resume training" in printed
    assert again.results == first.results


def scripted(trainer, results):
    """Validation gives these results in turn; the test set gives 0."""
    results = iter(results)
    trainer.test = lambda split=None: next(results) if split == "val" else 0.0
    return trainer


def test_best_val_keeps_its_best_across_a_resume(make_cfg, build, tmp_path):
    opts = ["TEST.FINAL_MODEL", "best_val", "TRAIN.CHECKPOINT_FREQ", 1]
    first = scripted(build(make_cfg(*opts)), [10.0, 50.0])
    first.stop_before = 2
    with pytest.raises(KeyboardInterrupt):
        first.train()
    best = tmp_path / "run/prompt_learner/model-best.pth.tar"
    before = best.read_bytes()
    second = scripted(build(make_cfg(*opts)), [30.0, 50.0])  # equal is not better
    second.train()
    assert second.start_epoch == 2 and second.best_result == 50.0
    assert best.read_bytes() == before and load_checkpoint(best)["val_result"] == 50.0
    # The deployed model is the best one.
    for name, value in load_checkpoint(best)["state_dict"].items():
        assert torch.equal(second.model.state_dict()[name], value)
    # From a checkpoint without the key (Dassl's own), the best file's val_result counts.
    last = tmp_path / "run/prompt_learner/model.pth.tar-4"
    legacy = {k: v for k, v in load_checkpoint(last).items() if k not in ("best_result", "rng", "scaler")}
    torch.save(legacy, last)
    third = build(make_cfg(*opts))
    assert third.resume_model_if_exist(str(tmp_path / "run")) == 4 and third.best_result == 50.0


def test_resume_from_another_folder_brings_the_best_along(make_cfg, build, tmp_path):
    opts = ["TEST.FINAL_MODEL", "best_val", "TRAIN.CHECKPOINT_FREQ", 1]
    first = scripted(build(make_cfg(*opts)), [50.0, 10.0])
    first.stop_before = 2
    with pytest.raises(KeyboardInterrupt):
        first.train()
    moved = ["OUTPUT_DIR", str(tmp_path / "other"), "RESUME", str(tmp_path / "run")]
    second = scripted(build(make_cfg(*opts, *moved)), [20.0, 20.0])
    second.train()
    assert load_checkpoint(tmp_path / "other/prompt_learner/model-best.pth.tar")["val_result"] == 50.0


def test_best_val_needs_validation_images(make_cfg, build):
    trainer = build(make_cfg("DATASET.NUM_LABELED", 0, "TEST.FINAL_MODEL", "best_val"))
    with pytest.raises(ValueError, match="no validation images"):
        trainer.train()
    with pytest.raises(ValueError, match="no validation images"):
        trainer.test(split="val")
    with pytest.raises(ValueError, match="test"):
        trainer.test(split="tset")
    with pytest.raises(ValueError, match="best_val"):
        build(make_cfg("TEST.FINAL_MODEL", "best")).train()


def test_mistyped_resume_and_unwritable_output(make_cfg, build, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        build(make_cfg("RESUME", str(tmp_path / "nowhere"))).train()
    (tmp_path / "file").touch()
    trainer = build(make_cfg("OUTPUT_DIR", str(tmp_path / "file" / "run")))
    with pytest.raises(OSError, match="Cannot write to the output folder"):
        trainer.train()
    assert trainer.draws == []


def test_truncated_and_foreign_checkpoints_stop_the_resume(make_cfg, build, tmp_path):
    build(make_cfg("TEST.NO_TEST", True)).train()
    path = tmp_path / "run/prompt_learner/model.pth.tar-4"
    with pytest.raises(CheckpointError, match="does not fit the model"):
        build(make_cfg("INPUT.SIZE", (4, 4))).train()
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="model.pth.tar-4"):
        build(make_cfg()).train()
    path.unlink()
    with pytest.raises(FileNotFoundError, match="model.pth.tar-4"):
        build(make_cfg()).train()


def test_load_model(make_cfg, build, tmp_path, capsys):
    trained = build(make_cfg("TEST.NO_TEST", True))
    trained.train()
    fresh = build(make_cfg(), seed=4)
    fresh.load_model(str(tmp_path / "run"), epoch=4)  # val_result None (Dassl fails on it)
    assert torch.equal(fresh.model[1].weight, trained.model[1].weight)
    with pytest.raises(FileNotFoundError, match="model-best"):
        fresh.load_model(str(tmp_path / "run"))
    with pytest.raises(FileNotFoundError, match="model.pth.tar-9"):
        fresh.load_model(str(tmp_path / "run"), epoch=9)
    fresh.load_model("")
    assert "skipped" in capsys.readouterr().out


def test_zero_shot_trainer_survives_train_and_resume(make_cfg, build, tmp_path, capsys):
    for opts in ((), ("RESUME", str(tmp_path / "nowhere"))):
        trainer = build(make_cfg("TRAINER.NAME", "ToyZeroShot", *opts))
        trainer.train()
        printed = capsys.readouterr().out
        assert "nothing to train" in printed and "Finish training\nDeploy the last-epoch model\n" in printed
        assert 0 <= trainer.results["test"]["accuracy"] <= 100


def test_a_checkpoint_without_schedule_state_still_gets_the_right_rate(make_cfg, build, tmp_path):
    build(make_cfg("TEST.NO_TEST", True, "TRAIN.CHECKPOINT_FREQ", 2)).train()
    folder = tmp_path / "run/prompt_learner"
    old = load_checkpoint(folder / "model.pth.tar-2")
    torch.save({**old, "scheduler": None, "optimizer": None}, folder / "model.pth.tar-2")
    (folder / "checkpoint").write_text("model.pth.tar-2\n")
    resumed = build(make_cfg())
    assert resumed.resume_model_if_exist(str(tmp_path / "run")) == 2
    # One warm-up epoch, so epoch index 2 is the cosine's second of T = 4.
    assert resumed.get_current_lr() == pytest.approx(0.05 * (1 + 2**-0.5) / 2)


def test_several_models_killed_between_their_saves_go_back_to_the_older(make_cfg, build, tmp_path):
    def two():
        trainer = build(make_cfg("TRAIN.CHECKPOINT_FREQ", 2, "TEST.NO_TEST", True))
        trainer.register_model("other", torch.nn.Linear(1, 1))
        return trainer

    two().train()
    (tmp_path / "run/other/checkpoint").write_text("model.pth.tar-2\n")
    assert two().resume_model_if_exist(str(tmp_path / "run")) == 2
    (tmp_path / "run/other/checkpoint").unlink()  # killed before the first save was complete
    assert two().resume_model_if_exist(str(tmp_path / "run")) == 0


def test_registration_and_modes(make_cfg, build):
    trainer = build(make_cfg())
    with pytest.raises(ValueError, match="prompt_learner"):
        trainer.register_model("prompt_learner", torch.nn.Linear(1, 1))
    trainer.register_model("head", torch.nn.Linear(1, 1))
    trainer.free = torch.nn.Linear(1, 1)  # not registered: keeps its mode
    trainer.set_model_mode("eval")
    assert not trainer.model.training and trainer.free.training
    trainer.set_model_mode("train", "head")
    assert trainer._models["head"].training and not trainer.model.training
    assert trainer.get_model_names() == ["prompt_learner", "head"]
    with pytest.raises(ValueError, match="heat"):
        trainer.get_model_names("heat")
    with pytest.raises(KeyError, match="testing"):
        trainer.set_model_mode("testing")
    with pytest.raises(FloatingPointError):
        trainer.model_backward_and_update(torch.tensor(float("nan")))


def test_construction_order_and_missing_parts(make_cfg):
    order = []

    class Early(TrainerX):
        def check_cfg(self, cfg):
            order.append(("check_cfg", hasattr(self, "cfg")))

        def build_data_loader(self):
            order.append(("data", hasattr(self, "model")))
            super().build_data_loader()

        def build_model(self):
            order.append(("model", hasattr(self, "evaluator")))
            self.model = torch.nn.Flatten()
            self.register_model("m", self.model)

    trainer = Early(make_cfg())
    assert order == [("check_cfg", False), ("data", False), ("model", False)] and trainer.best_result == float("-inf")
    with pytest.raises(TypeError, match="must define forward_backward"):
        trainer.train()
    with pytest.raises(TypeError, match="must define build_model"):
        TrainerX(make_cfg())

    class Hasty(TrainerX):
        def __init__(self, cfg):
            self.register_model("m")

    with pytest.raises(AttributeError, match="before"):
        Hasty(make_cfg())


def test_seed_zero_is_reproducible(make_cfg, build, tmp_path):
    weights = []
    for _ in range(2):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        set_random_seed(0)
        trainer = build_trainer(make_cfg("OPTIM.MAX_EPOCH", 1, "TEST.NO_TEST", True))
        trainer.train()
        weights.append(trainer.model[1].weight.detach().clone())
    assert torch.equal(*weights)


def test_scaler_state_travels(make_cfg, build, tmp_path):
    class Scaler:
        def __init__(self, scale):
            self.scale = scale

        def state_dict(self):
            return {"scale": self.scale}

        def load_state_dict(self, state):
            self.scale = state["scale"]

    first = build(make_cfg("TEST.NO_TEST", True))
    first.scaler = Scaler(512.0)
    first.train()
    second = build(make_cfg())
    second.scaler = Scaler(1.0)
    second.resume_model_if_exist(str(tmp_path / "run"))
    assert second.scaler.scale == 512.0
