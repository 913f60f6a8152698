"""From a config to the loaders of a run."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from tabulate import tabulate
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T
from yacs.config import CfgNode

from ..errors import WrongValue
from ..utils.images import read_image
from .cache import EpochSeed, CachingLoader, CacheBudget, how_many_fit, read_all, split_fixed
from .datasets.base_dataset import Datum
from .datasets.build import build_dataset
from .samplers import build_sampler
from .transforms.transforms import INTERPOLATION_MODES, build_transform


class DatasetWrapper(Dataset):
    """Images as the dicts that trainers read.

    Args:
        cfg: the whole config.
        data_source: the images.
        transform: from a PIL image to what stands in the batch; a list gives one key a transform (`img`, `img2`, ...);
            None leaves the PIL image.
        is_train: with K_TRANSFORMS = K > 1 (training only), each of these entries is a list of K independent results.

    Raises:
        ValueError: if K > 1 without a transform.
    """

    def __init__(
        self,
        cfg: CfgNode,
        data_source: Sequence[Datum],
        transform: Callable | Sequence[Callable] | None = None,
        is_train: bool = False,
    ) -> None:
        self.cfg = cfg
        self.data_source = data_source
        self.transform = transform
        self.is_train = is_train
        self.k_tfm = cfg.DATALOADER.K_TRANSFORMS if is_train else 1
        self.return_img0 = cfg.DATALOADER.RETURN_IMG0
        if self.k_tfm > 1 and transform is None:
            raise WrongValue(f"DATALOADER.K_TRANSFORMS is {self.k_tfm}, but there is no transform to apply")
        if self.return_img0:
            self.to_tensor = _plain(cfg)
        self.memory = CacheBudget(cfg.DATALOADER.CACHE_MB)
        self.cached: list[Any] | None = None  # of the first images; None = not tried yet
        self.epoch_seed: EpochSeed | None = None
        self.upright = False  # see `read_image`
        self.fixed_steps = None  # what every access does to the image alike
        if not is_train and not self.return_img0:
            self.fixed_steps, self.transform = split_fixed(transform)

    def fill_cache(self) -> None:
        """Read images into memory, as many as `memory` has room for; later accesses take them from there."""
        if self.cached is not None:
            return
        size = None if self.fixed_steps is None else tuple(self.cfg.INPUT.SIZE)
        count, taken = how_many_fit([item.impath for item in self.data_source], size, self.memory.left)
        self.cached = read_all(self._read, count)
        self.memory.left -= taken
        if self.cfg.DATALOADER.CACHE_MB > 0 and count < len(self):
            print(
                f"{count:,} of {len(self):,} {'training' if self.is_train else 'evaluation'} images are kept in memory "
                f"(DATALOADER.CACHE_MB {self.cfg.DATALOADER.CACHE_MB}), the others are read in every pass"
            )

    def _read(self, idx: int) -> Any:
        image = read_image(self.data_source[idx].impath, self.upright)
        return image if self.fixed_steps is None else self.fixed_steps(image)

    def __len__(self) -> int:
        return len(self.data_source)

    def __getitem__(self, idx: int) -> dict[str, Any]:
        """Return `img` (`img2`, ..., `img0`), `label`, `domain`, `impath` and `index` (position in the split).

        Raises:
            ImageError: (an OSError) naming the file, if it cannot be read.
        """
        if self.epoch_seed is not None:
            self.epoch_seed.apply()
        item = self.data_source[idx]
        output = {"label": item.label, "domain": item.domain, "impath": item.impath, "index": idx}
        image = self.cached[idx] if self.cached is not None and 0 <= idx < len(self.cached) else self._read(idx)
        if self.transform is None:
            output["img"] = image
        else:
            transforms = self.transform if isinstance(self.transform, (list, tuple)) else [self.transform]
            for i, transform in enumerate(transforms):
                output["img" if i == 0 else f"img{i + 1}"] = self._apply(transform, image)
        if self.return_img0:
            output["img0"] = self.to_tensor(image)
        return output

    def _apply(self, transform: Callable, image: Any) -> Any:
        results = [transform(image) for _ in range(self.k_tfm)]
        return results[0] if self.k_tfm == 1 else results


def _plain(cfg: CfgNode) -> T.Compose:
    """The pipeline of `img0`: resize to exactly INPUT.SIZE, to a tensor, and normalise if that is chosen."""
    resize = T.Resize(tuple(cfg.INPUT.SIZE), interpolation=INTERPOLATION_MODES[cfg.INPUT.INTERPOLATION])
    steps = [resize, T.ToTensor()]
    if "normalize" in cfg.INPUT.TRANSFORMS:
        steps.append(T.Normalize(mean=list(cfg.INPUT.PIXEL_MEAN), std=list(cfg.INPUT.PIXEL_STD)))
    return T.Compose(steps)


def build_data_loader(
    cfg: CfgNode,
    sampler_type: str = "SequentialSampler",
    data_source: Sequence[Datum] | None = None,
    batch_size: int = 64,
    n_domain: int = 0,
    n_ins: int = 2,
    tfm: Callable | Sequence[Callable] | None = None,
    is_train: bool = True,
    dataset_wrapper: type | None = None,
    memory: CacheBudget | None = None,
    upright: bool = False,
) -> DataLoader:
    """Build a torch `DataLoader` over the wrapped images.

    In training the incomplete last batch is dropped, unless it is the only one. There is no generator of its own and
    no `worker_init_fn`: what each pass draws from torch's global generator is part of what makes a seed reproducible.
    Images are kept in memory and workers persist (see `CachingLoader`), unless the wrapper is not ours.

    Args:
        memory: where the images of several loaders are to share one bound; Dassl's signature ends before it.
        upright: turn images and lay them on white, see `read_image`; a data set asks for it by an attribute `upright`.

    Raises:
        ValueError: if there is no image.
    """
    if not data_source:
        raise WrongValue(
            f"The {'training' if is_train else 'evaluation'} split holds no image; is the data set complete?"
        )
    wrapper = DatasetWrapper if dataset_wrapper is None else dataset_wrapper
    dataset = wrapper(cfg, data_source, transform=tfm, is_train=is_train)
    if upright:
        dataset.upright = True
    if wrapper is DatasetWrapper and memory is not None:
        dataset.memory = memory
    return (CachingLoader if wrapper is DatasetWrapper else DataLoader)(
        dataset,
        batch_size=batch_size,
        sampler=build_sampler(sampler_type, cfg, data_source, batch_size, n_domain, n_ins),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        drop_last=is_train and len(data_source) >= batch_size,
        pin_memory=torch.cuda.is_available() and cfg.USE_CUDA,
    )


class DataManager:
    """The data set of a config with its loaders.

    Args:
        cfg: the whole config.
        custom_tfm_train, custom_tfm_test: transforms instead of the configured ones.
        dataset_wrapper: instead of `DatasetWrapper`.

    Attributes:
        dataset: the data set.
        train_loader_x: labelled training batches.
        train_loader_u: unlabelled ones, None unless the data set has `train_u`.
        val_loader: None without validation images.
        test_loader: always there.
    """

    def __init__(
        self,
        cfg: CfgNode,
        custom_tfm_train: Callable | Sequence[Callable] | None = None,
        custom_tfm_test: Callable | None = None,
        dataset_wrapper: type | None = None,
    ) -> None:
        self.dataset = build_dataset(cfg)
        tfm_train = _transform(cfg, True, custom_tfm_train)
        tfm_test = _transform(cfg, False, custom_tfm_test)
        loaders = cfg.DATALOADER
        upright = getattr(self.dataset, "upright", False)
        memory = CacheBudget(loaders.CACHE_MB)  # the loader that is used first takes first: in training, the training images

        def train_loader(settings: CfgNode, source: Sequence[Datum]) -> DataLoader:
            sizes = (settings.BATCH_SIZE, settings.N_DOMAIN, settings.N_INS)
            more = (tfm_train, True, dataset_wrapper, memory, upright)
            return build_data_loader(cfg, settings.SAMPLER, source, *sizes, *more)

        def test_loader(source: Sequence[Datum]) -> DataLoader:
            settings = loaders.TEST
            sizes = {
                "batch_size": settings.BATCH_SIZE,
                "tfm": tfm_test,
                "dataset_wrapper": dataset_wrapper,
                "memory": memory,
                "upright": upright,
            }
            return build_data_loader(cfg, settings.SAMPLER, source, is_train=False, **sizes)

        self.train_loader_x = train_loader(loaders.TRAIN_X, self.dataset.train_x)
        unlabelled = loaders.TRAIN_X if loaders.TRAIN_U.SAME_AS_X else loaders.TRAIN_U
        self.train_loader_u = train_loader(unlabelled, self.dataset.train_u) if self.dataset.train_u else None
        self.val_loader = test_loader(self.dataset.val) if self.dataset.val else None
        self.test_loader = test_loader(self.dataset.test)
        self._num_source_domains = len(cfg.DATASET.SOURCE_DOMAINS)
        if cfg.VERBOSE:
            self.show_dataset_summary(cfg)

    @property
    def num_classes(self) -> int:
        """Largest label plus one."""
        return self.dataset.num_classes

    @property
    def num_source_domains(self) -> int:
        """Length of DATASET.SOURCE_DOMAINS."""
        return self._num_source_domains

    @property
    def lab2cname(self) -> dict[int, str]:
        """Label -> class name."""
        return self.dataset.lab2cname

    def show_dataset_summary(self, cfg: CfgNode) -> None:
        """Print the name and the sizes of the splits as a table."""
        rows = [["Dataset", cfg.DATASET.NAME]]
        if cfg.DATASET.SOURCE_DOMAINS:
            rows.append(["Source", cfg.DATASET.SOURCE_DOMAINS])
        if cfg.DATASET.TARGET_DOMAINS:
            rows.append(["Target", cfg.DATASET.TARGET_DOMAINS])
        rows.append(["# classes", f"{self.num_classes:,}"])
        for split in ("train_x", "train_u", "val", "test"):
            images = getattr(self.dataset, split)
            if images:
                rows.append([f"# {split}", f"{len(images):,}"])
        print(tabulate(rows))


def _transform(cfg: CfgNode, is_train: bool, custom: Any) -> Any:
    if custom is None:
        return build_transform(cfg, is_train=is_train)
    print(f"* Using custom transform for {'training' if is_train else 'testing'}")
    return custom
