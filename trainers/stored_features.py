"""Image features stored for training: INPUT.FEATURE_VIEWS augmented views per image, for frozen image towers.

Published methods augment every image anew in every epoch; with stored features they see a fixed number of views, so
results are close but not the same. 0 (off) is the default; the setting stands in the run's config.yaml.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm


class StoredFeatures(Dataset):
    """Training images as stored features; each access takes one of the image's views at random.

    Args:
        features: [V, N, D] of norm 1, V views of N images.
        labels: [N].
    """

    def __init__(self, features: Tensor, labels: Tensor):
        self.features, self.labels = features, labels

    def __len__(self) -> int:
        return self.features.shape[1]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        count = len(self.features)
        view = int(torch.randint(count, ())) if count > 1 else 0
        return {"features": self.features[view, index], "label": self.labels[index]}


@torch.no_grad()
def stored_features_loader(loader: DataLoader, encode: Callable[[Tensor], Tensor], count: int) -> DataLoader:
    """A loader of the same batches' size and order, over stored features instead of images.

    The caller's random state is left as it was, so that shuffling goes on as with images.

    Args:
        loader: the training loader.
        encode: images [B, 3, H, W] -> features [B, D].
        count: V augmented views per image.
    """
    with torch.random.fork_rng(devices=[]):
        once = type(loader)(loader.dataset, batch_size=loader.batch_size, num_workers=loader.num_workers)
        passes, labels = [], torch.empty(0)
        for view in range(count):
            parts = [
                (encode(batch["img"]).cpu(), batch["label"])
                for batch in tqdm(once, desc=f"features, view {view + 1} of {count}", disable=None, leave=False)
            ]
            passes.append(torch.cat([features for features, _ in parts]))
            labels = torch.cat([label for _, label in parts])
    data = StoredFeatures(torch.stack(passes), labels)
    return DataLoader(
        data, batch_size=loader.batch_size, sampler=type(loader.sampler)(data), drop_last=loader.drop_last
    )
