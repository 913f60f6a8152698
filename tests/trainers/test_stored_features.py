"""Image features stored for training."""

import pytest
import torch
from mocoop.config import ConfigError
from mocoop.trainers.stored_features import StoredFeatures

PLAIN = ("INPUT.TRANSFORMS", ("normalize",), "TRAINER.MOCOOP.FINETUNE_VIT_LN", False, "OPTIM.WARMUP_EPOCH", 0)


def test_one_view_without_augmentation_trains_to_the_same_parameters(make_trainer):
    """Same batches in the same order, same features: the cache only saves the image tower's work."""
    results = []
    for views in (0, 1):
        trainer = make_trainer("MoCoOp", *PLAIN, "INPUT.FEATURE_VIEWS", views, "DATALOADER.TRAIN_X.BATCH_SIZE", 2)
        trainer.cfg.OUTPUT_DIR = trainer.output_dir = f"{trainer.output_dir}-{views}"
        trainer.train()
        results.append([p.detach().clone() for p in trainer.model.parameters()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_views_differ_and_each_image_keeps_its_label(make_trainer):
    trainer = make_trainer("CoOp", "INPUT.FEATURE_VIEWS", 3, "INPUT.TRANSFORMS", ("random_resized_crop", "normalize"))
    trainer.train()
    data = trainer.train_loader_x.dataset
    assert data.features.shape == (3, 4, 24) and data.labels.tolist() == [0, 0, 1, 1]
    torch.testing.assert_close(data.features.norm(dim=-1), torch.ones(3, 4))
    assert len(trainer.train_loader_x) == 1
    assert all(data[2]["label"] == 1 for _ in range(5))


def test_a_view_is_drawn_at_random():
    features = torch.arange(6.0).view(3, 2, 1)
    data = StoredFeatures(features, torch.tensor([7, 8]))
    torch.manual_seed(0)
    assert {float(data[1]["features"]) for _ in range(60)} == {1.0, 3.0, 5.0}
    assert int(data[1]["label"]) == 8


def test_refused_while_the_image_tower_learns(make_trainer):
    with pytest.raises(ConfigError, match="FEATURE_VIEWS needs a frozen image tower"):
        make_trainer("MoCoOp", "INPUT.FEATURE_VIEWS", 2)
