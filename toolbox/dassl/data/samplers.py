"""Orders in which a loader visits the images."""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data.sampler import RandomSampler, Sampler, SequentialSampler
from yacs.config import CfgNode

from ..errors import WrongValue
from ..names import SAMPLERS
from ..utils.tools import check_availability
from .datasets.base_dataset import Datum


class _PlannedSampler(Sampler):
    """A sampler whose order is drawn as a whole.

    Dassl reports the length of one dry pass, from which the passes that follow differ, so that a trainer waiting for
    the last batch may wait in vain. Here the length asked for is the length of the pass that comes next. The dry pass
    is kept, since later draws depend on it.
    """

    def __init__(self, data_source: Sequence[Datum]) -> None:
        self.data_source = data_source
        self._next: list[int] | None = None
        self._plan()

    def _plan(self) -> list[int]:
        raise TypeError(f"{type(self).__name__} must define _plan()")

    def __iter__(self) -> Iterator[int]:
        plan, self._next = (self._plan() if self._next is None else self._next), None
        return iter(plan)

    def __len__(self) -> int:
        if self._next is None:
            self._next = self._plan()
        return len(self._next)


class RandomClassSampler(_PlannedSampler):
    """Batches of batch_size // n_ins classes with n_ins images each; stops when too few classes are left.

    Classes with fewer than n_ins images are filled up with replacement; what is left over below n_ins is dropped.

    Args:
        data_source: the images.
        batch_size: images a batch.
        n_ins: images a class in a batch.

    Raises:
        ValueError: if batch_size < n_ins.
    """

    def __init__(self, data_source: Sequence[Datum], batch_size: int, n_ins: int) -> None:
        if batch_size < n_ins:
            raise WrongValue(
                f"RandomClassSampler: expected a batch size of at least N_INS = {n_ins}, found {batch_size}"
            )
        self.n_ins, self.classes_per_batch = n_ins, batch_size // n_ins
        self.indices = defaultdict(list)
        for index, item in enumerate(data_source):
            self.indices[item.label].append(index)
        super().__init__(data_source)

    def _plan(self) -> list[int]:
        groups = {}
        for label, indices in self.indices.items():
            if len(indices) < self.n_ins:
                indices = np.random.choice(indices, size=self.n_ins, replace=True).tolist()
            shuffled = random.sample(indices, len(indices))
            whole = len(shuffled) - len(shuffled) % self.n_ins
            groups[label] = [shuffled[i : i + self.n_ins] for i in range(0, whole, self.n_ins)]
        plan, labels = [], list(groups)
        while len(labels) >= self.classes_per_batch:
            for label in random.sample(labels, self.classes_per_batch):
                plan.extend(groups[label].pop(0))
                if not groups[label]:
                    labels.remove(label)
        return plan


class _DomainSampler(_PlannedSampler):
    def __init__(self, data_source: Sequence[Datum], batch_size: int, n_domain: int) -> None:
        self.indices = defaultdict(list)
        for index, item in enumerate(data_source):
            self.indices[item.domain].append(index)
        self.domains = list(self.indices)
        self.n_domain = n_domain if n_domain > 0 else len(self.domains)
        if self.n_domain > len(self.domains) or batch_size % self.n_domain:
            raise WrongValue(
                f"Expected a number of domains up to {len(self.domains)} that divides the batch size {batch_size}, "
                f"found {self.n_domain}"
            )
        self.per_domain = batch_size // self.n_domain
        super().__init__(data_source)

    def _choose(self) -> list[int]:
        raise TypeError(f"{type(self).__name__} must define _choose()")

    def _plan(self) -> list[int]:
        left = {domain: list(indices) for domain, indices in self.indices.items()}
        plan = []
        while True:
            for domain in self._choose():
                chosen = random.sample(left[domain], self.per_domain)
                plan.extend(chosen)
                taken = set(chosen)
                left[domain] = [index for index in left[domain] if index not in taken]
            if min(len(indices) for indices in left.values()) < self.per_domain:
                return plan


class RandomDomainSampler(_DomainSampler):
    """Batches of n_domain random domains with equally many images each; stops when any domain runs short.

    Args:
        data_source: the images.
        batch_size: images a batch.
        n_domain: domains a batch; <= 0 means all.
    """

    def _choose(self) -> list[int]:
        return random.sample(self.domains, self.n_domain)


class SeqDomainSampler(_DomainSampler):
    """As `RandomDomainSampler`, with the domains of every batch in the data set's order: the first n_domain, always."""

    def _choose(self) -> list[int]:
        return self.domains[: self.n_domain]


def build_sampler(
    sampler_type: str,
    cfg: CfgNode | None = None,
    data_source: Sequence[Datum] | None = None,
    batch_size: int = 32,
    n_domain: int = 0,
    n_ins: int = 16,
) -> Sampler:
    """Build a sampler by name; `RandomSampler` and `SequentialSampler` are torch's own and draw nothing when built.

    Args:
        sampler_type: one of the five names.
        cfg: not read, kept for Dassl's signature.
        data_source: the images.
        batch_size, n_domain, n_ins: of the samplers that compose whole batches.

    Raises:
        ValueError: for an unknown name, or numbers that do not fit the data.
    """
    check_availability(sampler_type, SAMPLERS)
    if sampler_type == "RandomSampler":
        return RandomSampler(data_source)
    if sampler_type == "SequentialSampler":
        return SequentialSampler(data_source)
    if sampler_type == "RandomClassSampler":
        return RandomClassSampler(data_source, batch_size, n_ins)
    sampler = RandomDomainSampler if sampler_type == "RandomDomainSampler" else SeqDomainSampler
    return sampler(data_source, batch_size, n_domain)
