"""A CLIP stored inside another file: its architecture as plain data, and the model again from that and tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..toolbox.dassl.errors import WrongValue
from . import architectures
from .backbones import Backbone, _build, frozen_backbone
from .names import EMBEDDED, is_demo, parse
from .preprocess import Preprocess
from .weights import WeightsError


def refuse_texts(*_: object) -> None:
    """A hook on the token embedding of a text tower that has no weights.

    Raises:
        ValueError: always.
    """
    raise WrongValue(
        "the file holds CLIP's image tower only: classes, templates and devices cannot be changed after loading; "
        "load it with backbone=NAME of the whole CLIP (or device=... on the other device)"
    )


def architecture(backbone: Backbone) -> dict:
    """What rebuilds a backbone's modules, as plain data.

    Raises:
        ValueError: its name says no architecture.
    """
    if is_demo(backbone.name):
        return {backbone.name: True}
    parsed = parse(backbone.name)
    config = architectures.config(parsed.arch) if parsed.arch else architectures.infer(backbone.model.state_dict())
    return {**config, "quick_gelu": True} if parsed.openai else config


def image_only(name: str) -> bool:
    """Whether a tensor of CLIP is needed where the text tower is not."""
    return name.startswith("visual.") or name in ("logit_scale", "logit_bias")


def restore(
    name: str,
    config: Mapping[str, object],
    state: Mapping[str, Tensor],
    preprocess: Preprocess,
    device: str | torch.device,
    source: str,
) -> Backbone:
    """The backbone that `architecture` described.

    Args:
        name: of the backbone; config: see `architecture`; state: all of its tensors, or those of the image tower.
        preprocess: what its images must look like; device: where it goes; source: of the tensors, for messages.

    Raises:
        WeightsError: no CLIP has this architecture, or the tensors are not its own.
    """
    whole = not all(image_only(key) for key in state)
    try:
        with torch.device("meta"):
            check_tensors(build(config), state, whole, source)
        model = build(config)
    except WeightsError:
        raise
    except Exception as error:  # open_clip may raise anything on untrusted settings
        raise WeightsError(f"{source}: no CLIP has the architecture that it names ({str(error)[:200]})") from error
    model.load_state_dict(state, strict=False)
    backbone = frozen_backbone(name, model, preprocess, device)
    if not whole:
        backbone.text.token_embedding.register_forward_pre_hook(refuse_texts)
    return backbone


def build(config: Mapping[str, object]) -> nn.Module:
    """The modules of an architecture with arbitrary weights; the caller's random numbers stay as they are."""
    own = next((name for name in EMBEDDED if config == {name: True}), None)
    if own is None:
        return _build(dict(config))
    from .demo_model import build_demo
    from .miniature_model import build_miniature

    with torch.random.fork_rng(devices=[]):
        return build_demo() if own == "demo" else build_miniature()


def check_tensors(model: nn.Module, state: Mapping[str, Tensor], whole: bool, source: str) -> None:
    """Refuse tensors that are not all of a model's, or not all of its image tower's.

    Raises:
        WeightsError: naming some of those that differ.
    """
    own = {key: tuple(p.shape) for key, p in model.state_dict().items() if whole or image_only(key)}
    found = {key: tuple(p.shape) for key, p in state.items()}
    if differ := sorted({key for key, _ in own.items() ^ found.items()}):
        raise WeightsError(f"{source}: {len(differ)} tensors do not belong to the CLIP that it names: {differ[:5]}")
