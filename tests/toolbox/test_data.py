"""Data sets, few-shot draws, loaders, batch keys, samplers and transforms."""

import pickle
import random

import numpy as np
import pytest
import torch
from dassl.config import get_cfg_default
from dassl.data import DataManager, DatasetWrapper
from dassl.data.data_manager import build_data_loader
from dassl.data.datasets import DatasetBase, Datum
from dassl.data.samplers import build_sampler
from dassl.data.transforms import Cutout, InstanceNormalization, Random2DTranslation, build_transform
from dassl.utils import ImageError, set_random_seed
from PIL import Image
from torchvision import transforms as T


@pytest.fixture()
def items(pictures):
    """Labels in first-seen order 2, 0, 1 with 5, 4 and 2 images."""
    labels = [2, 2, 0, 2, 0, 1, 0, 2, 1, 0, 2]
    return [Datum(str(pictures / f"{i}.png"), label, i % 2, f"c{label}") for i, label in enumerate(labels)]


def test_datum_checks_its_file_and_unpickles_by_dassls_path(pictures):
    item = Datum(impath=str(pictures / "0.png"), label=3, classname="cat")
    assert (item.impath, item.label, item.domain, item.classname) == (str(pictures / "0.png"), 3, 0, "cat")
    assert vars(item) == {"_impath": item.impath, "_label": 3, "_domain": 0, "_classname": "cat"}
    assert b"dassl.data.datasets.base_dataset" in pickle.dumps(item)
    item._impath = "/gone.png"  # caches hold absolute paths of other machines
    assert pickle.loads(pickle.dumps(item)).impath == "/gone.png"
    with pytest.warns(UserWarning, match="nowhere.png"), pytest.raises(FileNotFoundError, match="nowhere.png"):
        Datum("nowhere.png")
    with pytest.raises(TypeError):
        Datum(pictures / "0.png")


def test_classes_come_from_train_x(items):
    data = DatasetBase(train_x=items, test=items[:1])
    assert (
        data.num_classes == 3
        and data.classnames == ["c0", "c1", "c2"]
        and data.lab2cname == {0: "c0", 1: "c1", 2: "c2"}
    )
    assert DatasetBase(train_x=items[:2]).num_classes == 3 and DatasetBase(train_x=items[:2]).classnames == ["c2"]
    with pytest.raises(ValueError, match="empty"):
        DatasetBase(train_x=[])
    with pytest.raises(TypeError):
        DatasetBase()
    clash = [items[0], Datum(items[0].impath, 2, 0, "other")]
    with pytest.raises(ValueError, match='"c2" and "other"'):
        DatasetBase(train_x=clash)


def test_few_shot_draws_by_hand(items, capsys):
    data = DatasetBase(train_x=items)
    by_label = [[0, 1, 3, 7, 10], [2, 4, 6, 9], [5, 8]]  # first-seen order: labels 2, 0, 1
    random.seed(7)
    drawn = data.generate_fewshot_dataset(items, num_shots=4)
    after = random.random()
    random.seed(7)
    expected = random.sample(by_label[0], 4) + random.sample(by_label[1], 4) + by_label[2]
    assert [items.index(item) for item in drawn] == expected and random.random() == after
    assert "Creating a 4-shot dataset" in capsys.readouterr().out
    random.seed(7)
    filled = data.generate_fewshot_dataset(items, num_shots=4, repeat=True)
    random.seed(7)
    expected = random.sample(by_label[0], 4) + random.sample(by_label[1], 4) + random.choices(by_label[2], k=4)
    assert [items.index(item) for item in filled] == expected


def test_few_shot_return_types(items):
    data = DatasetBase(train_x=items)
    assert data.generate_fewshot_dataset(items) is items
    assert data.generate_fewshot_dataset(items, items[:3], num_shots=0) == (items, items[:3])
    several = data.generate_fewshot_dataset(items, items[:3], num_shots=1)
    assert isinstance(several, list) and [len(part) for part in several] == [3, 2]


