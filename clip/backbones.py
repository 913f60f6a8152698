"""From a name to a model: weights found or downloaded, read, and loaded strictly into open_clip's architecture.

Questions about a name alone import no torch, except for a local file whose architecture is not given.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ..toolbox.dassl.errors import WrongValue
from . import architectures
from .names import OPENAI, ParsedName, openai_name, parse, tag_record
from .preprocess import DEMO_PREPROCESS, OPENAI_MEAN, Preprocess, build_transform, openai_preprocess

if TYPE_CHECKING:
    import torch
    from torch import nn

    from .text import TextEncoder

OPENAI_URL = "https://openaipublic.azureedge.net/clip/models"
CACHE = "~/.cache/clip"  # where OpenAI's own package and CoOp keep the weights


@dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen CLIP and all that belongs to it.

    Attributes:
        name: the name it was loaded by.
        model: open_clip model, in eval mode, without gradients, float32.
        preprocess: what its images must look like.
        tokenizer: list of N texts -> int64 tensor [N, context length]; a text that is too long is an error.
    """

    name: str
    model: nn.Module
    preprocess: Preprocess
    tokenizer: Callable

    @property
    def text(self) -> nn.Module:
        """The module with token_embedding, positional_embedding, transformer, ln_final and text_projection."""
        return self.model if hasattr(self.model, "token_embedding") else self.model.text

    @cached_property
    def text_encoder(self) -> TextEncoder:
        """Encodes prompts made of tokens and context vectors; the same object for every caller."""
        from .text import TextEncoder

        return TextEncoder(self.text)

    @property
    def visual(self) -> nn.Module:
        """The image tower: images [B, 3, size, size] -> features [B, D]."""
        return self.model.visual

    @property
    def logit_scale(self) -> nn.Parameter:
        """Logarithm of the factor that multiplies cosines."""
        return self.model.logit_scale


def load(name: str, device: str | torch.device = "cpu", download_root: str | None = None) -> tuple[nn.Module, Callable]:
    """A CLIP model and its image transform, in the manner of OpenAI's `clip.load`.

    Unlike there, the model is float32 on every device, its parameters require no gradients, and the default device is
    the CPU.

    Returns:
        The open_clip model in eval mode, and the transform PIL image -> tensor [3, size, size]. (On a CPU, the
        weights of a ResNet's convolutions have channels last.)

    Raises:
        ValueError, OSError: as `load_backbone`.
    """
    backbone = load_backbone(name, device, download_root)
    return backbone.model, build_transform(backbone.preprocess)


def load_backbone(name: str, device: str | torch.device = "cpu", download_root: str | None = None) -> Backbone:
    """The backbone called `name`, downloaded if need be. The caller's random numbers are not used.

    Args:
        name: see `clip.names`.
        device: where the model goes.
        download_root: folder of downloaded weights, looked at first; None: `~/.cache/clip` for OpenAI's files, Hugging
            Face's cache for open_clip's.

    Raises:
        ValueError: an unknown or unusable name, or a weights file that is damaged, of another architecture, or that
            would run code (`WeightsError`).
        OSError: a missing local checkpoint, or weights that cannot be downloaded (`DownloadError`).
    """
    parsed = parse(name)
    if parsed.embedded:
        return frozen_backbone(name, _embedded(parsed.embedded), preprocess_of(name), device)
    from .weights import load_strictly, read_state_dict

    preprocess = preprocess_of(name) if parsed.arch else None
    _check_statistics(parsed)
    path = _weights_file(name, parsed, download_root)
    state, from_openai = read_state_dict(path)
    config = _config(path, parsed, state, from_openai)
    source = _describe(path, parsed, state)
    if not parsed.arch:
        _check_inferred(config, state, source)
    model = _build(config)
    load_strictly(model, state, source)
    return frozen_backbone(name, model, preprocess or openai_preprocess(architectures.image_size(config)), device)


