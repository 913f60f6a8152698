"""Architectures of open_clip, read from its files without importing it, and what prompt learning asks of them."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..toolbox.dassl.errors import MissingPackage, UnknownName, WrongValue

if TYPE_CHECKING:
    import torch

VOCABULARY = 49408  # CLIP's byte-pair encoding, including the start and end tokens
# Settings that give a text tower blocks with more in them than CLIP's. `text.TextEncoder` could only call them, one
# prompt a row; no architecture that comes with open_clip has them.
OTHER_BLOCKS = (
    "block_type",
    "qk_norm",
    "scaled_cosine_attn",
    "scale_heads",
    "scale_attn_inner",
    "scale_attn",
    "scale_fc",
)
# OpenAI's archives carry these three numbers beside the weights; no other trainer writes them.
OPENAI_MARKS = ("input_resolution", "context_length", "vocab_size")
_TEXT_KEYS = ("text_projection", "positional_embedding", "token_embedding.weight", "ln_final.weight")
_CONTEXT = 77  # tokens of a text, in every model of OpenAI
_AXES = {  # of the tensors whose shapes are read
    "text_projection": 2,
    "positional_embedding": 2,
    "token_embedding.weight": 2,
    "ln_final.weight": 1,
    "visual.conv1.weight": 4,
    "visual.positional_embedding": 2,
    "visual.attnpool.positional_embedding": 2,
    "visual.layer1.0.conv1.weight": 4,
}


@lru_cache(maxsize=1)
def _config_files() -> dict[str, Path]:
    """Architecture name -> JSON file of the installed open_clip. Importing open_clip would take seconds."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackage("open_clip is not installed: pip install open_clip_torch")
    folder = Path(spec.submodule_search_locations[0]) / "model_configs"
    return {file.stem: file for file in sorted(folder.glob("*.json"))}


def names() -> list[str]:
    """Architecture names of open_clip, those that a program added with `open_clip.add_model_config` included."""
    open_clip = sys.modules.get("open_clip")
    added = open_clip.list_models() if hasattr(open_clip, "list_models") else []
    return [*_config_files(), *(name for name in added if name not in _config_files())]


def config(name: str) -> dict:
    """The configuration of an architecture: `embed_dim`, `vision_cfg`, `text_cfg` and more.

    Raises:
        KeyError: open_clip has no such architecture.
    """
    if name in _config_files():
        return json.loads(_config_files()[name].read_text(encoding="utf-8"))
    if name not in names():
        raise UnknownName(f"open_clip has no architecture {name!r}")
    return sys.modules["open_clip"].get_model_config(name)


def why_unusable(config: dict) -> str | None:
    """Why prompt learning cannot use an architecture, or None if it can.

    The text encoder here cuts prompts to their true length and shares what is common at their front. Both are exact
    only if no token sees a later one and the feature is read at the end-of-text token of CLIP's own tokens.
    """
    text = config["text_cfg"]
    if "multimodal_cfg" in config or text.get("embed_cls"):
        return "its text feature is read at an extra class token (CoCa), not at the end-of-text token"
    if text.get("hf_model_name"):
        return f"its text tower is the Hugging Face model {text['hf_model_name']!r}, not CLIP's causal transformer"
    if other := [key for key in OTHER_BLOCKS if text.get(key) not in (None, False, "default")]:
        return f"the blocks of its text tower are not CLIP's ({', '.join(other)})"
    if text.get("no_causal_mask"):
        return "its text tower is not causal (every token attends to every other)"
    if text.get("pool_type", "argmax") not in ("argmax", "eos"):
        return f"its text feature is read at the {text['pool_type']} position, not at the end-of-text token"
    if text.get("hf_tokenizer_name") or text.get("tokenizer_kwargs"):
        return f"its tokens come from the tokenizer {text.get('hf_tokenizer_name', 'of its own')!r}, not from CLIP's"
    if text.get("pool_type") == "eos" and text.get("eos_id") != VOCABULARY - 1:
        return f"it looks for the end-of-text token {text.get('eos_id')}, CLIP's tokenizer writes {VOCABULARY - 1}"
    if text.get("vocab_size", VOCABULARY) < VOCABULARY:
        return f"it knows {text['vocab_size']} tokens, CLIP's tokenizer has {VOCABULARY}"
    return None


def image_size(config: dict) -> int:
    """Side of the image in pixels.

    Raises:
        ValueError: the architecture takes images that are not square.
    """
    size = config["vision_cfg"].get("image_size", 224)
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise WrongValue(f"the image tower takes {size} pixels; only square images are supported")
    return sides.pop()


def infer(state: Mapping[str, torch.Tensor]) -> dict | None:
    """The configuration that a state dict in OpenAI's layout was made from, None for any other layout.

    All is read from shapes; heads are 64 wide, as in every model of OpenAI. The activation leaves no trace in weights:
    the result says QuickGELU, which is right for OpenAI's weights only.
    """
    if not all(key in state for key in _TEXT_KEYS):
        return None
    if any(key in state and (state[key].dim() != n or 0 in state[key].shape) for key, n in _AXES.items()):
        return None
    if state["positional_embedding"].shape[0] != _CONTEXT:
        return None
    if "visual.positional_embedding" in state and "visual.conv1.weight" in state:
        vision = _vit(state)
    elif "visual.attnpool.positional_embedding" in state and "visual.layer1.0.conv1.weight" in state:
        vision = _resnet(state)
    else:
        return None
    width = state["ln_final.weight"].shape[0]
    text = {
        "context_length": state["positional_embedding"].shape[0],
        "vocab_size": state["token_embedding.weight"].shape[0],
        "width": width,
        "heads": max(width // 64, 1),
        "layers": _count(state, "transformer.resblocks."),
    }
    return {
        "embed_dim": state["text_projection"].shape[1],
        "vision_cfg": vision,
        "text_cfg": text,
        "quick_gelu": True,
    }


def _vit(state: Mapping[str, torch.Tensor]) -> dict:
    width, _, _, patch = state["visual.conv1.weight"].shape
    grid = round((state["visual.positional_embedding"].shape[0] - 1) ** 0.5)
    layers = _count(state, "visual.transformer.resblocks.")
    heads = {"width": width, "head_width": min(64, width)}
    return {"image_size": patch * grid, "layers": layers, "patch_size": patch, **heads}


def _resnet(state: Mapping[str, torch.Tensor]) -> dict:
    grid = round((state["visual.attnpool.positional_embedding"].shape[0] - 1) ** 0.5)
    return {
        "image_size": grid * 32,
        "layers": [_count(state, f"visual.layer{stage}.") for stage in (1, 2, 3, 4)],
        "width": state["visual.layer1.0.conv1.weight"].shape[0],
        "patch_size": None,
    }


def _count(state: Mapping[str, torch.Tensor], prefix: str) -> int:
    """Number of different blocks `<prefix><number>.…` in a state dict."""
    return len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})
