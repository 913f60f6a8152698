"""open_clip's and torchvision's modules, imported without others that take longer than a first answer.

open_clip imports timm, for image towers that are timm's, the Hugging Face hub, for downloads and uploads, and ftfy,
for the tokenizer; torchvision imports torch's compiler, for one function that asks whether it can be used. While the
two are imported, stand-ins are there in place of these: functions that import them when they are called. Where
somebody has imported one of them already, nothing is different.
"""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType


class StandIn(ModuleType):
    """A module each of whose names is a function that imports the real module once it is called."""

    __path__: list[str] = []  # so that modules below it can be asked for

    def __getattr__(self, name: str) -> Callable:
        if name.startswith("__"):
            raise AttributeError(name)

        def later(*args: object, **kwargs: object) -> object:
            return getattr(importlib.import_module(self.__name__), name)(*args, **kwargs)

        return later


@contextmanager
def stand_ins(*names: str) -> Iterator[None]:
    """Put stand-ins in the place of modules within the block, unless the first of them is imported already.

    Args:
        names: full names, a package before what is below it.
    """
    if names[0] in sys.modules:
        yield
        return
    made = {name: StandIn(name) for name in names}
    sys.modules.update(made)
    try:
        yield
    finally:
        for name, module in made.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


with stand_ins("torch._dynamo", "torch._dynamo.utils"):
    import torchvision  # noqa: F401
with (
    stand_ins("timm", "timm.layers"),
    stand_ins("huggingface_hub"),
    stand_ins("open_clip.push_to_hf_hub"),
    stand_ins("ftfy"),
):
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP
    from open_clip.transformer import QuickGELU, ResidualAttentionBlock, Transformer, VisionTransformer

__all__ = [
    "CLIP",
    "CLIPTextCfg",
    "CLIPVisionCfg",
    "CustomTextCLIP",
    "QuickGELU",
    "ResidualAttentionBlock",
    "Transformer",
    "VisionTransformer",
]
