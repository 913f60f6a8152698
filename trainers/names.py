"""The class names that a data set knows; a host's data set may know only those that are present."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from yacs.config import CfgNode


def class_names(dataset: object, cfg: CfgNode | None = None) -> tuple[list[str], list[str]]:
    """Present class names in label order, and all names the data set knows: the present ones first, then the others.

    A host's data set may list them in any order; putting the present ones first keeps labels valid.

    Args:
        dataset: of the host or ours.
        cfg: given where absent classes matter: a data set that knows only its half (CoOp's own) is then asked again.
    """
    present = list(dataset.classnames)
    known = getattr(dataset, "all_classnames", None) or getattr(dataset, "all_class_names", None)
    if not known:
        known = present if cfg is None else whole_classnames(dataset, cfg)
    others = list(known)
    for name in present:
        if name in others:
            others.remove(name)
    return present, present + others


def whole_classnames(dataset: object, cfg: CfgNode) -> list[str]:
    """All class names of a host's data set: of the same class, made once more with all classes.

    The shots of the first data set are drawn already; what the second one draws does not change the random state. If it
    cannot be made, or does not know the present names, these are returned and a line says so.
    """
    half = getattr(cfg.DATASET, "SUBSAMPLE_CLASSES", "all")
    if half == "all":
        return list(dataset.classnames)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASET.SUBSAMPLE_CLASSES = "all"
    try:
        with random_states_kept():
            known = list(type(dataset)(cfg).classnames)
        reason = "made with all classes it does not know them" if set(dataset.classnames) - set(known) else ""
    except Exception as error:  # a host's class may raise anything
        reason = f"made with all classes it failed: {error!r}"
    if not reason:
        print(f"{type(dataset).__name__}: {len(known)} class names in all, {len(dataset.classnames)} of them present")
        return known
    print(
        f"Note: {type(dataset).__name__} knows only the {len(dataset.classnames)} names of its {half} classes "
        f"({reason}): absent classes take no part, as if VIRTUAL_CLASSES and INCLUDE_ALL_CLASSES were False"
    )
    return list(dataset.classnames)


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Leave the generators of Python, numpy and torch (on the CPU) as they were before the block."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
