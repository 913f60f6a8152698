"""One run on several processes ("ranks", one a GPU): who computes what, and how it comes together. The mathematics.

Every rank has the same model, reads the same batches in the same order and draws the same random numbers. Two things
are shared out in training: the images of a batch, and the class names whose prompts are encoded (experts x classes).
Both are split into consecutive parts, the r-th of N being entries n r / N to n (r + 1) / N. What comes out, image
features [B, D] and text features [G, A, D], is gathered, so that every rank holds all of it and computes the loss of
one rank, whatever the loss is: no mean needs another divisor, no loss on text is counted twice, and a router sees the
whole batch.

Gradients. Let L be the loss, x_r the part of rank r, and p a parameter; x_r depends on p. Each rank has dL/dx of the
whole x, equal on all ranks, and can go back through its own part only. `gather` hands N dL/dx_r back to it, and
`average_gradients` takes the mean over the ranks:

    1/N sum_r (N dL/dx_r dx_r/dp) = dL/dp.

Of a parameter that the loss reads past the gathering (a router, a correction vector) every rank has the whole gradient,
and the mean of N equal numbers is that number. So one rule serves all parameters, and after it all ranks have the same
gradient bit for bit: they step alike, and a scaler's look for infinities finds the same on all.

In evaluation whole batches are dealt out, and each rank encodes all class names (once, without gradients): a batch has
the same shape as on one rank, so answers are the same bit for bit.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import accumulate
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..toolbox.dassl.errors import ExpectedError

T = TypeVar("T")
STORE = "MOCOOP_STORE"  # environment: the file through which ranks meet that `runs.launch` has started
PATIENCE = timedelta(hours=1)  # for the slowest rank; one that has ended is noticed at once


class RankLost(ExpectedError, RuntimeError):
    """Another rank has ended, so that nothing can be gathered any more."""


class Ranks:
    """A rank's view of all of them; alone, everything is its own and nothing is exchanged.

    Args:
        rank: which one this is, from 0; size: N, how many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1):
        self.rank, self.size = rank, size

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        gpu = dist.get_backend() == "nccl"
        return torch.device("cuda", torch.cuda.current_device()) if gpu else torch.device("cpu")

    @property
    def first(self) -> bool:
        """Whether this is the rank that prints, logs and writes."""
        return self.rank == 0

    def parts(self, count: int) -> list[int]:
        """How many of `count` entries each rank has, [N]."""
        return [count * (r + 1) // self.size - count * r // self.size for r in range(self.size)]

    def share(self, count: int) -> slice:
        """This rank's part of `count` entries.

        Never empty: a rank that is left without one takes the first, and `gather` leaves its result out.
        """
        start, stop = count * self.rank // self.size, count * (self.rank + 1) // self.size
        return slice(start, stop) if stop > start else slice(0, 1)

    def gather(self, own: Tensor, count: int, dim: int = 0) -> Tensor:
        """What was computed from every rank's `share`, in order, with gradients.

        Args:
            own: from this rank's share, which lies along `dim`; count: entries of all ranks together.

        Returns:
            The same with `count` entries along `dim`, equal on all ranks.

        Raises:
            RankLost: another rank has ended.
        """
        if self.size == 1:
            return own
        parts = self.parts(count)
        own = own.movedim(dim, 0)[: parts[self.rank]]
        return _Gather.apply(own, parts, self.rank).movedim(0, dim)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their mean over the ranks; one that no rank has stays None.

        Raises:
            RankLost: another rank has ended.
        """
        parameters = list(parameters)
        if self.size == 1 or not parameters:
            return
        present = [float(p.grad is not None) for p in parameters]
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([*[g.flatten().float() for g in grads], grads[0].new_tensor(present, dtype=torch.float)])
        with _others_alive():
            dist.all_reduce(flat)
        values, counts = flat.split([sum(g.numel() for g in grads), len(grads)])
        means = (values / self.size).split([g.numel() for g in grads])
        for p, mean, ranks in zip(parameters, means, counts.tolist(), strict=True):
            p.grad = mean.view_as(p).to(p.dtype) if ranks > 0 else None

    def dealt(self, own: Iterable[T], total: int) -> Iterator[T]:
        """All of `total` things in order on every rank, the i-th of which rank i mod N makes.

        Args:
            own: makes this rank's: tensors, or tuples of tensors of one device.

        Raises:
            RankLost: another rank has ended.
        """
        if self.size == 1:
            yield from own
            return
        own = iter(own)
        for first in range(0, total, self.size):
            made = next(own, None)  # None: the last round has none for this rank
            found = self.everyones(_moved(made, "cpu"))[: total - first]
            yield from (_moved(each, self.device) for each in found)
        next(own, None)  # what makes them may have something to do after the last

    def everyones(self, own: T) -> list[T]:
        """The plain data (tensors on the CPU included) of every rank, [N]."""
        if self.size == 1:
            return [own]
        found: list = [None] * self.size
        with _others_alive():
            dist.all_gather_object(found, own)
        return found

    def wait(self) -> None:
        """Go on when all ranks have come here."""
        self.everyones(None)

    @contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """The first rank does what is within before the others: they find the files that it has made."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()

    def draw_alike(self) -> None:
        """Give all ranks the random state of the first."""
        if self.size == 1:
            return
        gpu = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
        state = random.getstate(), np.random.get_state(), torch.get_rng_state(), gpu
        python, numpy, cpu, gpu = self.everyones(state)[0]
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if gpu is not None:  # of the first rank's own GPU, whatever its number
            torch.cuda.set_rng_state(gpu)


def _moved(made: Tensor | tuple[Tensor, ...] | None, device: torch.device | str) -> object:
    return tuple(x.to(device) for x in made) if isinstance(made, tuple) else None if made is None else made.to(device)


class _Gather(torch.autograd.Function):
    """Parts [n_r, ...] of all ranks -> [sum of n_r, ...]; see the module for the gradient."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, own: Tensor, parts: Sequence[int], rank: int) -> Tensor:
        ctx.parts, ctx.rank = parts, rank
        padded = own.new_zeros(max(parts), *own.shape[1:])  # (gloo gathers equal sizes only)
        padded[: len(own)] = own
        found = [torch.empty_like(padded) for _ in parts]
        with _others_alive():
            dist.all_gather(found, padded)
        return torch.cat([part[:count] for part, count in zip(found, parts, strict=True)])

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None]:
        start = [0, *accumulate(ctx.parts)][ctx.rank]
        return len(ctx.parts) * gradient[start : start + ctx.parts[ctx.rank]], None, None


@contextmanager
def _others_alive() -> Iterator[None]:
    """Turn what the exchange raises when a rank is gone (RuntimeErrors of several kinds) into `RankLost`."""
    try:
        yield
    except RuntimeError as error:
        raise RankLost(
            f"another process of this run has ended ({str(error).splitlines()[0][:200]}). "
            "The same command again goes on from the last checkpoint"
        ) from error


ALONE = Ranks()
_here = ALONE
_store: dist.Store | None = None


def here() -> Ranks:
    """This process among those of its run: alone, unless `join` was called."""
    return _here


def meet() -> None:
    """Find the store that all ranks of this run share, as torchrun's environment or `STORE` describes it.

    Raises:
        RuntimeError: it is not there.
    """
    global _store
    if STORE in os.environ:
        _store = dist.FileStore(os.environ[STORE], -1)
    else:
        _store, _, _ = next(dist.rendezvous("env://", int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])))


def join(gpus: bool) -> None:
    """Form a group with the other ranks, once all have met.

    Args:
        gpus: a GPU for each rank, with NCCL; else the CPU, with gloo.

    Raises:
        RankLost: they do not come.
    """
    global _here
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    group = {"store": dist.PrefixStore("run", _store), "rank": rank, "world_size": size, "timeout": PATIENCE}
    with _others_alive():
        dist.init_process_group("nccl" if gpus else "gloo", **group)
    _here = Ranks(rank, size)


def leave() -> None:
    """Part from the other ranks at the end of a run."""
    global _here
    dist.destroy_process_group()
    _here = ALONE


def first_to_say(store: str | None = None) -> bool:
    """Whether nobody has yet said why the run ends; all who ask later are told that somebody has.

    Args:
        store: file of the store, for a process that is no rank.
    """
    try:
        return (dist.FileStore(store, -1) if store else _store).add("said", 1) == 1
    except RuntimeError:  # it went down with the process that served it, the first rank
        return _here.rank == 1