def frozen_backbone(name: str, model: nn.Module, preprocess: Preprocess, device: str | torch.device) -> Backbone:
    """A model as a backbone: float32, eval mode, frozen; on a CPU, convolutional image towers with channels last.

    (That is 1.5 times as fast there, twice in bfloat16, and equal up to rounding; not measured on a GPU.)
    """
    import torch

    from .tokenizer import Tokenizer
    from .upstream import VisionTransformer

    model = model.float().to(device).eval().requires_grad_(False)
    if torch.device(device).type == "cpu" and not isinstance(model.visual, VisionTransformer):
        model.visual.to(memory_format=torch.channels_last)
    return Backbone(name, model, preprocess, Tokenizer(model.context_length))


def _embedded(name: str) -> nn.Module:
    import torch

    from .demo_model import load_demo
    from .miniature_model import load_miniature

    with torch.random.fork_rng(devices=[]):
        return load_demo() if name == "demo" else load_miniature()


def _weights_file(name: str, parsed: ParsedName, download_root: str | None) -> Path:
    """The local file of a backbone's weights, downloaded if need be."""
    from .download import fetch

    if parsed.path:
        return parsed.path
    hint = f"or name it in the config: MODEL.BACKBONE.NAME FILE@{name}"
    if parsed.openai:
        _, filename, sha256 = OPENAI[parsed.openai]
        return fetch(f"{OPENAI_URL}/{sha256}/{filename}", download_root or CACHE, sha256, hint)
    record = tag_record(parsed.arch, parsed.tag)
    if record.get("hf_hub"):
        return _from_hub(name, record, download_root)
    return fetch(record["url"], download_root or CACHE, _sha256_in_name(record["url"]), hint)


def _cached(hub: str, cache: str | None) -> Path | None:
    """The file in Hugging Face's cache; None if it is not there.

    (Asked before the hub itself, whose look-up retries for a minute where there is no network.)
    """
    from huggingface_hub import try_to_load_from_cache
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    repository, _, filename = hub.rpartition("/")
    safe = f"{filename[:-4]}.safetensors" if filename.endswith((".bin", ".pth")) else ""
    for candidate in (safe, filename) if filename else (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME):
        found = try_to_load_from_cache(repository, candidate, cache_dir=cache) if candidate else None
        if isinstance(found, str):
            return Path(found)
    return None


def _from_hub(name: str, record: dict, download_root: str | None) -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE
    from open_clip.pretrained import download_pretrained

    from .download import DownloadError

    cached = _cached(record["hf_hub"], download_root)
    if cached:
        return cached
    try:
        return Path(download_pretrained(record, cache_dir=download_root))
    except Exception as error:  # huggingface_hub raises kinds of its own, open_clip yet another
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DownloadError(
            f"cannot get the weights of {name}: {reason}\n"
            f"  wanted: https://huggingface.co/{record['hf_hub'].strip('/')}\n"
            f"  looked in: {download_root or HF_HUB_CACHE}\n"
            f"  what to do: get the file on another machine and name it in the config: "
            f"MODEL.BACKBONE.NAME FILE@{name}, or copy that machine's cache to the folder above"
        ) from error


def _sha256_in_name(url: str) -> str:
    """The beginning of the SHA-256 that open_clip's own releases carry in their file names, or ""."""
    found = re.search(r"-([0-9a-f]{8,64})\.\w+$", url)
    return found[1] if found and "mlfoundations" in url else ""


def _check_statistics(parsed: ParsedName) -> None:
    """Refuse FILE@ARCH where all published weights of ARCH want other image statistics than OpenAI's."""
    if not parsed.path or not parsed.arch or parsed.openai or parsed.tag:
        return
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    tags = list_pretrained_tags_by_model(parsed.arch)
    means = [tuple(get_pretrained_cfg(parsed.arch, tag)["mean"]) for tag in tags]
    if means and OPENAI_MEAN not in means:
        raise WrongValue(
            f"published weights of {parsed.arch} want image mean {means[0]}, not OpenAI's {OPENAI_MEAN}: "
            f"write {parsed.path}@{parsed.arch}/{tags[0]} to take the preprocessing of that tag"
        )


