"""Images kept in memory: the same tensors, read once, within the bound."""

import pytest
import torch
from dassl.config import get_cfg_default
from dassl.data.cache import fits, split_fixed
from dassl.data.data_manager import build_data_loader
from dassl.data.datasets import Datum
from dassl.data.transforms import build_transform
from dassl.utils.tools import ImageError
from PIL import Image
from torchvision import transforms as T


@pytest.fixture()
def photos(tmp_path):
    generator = torch.Generator().manual_seed(0)
    items = []
    for i in range(6):
        pixels = torch.randint(256, (40 + 5 * i, 70, 3), dtype=torch.uint8, generator=generator)
        path = tmp_path / f"{i}.png"
        Image.fromarray(pixels.numpy()).save(path)
        items.append(Datum(impath=str(path), label=i % 2, classname=str(i % 2)))
    return items


def config(megabytes):
    cfg = get_cfg_default()
    cfg.INPUT.SIZE, cfg.INPUT.TRANSFORMS = (32, 32), ("random_resized_crop", "random_flip", "normalize")
    cfg.DATALOADER.NUM_WORKERS, cfg.DATALOADER.CACHE_MB = 0, megabytes
    return cfg


def two_epochs(photos, megabytes, is_train):
    cfg = config(megabytes)
    tfm = build_transform(cfg, is_train=is_train)
    sampler = "RandomSampler" if is_train else "SequentialSampler"
    loader = build_data_loader(cfg, sampler, photos, 2, tfm=tfm, is_train=is_train)
    torch.manual_seed(3)
    return loader, [batch["img"] for _ in range(2) for batch in loader]


@pytest.mark.parametrize("is_train", [True, False])
def test_tensors_are_bit_identical_with_and_without(photos, is_train):
    kept, with_cache = two_epochs(photos, 10, is_train)
    plain, without = two_epochs(photos, 0, is_train)
    assert len(kept.dataset.kept) == 6 and plain.dataset.kept is None
    assert all(torch.equal(a, b) for a, b in zip(with_cache, without, strict=True))


@pytest.mark.parametrize("is_train", [True, False])
def test_files_are_read_once(photos, monkeypatch, is_train):
    from dassl.data import data_manager

    reads = []
    read = data_manager.read_image
    monkeypatch.setattr(data_manager, "read_image", lambda path: reads.append(path) or read(path))
    two_epochs(photos, 10, is_train)
    assert sorted(reads) == sorted(item.impath for item in photos)


def test_the_bound_by_hand(photos):
    paths = [item.impath for item in photos]
    total = sum((40 + 5 * i) * 70 * 4 for i in range(6))
    assert fits(paths, None, 6 * 64 * 64 * 4) == (total <= 6 * 64 * 64 * 4)
    assert fits(paths, (32, 32), 6 * 32 * 32 * 4) and not fits(paths, (32, 32), 6 * 32 * 32 * 4 - 1)
    assert fits(paths, None, max(total, 6 * 64 * 64 * 4)) and not fits(paths, None, 6 * 64 * 64 * 4 - 1)


def test_only_deterministic_leading_steps_are_shared():
    pipeline = T.Compose([T.Resize(32), T.CenterCrop(32), T.ToTensor(), T.CenterCrop(8)])
    fixed, rest = split_fixed(pipeline)
    assert [type(t).__name__ for t in fixed.transforms] == ["Resize", "CenterCrop"]
    assert [type(t).__name__ for t in rest.transforms] == ["ToTensor", "CenterCrop"]
    assert split_fixed(None) == (None, None)


def test_a_damaged_file_is_named(photos):
    with open(photos[3].impath, "wb") as file:
        file.write(b"not a picture")
    with pytest.raises(ImageError, match="3.png"):
        two_epochs(photos, 10, True)
