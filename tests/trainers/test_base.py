"""What all trainers share: image features of a split are kept between tests, and for how long."""

import json
from types import SimpleNamespace

import pytest
import torch
from mocoop.trainers import records
from mocoop.trainers.base import PromptTrainer
from mocoop.trainers.precision import autocast_dtype


@pytest.fixture()
def counted(monkeypatch):
    """The number of image batches encoded so far, as a list of one."""
    from mocoop.trainers import base

    count, encode = [0], base.PromptTrainer.encode_frozen

    def counting(self, image):
        count[0] += 1
        return encode(self, image)

    monkeypatch.setattr(base.PromptTrainer, "encode_frozen", counting)
    return count


def test_validation_after_every_epoch_encodes_its_images_once(make_trainer, counted):
    opts = ("TEST.FINAL_MODEL", "best_val", "DATALOADER.TEST.BATCH_SIZE", 4, "OPTIM.MAX_EPOCH", 3)
    trainer = make_trainer("CoOp", *opts)
    trainer.train()
    assert len(trainer.val_loader) == len(trainer.test_loader) == 2
    assert counted[0] == 2 + 2  # val in the first epoch, test at the end


@pytest.mark.parametrize("method", ["CoOp", "MoCoOp", "LASP"])
def test_two_checkpoints_in_one_run_are_tested_as_in_two(make_trainer, tmp_path, counted, method):
    make_trainer(method, "TRAIN.CHECKPOINT_FREQ", 1, "OPTIM.LR", 0.5).train()
    apart, learns = [], method != "CoOp"
    for epoch in (1, 2):
        trainer = make_trainer(method)
        trainer.load_model(str(tmp_path / "out"), epoch=epoch)
        trainer.test()
        apart.append(json.loads((tmp_path / "out/results.json").read_text())["test"])
    counted[0] = 0
    together = make_trainer(method)
    for epoch in (1, 2):
        together.load_model(str(tmp_path / "out"), epoch=epoch)
        together.test()
        records.keep_epoch_result(tmp_path / "out", "test", epoch)
    found = json.loads((tmp_path / "out/results.json").read_text())
    assert [found["test_epoch1"], found["test_epoch2"], found["test"]] == [*apart, apart[1]]
    assert counted[0] == (2 if learns else 1)  # LayerNorms that learned make other features


@pytest.mark.parametrize("method", ["MoCoOp", "LASP"])
def test_an_image_tower_that_learns_is_asked_after_every_epoch(make_trainer, counted, method):
    opts = ("TEST.FINAL_MODEL", "best_val", "DATALOADER.TEST.BATCH_SIZE", 4, "OPTIM.MAX_EPOCH", 3)
    make_trainer(method, *opts).train()
    assert counted[0] == 3 * 2 + 2


def test_a_resumed_run_with_kept_features_equals_an_uninterrupted_one(make_trainer, monkeypatch):
    """A pass over kept features draws what a pass of the loader draws, or shuffles would differ after a resume."""
    opts = ["TEST.FINAL_MODEL", "best_val", "TRAIN.CHECKPOINT_FREQ", 1, "OPTIM.MAX_EPOCH", 7]
    opts += ["DATALOADER.TRAIN_X.BATCH_SIZE", 1]  # so that every order of the images gives other numbers
    whole = make_trainer("CoOp", *opts)
    whole.train()
    broken = make_trainer("CoOp", *opts, "OUTPUT_DIR", whole.output_dir + "2")
    after = type(broken).after_epoch

    def interrupted(self):
        after(self)
        if self.epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(type(broken), "after_epoch", interrupted)
        broken.train()
    resumed = make_trainer("CoOp", *opts, "OUTPUT_DIR", whole.output_dir + "2")
    resumed.train()
    assert resumed.start_epoch == 2
    assert torch.equal(resumed.model.ctx, whole.model.ctx)


def test_kept_features_end_with_their_loader(make_trainer, counted):
    trainer = make_trainer("ZeroshotCLIP")
    first = trainer.test()
    trainer.test_loader = trainer.val_loader
    assert trainer.test() == first and counted[0] == 2


@pytest.mark.parametrize(("units", "dtype"), [(True, torch.bfloat16), (False, None)])
def test_amp_on_a_cpu_takes_bfloat16_where_it_pays(monkeypatch, units, dtype):
    monkeypatch.setattr("mocoop.trainers.precision.has_bf16_units", lambda: units)
    assert autocast_dtype("amp", torch.device("cpu")) == dtype
    assert autocast_dtype("bf16", torch.device("cpu")) == torch.bfloat16  # asked for by name: as asked


def test_zero_shot_takes_a_precision(make_trainer):
    exact, coarse = (make_trainer("ZeroshotCLIP", "TRAINER.ZSCLIP.PREC", prec) for prec in ("fp32", "bf16"))
    image = torch.randn(4, 3, 32, 32)
    assert (exact.precision, coarse.precision) == ("float32", "bfloat16")
    a, b = exact.model_inference(image), coarse.model_inference(image)
    assert a.dtype == b.dtype == torch.float32 and not torch.equal(a, b)
    torch.testing.assert_close(a, b, atol=0.02 * float(exact.backbone.logit_scale.exp()), rtol=0)


def test_a_split_that_is_not_there_is_named_before_training():
    """In a trainer without anything but its loaders, so that whatever comes later would fail otherwise."""
    test = SimpleNamespace(SPLIT="val", NO_TEST=False)
    trainer = SimpleNamespace(cfg=SimpleNamespace(TEST=test, DATASET=SimpleNamespace(NAME="Own")))
    trainer.val_loader, trainer.test_loader = None, "batches"
    trainer.loader_of = lambda split: PromptTrainer.loader_of(trainer, split)
    with pytest.raises(ValueError, match="Own has no validation split, on which TEST.SPLIT val"):
        PromptTrainer.before_train(trainer)
    assert trainer.loader_of("test") == "batches"