def _config(path: Path, parsed: ParsedName, state: dict, from_openai: bool) -> dict:
    """The architecture to build for weights that were read; refuses where the activation would silently be wrong."""
    if not parsed.arch:
        config = architectures.infer(state) if from_openai else None
        if config is None:
            raise WrongValue(
                f"say which architecture {path} is: {path}@ARCH (an OpenAI name such as ViT-B/16, or open_clip's ARCH "
                "or ARCH/TAG). Only OpenAI's archives need none: other weights do not show their activation"
            )
        return config
    config = architectures.config(parsed.arch)
    if parsed.openai:
        return {**config, "quick_gelu": True}
    if from_openai and not config.get("quick_gelu"):
        raise WrongValue(
            f"{path} is a checkpoint of OpenAI's, trained with QuickGELU, but the architecture {parsed.arch} has GELU: "
            f"write {path}@{openai_name(parsed.arch)}"
        )
    return config


def check_name(name: str) -> None:
    """Check that `name` is a backbone, without reading its weights.

    Raises:
        ValueError: not a name of any kind (the nearest ones are given), or an architecture that prompt learning
            cannot use (the reason is given).
        FileNotFoundError: the name is that of a local checkpoint that is not there.
    """
    preprocess_of(name)


def preprocess_of(name: str) -> Preprocess:
    """What images must look like for the backbone `name`, without reading its weights if its name tells enough.

    Tags of open_clip that were trained on images squashed to a square also get the benchmark's geometry: shorter side
    to `size`, centre crop. A local checkpoint without a tag is assumed to use OpenAI's mean and std; one without an
    architecture is read to find its image size.

    Raises:
        ValueError, FileNotFoundError: as `check_name`; a local file without ARCH that is not a checkpoint, or not
        OpenAI's.
    """
    parsed = parse(name)
    if parsed.embedded:
        return DEMO_PREPROCESS
    if not parsed.arch:
        return preprocess_of_file(parsed.path)
    size = architectures.image_size(architectures.config(parsed.arch))
    if not parsed.tag:
        return openai_preprocess(size)
    tag = tag_record(parsed.arch, parsed.tag)
    return Preprocess(size, tuple(tag["mean"]), tuple(tag["std"]), tag["interpolation"])


def preprocess_of_file(path: Path) -> Preprocess:
    """What images must look like for a checkpoint that tells its own architecture; reads the whole file.

    Raises:
        ValueError: it is not a checkpoint (`WeightsError`), or its architecture cannot be told.
    """
    from .weights import read_state_dict

    config = _config(path, ParsedName(path=path), *read_state_dict(path))
    return openai_preprocess(architectures.image_size(config))


def _check_inferred(config: dict, state: dict, source: str) -> None:
    """Check an architecture read from shapes without memory: a damaged file may ask for any amount."""
    import torch

    from .weights import WeightsError, matching_state

    try:
        with torch.device("meta"):
            model = _build(config)
    except (AssertionError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise WeightsError(f"{source}: no CLIP has these shapes ({error})") from error
    matching_state(model, state, source)


def _build(config: dict) -> nn.Module:
    """A model with arbitrary weights; `custom_text` says under which names open_clip keeps the text tower."""
    import torch

    from .upstream import CLIP, CustomTextCLIP

    arguments = {key: value for key, value in config.items() if key != "custom_text"}
    arguments["vision_cfg"] = {**config["vision_cfg"], "timm_model_pretrained": False}
    with torch.random.fork_rng(devices=[]):
        return (CustomTextCLIP if config.get("custom_text") else CLIP)(**arguments)


def _describe(path: Path, parsed: ParsedName, state: dict) -> str:
    """What to call weights in an error: the file, the architecture asked for, and what their own shapes say."""
    text = f"{path} as {parsed.openai or parsed.arch or 'what its shapes say'}"
    config = architectures.infer(state)
    if config is None:
        return text
    vision = config["vision_cfg"]
    return (
        f"{text} (its shapes say: image tower of {vision['image_size']} pixels, width {vision['width']}, layers "
        f"{vision['layers']}, patch {vision['patch_size']}; joint width {config['embed_dim']})"
    )
