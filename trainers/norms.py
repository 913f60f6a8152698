"""The LayerNorms of the image tower, which some methods train."""

from copy import copy
from dataclasses import replace

from torch import nn

from ..clip import Backbone
from ..config import ConfigError


def image_norms(visual: nn.Module) -> dict[str, nn.Parameter]:
    """Weights and biases of ln_1 and ln_2 of every block of a ViT image tower, by name.

    Raises:
        ConfigError: the tower has no such blocks (a ResNet).
    """
    blocks = getattr(getattr(visual, "transformer", None), "resblocks", None)
    if blocks is None or not all(hasattr(block, "ln_1") and hasattr(block, "ln_2") for block in blocks):
        raise ConfigError(
            [f"FINETUNE_VIT_LN needs an image tower of ViT blocks, found {type(visual).__name__}; set it to False"]
        )
    return {
        f"{i}_{norm}_{kind}": getattr(getattr(block, norm), kind)
        for i, block in enumerate(blocks)
        for norm in ("ln_1", "ln_2")
        for kind in ("weight", "bias")
    }


def with_own_norms(backbone: Backbone) -> Backbone:
    """The same backbone, but for those LayerNorms: copies, which may learn without a change to any other model.

    Everything else (weights, hooks, layers) is shared with the given one.

    Raises:
        ConfigError: see `image_norms`.
    """
    own = {id(p): nn.Parameter(p.detach().clone()) for p in image_norms(backbone.visual).values()}

    def copied(module: nn.Module | None) -> nn.Module | None:
        if module is None or not any(id(p) in own for p in module.parameters()):
            return module
        twin = copy(module)
        twin._parameters = {name: own.get(id(p), p) for name, p in module._parameters.items()}
        twin._modules = {name: copied(child) for name, child in module._modules.items()}
        return twin

    return replace(backbone, model=copied(backbone.model))


def parameter_groups(model: nn.Module, lr: float, norms_lr: float) -> list[dict]:
    """What a model trains, for an optimizer: LayerNorms of the image tower learn at `norms_lr` times the rate.

    Args:
        model: a `PromptModel`; lr: the learning rate of all else; norms_lr: a factor on it.
    """
    norms = list(getattr(model, "image_norms", {}).values())
    ids = {id(p) for p in norms}
    main = [p for p in model.parameters() if id(p) not in ids]
    groups = [{"params": main}] if main else []
    return [*groups, {"params": norms, "lr": lr * norms_lr}] if norms else groups