def test_groups_by_label_and_domain(items):
    data = DatasetBase(train_x=items)
    assert list(data.split_dataset_by_label(items)) == [2, 0, 1]
    assert [items.index(item) for item in data.split_dataset_by_domain(items)[1]] == [1, 3, 5, 7, 9]


def test_archives_are_extracted_and_escapes_refused(tmp_path, items):
    import tarfile

    (tmp_path / "a.txt").write_text("a")
    for name, member in (("good.tar.gz", "in/a.txt"), ("bad.tar.gz", "../escaped.txt")):
        with tarfile.open(tmp_path / name, "w:gz") as archive:
            archive.add(tmp_path / "a.txt", member)
    data = DatasetBase(train_x=items)
    for name in ("good", "bad"):
        url, dst = (tmp_path / f"{name}.tar.gz").as_uri(), str(tmp_path / name / "x.tar.gz")
        if name == "good":
            data.download_data(url, dst, from_gdrive=False)
        else:
            with pytest.raises(tarfile.FilterError):
                data.download_data(url, dst, from_gdrive=False)
    assert (tmp_path / "good/in/a.txt").read_text() == "a" and not (tmp_path / "escaped.txt").exists()
    with pytest.raises(OSError, match="missing.zip"):
        data.download_data((tmp_path / "missing.zip").as_uri(), str(tmp_path / "m.zip"), from_gdrive=False)
    assert not (tmp_path / "m.zip").exists()


def test_drop_last_rule(make_cfg, items):
    cfg = make_cfg()

    def batches(size, is_train):
        loader = build_data_loader(cfg, data_source=items, batch_size=size, tfm=T.ToTensor(), is_train=is_train)
        return [len(batch["label"]) for batch in loader]

    assert batches(4, True) == [4, 4] and batches(4, False) == [4, 4, 3]
    assert batches(11, True) == [11] and batches(12, True) == [11]
    with pytest.raises(ValueError, match="no image"):
        build_data_loader(cfg, data_source=[], tfm=T.ToTensor())


def test_batch_keys(make_cfg, items):
    cfg = make_cfg("DATALOADER.K_TRANSFORMS", 2, "DATALOADER.RETURN_IMG0", True)
    flip = T.Compose([T.RandomHorizontalFlip(p=1.0), T.ToTensor()])
    for is_train in (True, False):
        loader = build_data_loader(cfg, data_source=items, batch_size=3, tfm=[T.ToTensor(), flip], is_train=is_train)
        batch = next(iter(loader))
        assert sorted(batch) == ["domain", "img", "img0", "img2", "impath", "index", "label"]
        first = batch["img"][0] if is_train else batch["img"]
        second = batch["img2"][1] if is_train else batch["img2"]
        assert torch.equal(first, second.flip(3)) and first.shape == (3, 3, 12, 10)
        assert batch["label"].tolist() == [2, 2, 0] and batch["label"].dtype == torch.int64
        assert batch["domain"].tolist() == [0, 1, 0] and batch["index"].tolist() == [0, 1, 2]
        assert batch["impath"] == [item.impath for item in items[:3]]
    plain = T.functional.to_tensor(Image.open(items[0].impath).resize((8, 8), Image.Resampling.BILINEAR))
    mean, std = torch.tensor(cfg.INPUT.PIXEL_MEAN), torch.tensor(cfg.INPUT.PIXEL_STD)
    assert torch.allclose(batch["img0"][0], (plain - mean[:, None, None]) / std[:, None, None], atol=1e-6)
    with pytest.raises(ValueError, match="K_TRANSFORMS"):
        DatasetWrapper(cfg, items, transform=None, is_train=True)
    assert isinstance(DatasetWrapper(make_cfg(), items)[0]["img"], Image.Image)


