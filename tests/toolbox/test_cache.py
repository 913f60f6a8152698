"""Images kept in memory and persistent workers: the same tensors, read once, within the bound."""

import os
import random

import numpy as np
import pytest
import torch
from dassl.config import get_cfg_default
from dassl.data.cache import CacheBudget, CachingLoader, how_many_fit, split_fixed
from dassl.data.data_manager import DatasetWrapper, build_data_loader
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


def training_tfm():
    return build_transform(config(0), is_train=True)


def evaluation_tfm():
    return build_transform(config(0), is_train=False)


def two_epochs(photos, megabytes, is_train):
    cfg = config(megabytes)
    tfm = build_transform(cfg, is_train=is_train)
    sampler = "RandomSampler" if is_train else "SequentialSampler"
    loader = build_data_loader(cfg, sampler, photos, 2, tfm=tfm, is_train=is_train)
    torch.manual_seed(3)
    return loader, [batch["img"] for _ in range(2) for batch in loader]


@pytest.mark.parametrize("is_train", [True, False])
def test_tensors_are_bit_identical_with_and_without(photos, is_train):
    cached, with_cache = two_epochs(photos, 10, is_train)
    plain, without = two_epochs(photos, 0, is_train)
    assert len(cached.dataset.cached) == 6 and plain.dataset.cached == []
    assert all(torch.equal(a, b) for a, b in zip(with_cache, without, strict=True))


@pytest.mark.parametrize("is_train", [True, False])
def test_files_are_read_once(photos, monkeypatch, is_train):
    from dassl.data import data_manager

    reads = []
    read = data_manager.read_image
    monkeypatch.setattr(data_manager, "read_image", lambda path, upright: reads.append(path) or read(path, upright))
    two_epochs(photos, 10, is_train)
    assert sorted(reads) == sorted(item.impath for item in photos)


def test_the_bound_by_hand(photos):
    paths = [item.impath for item in photos]
    sizes = [(40 + 5 * i) * 70 * 4 for i in range(6)]
    assert how_many_fit(paths, None, sum(sizes)) == (6, sum(sizes))
    assert how_many_fit(paths, None, sum(sizes) - 1) == (5, sum(sizes[:5]))
    assert how_many_fit(paths, None, sizes[0] - 1) == (0, 0)
    size = 32 * 16 * 4
    assert how_many_fit(["nowhere"] * 9, (32, 16), 4 * size + 3) == (4, 4 * size)  # files are not even opened


def test_what_does_not_fit_is_read_in_every_pass(photos, capsys):
    """Room for three test images of 32 x 32 pixels: those are kept, the others not, and nothing else changes."""
    loader, whole = two_epochs(photos, 10, False)
    part = build_data_loader(config(10), "SequentialSampler", photos, 2, tfm=evaluation_tfm(), is_train=False)
    part.dataset.memory.left = 3 * 32 * 32 * 4 + 5
    assert all(torch.equal(a, b["img"]) for a, b in zip(whole[:3], part, strict=True))
    assert len(part.dataset.cached) == 3 and part.dataset.memory.left == 5
    assert "3 of 6 evaluation images are kept in memory (DATALOADER.CACHE_MB 10)" in capsys.readouterr().out


def test_loaders_share_one_bound(photos):
    """Room for the four smallest photographs and a bit: training takes those, nothing is left for evaluation."""
    memory = CacheBudget(10)
    memory.left = sum((40 + 5 * i) * 70 * 4 for i in range(4)) + 99
    train = build_data_loader(config(10), "RandomSampler", photos, 2, tfm=training_tfm(), memory=memory)
    test = build_data_loader(config(10), data_source=photos, tfm=evaluation_tfm(), is_train=False, memory=memory)
    for loader in (train, test):
        assert len(list(loader)) > 0
    assert (len(train.dataset.cached), len(test.dataset.cached), memory.left) == (4, 0, 99)


def test_only_deterministic_leading_steps_are_shared():
    pipeline = T.Compose([T.Resize(32), T.CenterCrop(32), T.ToTensor(), T.CenterCrop(8)])
    fixed_steps, rest = split_fixed(pipeline)
    assert [type(t).__name__ for t in fixed_steps.transforms] == ["Resize", "CenterCrop"]
    assert [type(t).__name__ for t in rest.transforms] == ["ToTensor", "CenterCrop"]
    assert split_fixed(None) == (None, None)


def test_a_damaged_file_is_named(photos):
    with open(photos[3].impath, "wb") as file:
        file.write(b"not a picture")
    with pytest.raises(ImageError, match="3.png"):
        two_epochs(photos, 10, True)


class Drawing(DatasetWrapper):
    """Also shows what an access draws from each generator, and in which process it happens."""

    def __getitem__(self, idx):
        item = super().__getitem__(idx)
        return item | {"drawn": (random.random(), float(torch.rand(())), float(np.random.rand()), os.getpid())}


def passes(photos, persistent, pattern, megabytes=10):
    """For each pass, cut off after so many of its six batches: the images, what was drawn, and the processes."""
    cfg = config(megabytes)
    data = Drawing(cfg, photos, transform=training_tfm(), is_train=True)
    loader = CachingLoader(data, num_workers=2, persistent_workers=persistent, batch_size=1, shuffle=True)
    torch.manual_seed(5)
    images, drawn, processes = [], [], []
    for count in pattern:
        pids = set()
        for number, batch in enumerate(loader, 1):
            images.append(batch["img"])
            drawn += [[float(value) for value in batch["drawn"][:3]]]
            pids.add(int(batch["drawn"][3]))
            if number == count:
                break
        processes.append(pids)
    return images, drawn, processes, torch.rand(1)


@pytest.mark.parametrize("megabytes", [0, 10])
def test_workers_persist_and_draw_what_new_ones_would(photos, megabytes):
    cached = passes(photos, True, [7, 7, 7], megabytes)
    new = passes(photos, False, [7, 7, 7], megabytes)
    assert all(torch.equal(a, b) for a, b in zip(cached[0], new[0], strict=True)) and len(cached[0]) == 18
    assert cached[1] == new[1] and len({tuple(values) for values in cached[1]}) == 18
    assert cached[2][0] == cached[2][1] == cached[2][2] and not new[2][0] & new[2][1]
    assert torch.equal(cached[3], new[3])  # the main process has drawn alike, too


def test_a_pass_that_was_broken_off_changes_nothing(photos):
    cached, new = passes(photos, True, [2, 7, 1, 7]), passes(photos, False, [2, 7, 1, 7])
    assert cached[1] == new[1] and torch.equal(cached[3], new[3])


def test_persistent_workers_share_what_the_main_process_keeps(photos, tmp_path):
    """The files are gone after the first batch, and all workers still have all images."""
    loader = CachingLoader(
        DatasetWrapper(config(10), photos, transform=evaluation_tfm()), num_workers=2, batch_size=1, shuffle=True
    )
    first = next(iter(loader))["img"]
    for item in photos:
        os.remove(item.impath)
    assert [len(list(loader)) for _ in range(2)] == [6, 6] and first.shape == (1, 3, 32, 32)


def test_workers_that_cannot_share_keep_nothing(photos, monkeypatch):
    from dassl.data import cache

    data = DatasetWrapper(config(10), photos, transform=evaluation_tfm())
    loader = CachingLoader(data, num_workers=1, batch_size=3)
    monkeypatch.setattr(cache, "start_method", lambda: "spawn")
    assert len(list(loader)) == 2 and data.cached is None
    assert len(list(CachingLoader(data, num_workers=0, batch_size=3))) == 2 and len(data.cached) == 6
