"""Optimisers from a config."""

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from yacs.config import CfgNode

from ..names import OPTIMIZERS
from ..utils.tools import check_availability


def build_optimizer(
    model: nn.Module | Iterable, optim_cfg: CfgNode, param_groups: list[dict[str, Any]] | None = None
) -> torch.optim.Optimizer:
    """Build the optimiser that `OPTIM.NAME` names, with the settings of the same config node.

    Args:
        model: a module, or an iterable of parameters. All of a module's parameters are passed, frozen ones too (they
            never get a gradient and are skipped).
        optim_cfg: the node `cfg.OPTIM`.
        param_groups: used as they are, instead of `model`, if given.

    Returns:
        A torch optimiser; `radam` is torch's own RAdam.

    Raises:
        ValueError: for an unknown name.
        TypeError: if STAGED_LR is on and `model` is not a module.
    """
    check_availability(optim_cfg.NAME, OPTIMIZERS)
    if param_groups is not None:
        if optim_cfg.STAGED_LR:
            warnings.warn("OPTIM.STAGED_LR is ignored: the trainer passes its own parameter groups", stacklevel=2)
        params = param_groups
    elif optim_cfg.STAGED_LR:
        params = _staged(model, optim_cfg)
    else:
        params = model.parameters() if isinstance(model, nn.Module) else model
    common = {"lr": optim_cfg.LR, "weight_decay": optim_cfg.WEIGHT_DECAY}
    momentum = {"momentum": optim_cfg.MOMENTUM}
    betas = {"betas": (optim_cfg.ADAM_BETA1, optim_cfg.ADAM_BETA2)}
    if optim_cfg.NAME == "sgd":
        sgd = {"dampening": optim_cfg.SGD_DAMPNING, "nesterov": optim_cfg.SGD_NESTEROV}
        return torch.optim.SGD(params, **common, **momentum, **sgd)
    if optim_cfg.NAME == "rmsprop":
        return torch.optim.RMSprop(params, **common, **momentum, alpha=optim_cfg.RMSPROP_ALPHA)
    if optim_cfg.NAME == "radam":
        return torch.optim.RAdam(params, **common, **betas)
    if optim_cfg.NAME == "adamw":
        return torch.optim.AdamW(params, **common, **betas)
    return torch.optim.Adam(params, **common, **betas, amsgrad=optim_cfg.NAME == "amsgrad")


def _staged(model: nn.Module, optim_cfg: CfgNode) -> list[dict[str, Any]]:
    """Two groups: the children not in NEW_LAYERS at LR x BASE_LR_MULT, and those in it at LR."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"OPTIM.STAGED_LR needs a module to split into layers, found {type(model).__name__}")
    if isinstance(model, nn.DataParallel):
        model = model.module
    new_layers = [optim_cfg.NEW_LAYERS] if isinstance(optim_cfg.NEW_LAYERS, str) else optim_cfg.NEW_LAYERS
    base, new = [], []
    for name, child in model.named_children():
        (new if name in new_layers else base).extend(child.parameters())
    return [{"params": base, "lr": optim_cfg.LR * optim_cfg.BASE_LR_MULT}, {"params": new}]