def test_manager_builds_every_loader_and_prints_the_sizes(make_cfg, capsys):
    manager = DataManager(make_cfg("DATASET.SOURCE_DOMAINS", ("a", "b")))
    lengths = [len(loader) for loader in (manager.train_loader_x, manager.val_loader, manager.test_loader)]
    assert lengths == [3, 1, 1] and manager.train_loader_u is None
    assert (manager.num_classes, manager.num_source_domains, manager.lab2cname[2]) == (3, 2, "class2")
    printed = capsys.readouterr().out
    for line in ("Loading dataset: ToyPictures", "# classes  3", "# train_x  12", "# val      6", "# test     6"):
        assert line in printed
    assert DataManager(make_cfg("DATASET.NUM_LABELED", 0)).val_loader is None


def test_random_order_and_what_an_iterator_draws(make_cfg):
    """One int64 per new iterator, and a second one that seeds the permutation."""
    loader = DataManager(make_cfg("VERBOSE", False, "INPUT.TRANSFORMS", ("normalize",))).train_loader_x
    set_random_seed(5)
    order = [index for batch in loader for index in batch["index"].tolist()]
    after = torch.rand(1)
    torch.manual_seed(5)
    torch.empty((), dtype=torch.int64).random_()
    generator = torch.Generator()
    generator.manual_seed(int(torch.empty((), dtype=torch.int64).random_()))
    assert order == torch.randperm(12, generator=generator).tolist()
    assert torch.equal(torch.rand(1), after)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", ["truncated", "text", "missing"])
def test_an_unreadable_image_is_named(make_cfg, tmp_path, pictures, workers, damage):
    path = tmp_path / "broken.png"
    content = (pictures / "0.png").read_bytes()
    path.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"no picture")
    item = Datum(str(path), 0, 0, "c")
    if damage == "missing":
        path.unlink()
    cfg = make_cfg("DATALOADER.NUM_WORKERS", workers)
    loader = build_data_loader(cfg, data_source=[item], batch_size=1, tfm=T.ToTensor())
    with pytest.raises(OSError, match="broken.png") as caught:
        next(iter(loader))
    assert isinstance(caught.value, ImageError) and "\n" not in str(caught.value)  # no worker traceback in it


def test_samplers(items):
    assert list(build_sampler("SequentialSampler", data_source=items)) == list(range(11))
    for seed in range(20):
        set_random_seed(seed)
        sampler = build_sampler("RandomClassSampler", data_source=items, batch_size=4, n_ins=2)
        for _ in range(2):  # the length asked for is the length of the pass that follows
            length, order = len(sampler), list(sampler)
            assert length == len(order) and length % 4 == 0
            for start in range(0, length, 4):
                labels = [items[i].label for i in order[start : start + 4]]
                assert labels[0] == labels[1] != labels[2] == labels[3]
    domains = [items[i].domain for i in build_sampler("SeqDomainSampler", data_source=items, batch_size=4)]
    assert domains == [0, 0, 1, 1] * 2
    random_domains = list(build_sampler("RandomDomainSampler", data_source=items, batch_size=4))
    assert len(set(random_domains)) == len(random_domains) == 8
    with pytest.raises(ValueError, match="N_INS"):
        build_sampler("RandomClassSampler", data_source=items, batch_size=4, n_ins=5)
    with pytest.raises(ValueError, match="RandomSampler"):
        build_sampler("RandomSample", data_source=items)


def names(pipeline):
    return [type(step).__name__ for step in pipeline.transforms]


def transform_cfg(*choices, size=(8, 6)):
    cfg = get_cfg_default()
    cfg.INPUT.TRANSFORMS, cfg.INPUT.SIZE = choices, size
    return cfg


