"""Learning rate per epoch, in closed form, with an optional warm-up; the state is two lists and two numbers."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler
from yacs.config import CfgNode

from ..errors import WrongType
from ..names import LR_SCHEDULERS, WARMUPS
from ..utils.tools import check_availability


class EpochSchedule(LRScheduler):
    """Each group's learning rate in epoch e is `rate(base, e)`, where base is the group's own initial rate.

    Dassl wraps one torch scheduler in another and counts in both; on current torch that wrapper cannot be built, and
    after a resume it no longer moves the rate. A closed form has one counter and resumes from it.

    Args:
        optimizer: its groups' `lr` are set now and after every `step()`.
        rate: (base rate, epoch from 0) -> rate.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, rate: Callable[[float, int], float]) -> None:
        self.rate = rate
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        """Return the rate of every group in the current epoch."""
        return [self.rate(base, self.last_epoch) for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """Return the counter and the rates, as numbers and lists."""
        return {
            "last_epoch": self.last_epoch,
            "base_lrs": [float(rate) for rate in self.base_lrs],
            "_last_lr": [float(rate) for rate in self._last_lr],
            "_step_count": self._step_count,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the counter and the base rates of a saved schedule, and set the optimiser's rates accordingly.

        Also reads what torch's own schedulers save.

        Raises:
            ValueError: if the state is of another number of parameter groups.
        """
        if len(state_dict["base_lrs"]) != len(self.optimizer.param_groups):
            raise ValueError(
                f"expected {len(self.optimizer.param_groups)} parameter groups, found {len(state_dict['base_lrs'])}"
            )
        self.last_epoch = state_dict["last_epoch"]
        self.base_lrs = list(state_dict["base_lrs"])
        self._step_count = state_dict.get("_step_count", self.last_epoch + 1)
        self._last_lr = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate


def build_lr_scheduler(optimizer: torch.optim.Optimizer, optim_cfg: CfgNode) -> EpochSchedule:
    """Build the schedule that `OPTIM.LR_SCHEDULER` names; its unit is the epoch, and the trainer's code steps it.

    With e the epoch, W = WARMUP_EPOCH (0 if negative) and T = MAX_EPOCH, base each group's own rate:

    - e < W, constant: WARMUP_CONS_LR for every group. Linear: WARMUP_MIN_LR at e = 0, then base * e / W.
    - afterwards, with RECOUNT or without warm-up, n = e - W: cosine base * (1 + cos(pi n / T)) / 2, single_step
      base * GAMMA^(n // STEPSIZE), multi_step base * GAMMA^(milestones <= n). T stays MAX_EPOCH, so a cosine after a
      warm-up stops short of 0.
    - afterwards, without RECOUNT: cosine base * (1 + cos(pi e / T)) / (1 + cos(pi W / T)); of the steps and
      milestones only those in (W, e] count.

    Args:
        optimizer: with one or several groups.
        optim_cfg: the node `cfg.OPTIM`.

    Raises:
        ValueError: for an unknown schedule or warm-up.
        TypeError: if STEPSIZE is not an int (single_step; the last one of a sequence) or not a sequence (multi_step).
    """
    check_availability(optim_cfg.LR_SCHEDULER, LR_SCHEDULERS)
    warmup = max(optim_cfg.WARMUP_EPOCH, 0)
    if warmup:
        check_availability(optim_cfg.WARMUP_TYPE, WARMUPS)
    start = 0 if optim_cfg.WARMUP_RECOUNT else warmup
    decay = _decay(optim_cfg, start)
    constant, cons_lr, min_lr = optim_cfg.WARMUP_TYPE == "constant", optim_cfg.WARMUP_CONS_LR, optim_cfg.WARMUP_MIN_LR

    def rate(base: float, epoch: int) -> float:
        if epoch >= warmup:
            return base * decay(epoch - warmup + start)
        if constant:
            return cons_lr
        return base * epoch / warmup if epoch else min_lr

    return EpochSchedule(optimizer, rate)


def _decay(optim_cfg: CfgNode, start: int) -> Callable[[int], float]:
    """The factor on the base rate at a counter n >= start, where it is 1 (unless a milestone is at 0)."""
    total, gamma, stepsize = optim_cfg.MAX_EPOCH, optim_cfg.GAMMA, optim_cfg.STEPSIZE
    if optim_cfg.LR_SCHEDULER == "cosine":

        def cosine(n: int) -> float:
            return 1.0 if n == start else (1 + math.cos(math.pi * n / total)) / (1 + math.cos(math.pi * start / total))

        return cosine
    if optim_cfg.LR_SCHEDULER == "single_step":
        step = stepsize[-1] if isinstance(stepsize, Sequence) and not isinstance(stepsize, str) else stepsize
        if isinstance(step, bool) or not isinstance(step, int):
            raise WrongType(f"OPTIM.STEPSIZE of single_step: expected an int, found {step!r}")
        step = step if step > 0 else total
        return lambda n: gamma ** (n // step - start // step)
    if isinstance(stepsize, str) or not isinstance(stepsize, Sequence):
        raise WrongType(f"OPTIM.STEPSIZE of multi_step: expected a sequence of epochs, found {stepsize!r}")
    return lambda n: gamma ** sum(milestone <= n and (milestone > start or not start) for milestone in stepsize)