def test_order_of_the_training_pipeline_is_fixed(capsys):
    shuffled = ["normalize", "instance_norm", "gaussian_noise", "cutout", "gaussian_blur", "randomgrayscale"]
    shuffled += ["colorjitter", "randaugment", "svhn_policy", "cifar10_policy", "imagenet_policy", "random_flip"]
    shuffled += ["random_resized_crop", "random_crop", "random_translation", "center_crop"]
    pipeline = build_transform(transform_cfg(*shuffled))
    assert names(pipeline) == (
        ["Random2DTranslation", "RandomCrop", "RandomResizedCrop", "RandomHorizontalFlip", "AutoAugment", "AutoAugment"]
        + ["AutoAugment", "RandAugment", "ColorJitter", "RandomGrayscale", "RandomApply", "ToTensor", "Cutout"]
        + ["Normalize", "GaussianNoise", "InstanceNormalization"]
    )
    assert [str(p.policy.value) for p in pipeline.transforms[4:7]] == ["imagenet", "cifar10", "svhn"]
    assert capsys.readouterr().out.count("\n+ ") == 16
    assert names(build_transform(transform_cfg("random_flip"))) == ["Resize", "RandomHorizontalFlip", "ToTensor"]
    coop = build_transform(transform_cfg("random_resized_crop", "random_flip", "normalize"))
    assert names(coop) == ["RandomResizedCrop", "RandomHorizontalFlip", "ToTensor", "Normalize"]
    assert names(build_transform(transform_cfg(), choices=["normalize"])) == ["Resize", "ToTensor", "Normalize"]


def test_geometry_of_training_and_test():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 40, 3)).astype("uint8"))
    cfg = transform_cfg(size=(8, 6))
    stretched = build_transform(cfg)(image)  # aspect ratio not kept
    assert torch.equal(stretched, T.functional.to_tensor(image.resize((6, 8), Image.Resampling.BILINEAR)))
    test = build_transform(cfg, is_train=False)
    assert names(test) == ["Resize", "CenterCrop", "ToTensor"]
    # The shorter edge (20) becomes max(SIZE) = 8, so 20x40 -> 8x16, and the middle 6 columns are kept.
    expected = image.resize((16, 8), Image.Resampling.BILINEAR).crop((5, 0, 11, 8))
    assert torch.equal(test(image), T.functional.to_tensor(expected))
    chosen = transform_cfg("random_flip", "cutout", "normalize", "instance_norm", "random_resized_crop")
    assert names(build_transform(chosen, is_train=False)) == names(test) + ["Normalize", "InstanceNormalization"]


def test_every_transform_runs():
    from dassl.names import TRANSFORMS

    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3)).astype("uint8"))
    for choice in TRANSFORMS:
        result = build_transform(transform_cfg(choice, size=(32, 24)))(image)
        assert result.shape == (3, 32, 24) and result.dtype == torch.float32


def test_own_transforms_by_hand():
    image = torch.arange(3 * 6 * 6, dtype=torch.float32).view(3, 6, 6) + 1
    np.random.seed(0)
    holed = Cutout(1, 4)(image)
    np.random.seed(0)
    y, x = np.random.randint(6), np.random.randint(6)
    for row in range(6):
        for column in range(6):
            inside = y - 2 <= row < y + 2 and x - 2 <= column < x + 2
            assert (holed[:, row, column] == 0).all() == inside
    normal = InstanceNormalization()(image)
    assert torch.allclose(normal.mean(dim=(1, 2)), torch.zeros(3), atol=1e-6)
    assert torch.allclose(normal.std(dim=(1, 2)), torch.ones(3))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 20, 3)).astype("uint8"))
    shifted = {Random2DTranslation(16, 16, p=1.0)(picture).tobytes() for _ in range(20)}
    straight = {Random2DTranslation(16, 16, p=0.0)(picture).tobytes() for _ in range(5)}
    assert len(shifted) > 1 and len(straight) == 1 and not shifted & straight


def test_errors_of_transforms(capsys):
    with pytest.raises(ValueError, match="random_flip"):
        build_transform(transform_cfg("random_flop"))
    with pytest.raises(ValueError, match="randaugment2.*supported are"):
        build_transform(transform_cfg("randaugment2"))
    cfg = transform_cfg("normalize")
    cfg.INPUT.INTERPOLATION = "lanczos"
    with pytest.raises(KeyError, match="bicubic"):
        build_transform(cfg)
    cfg.INPUT.NO_TRANSFORM = True
    assert build_transform(cfg) is None and "no transform" in capsys.readouterr().out
