"""Names of backbones: which exist, and what each stands for, without reading any weights.

Four kinds of names (`MODEL.BACKBONE.NAME`):
    ViT-B/16                             OpenAI's models, with QuickGELU
    ViT-B-16/laion2b_s34b_b88k           ARCH/TAG of open_clip
    path/to/file.pt@ViT-B-16-quickgelu   a local checkpoint and what it is: an OpenAI name, ARCH or ARCH/TAG
    demo, miniature                      the small models that come with this package, each for its demo world
Nothing here imports torch, except for an ARCH/TAG (open_clip keeps its tags in code).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..toolbox.dassl.errors import WrongValue
from ..toolbox.dassl.utils import did_you_mean, nearest
from . import architectures

# name: (open_clip's architecture, file name, SHA-256, which is also part of the address)
OPENAI = {
    "RN50": ("RN50", "RN50.pt", "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"),
    "RN101": ("RN101", "RN101.pt", "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599"),
    "RN50x4": ("RN50x4", "RN50x4.pt", "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd"),
    "RN50x16": ("RN50x16", "RN50x16.pt", "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa"),
    "RN50x64": ("RN50x64", "RN50x64.pt", "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c"),
    "ViT-B/32": ("ViT-B-32", "ViT-B-32.pt", "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"),
    "ViT-B/16": ("ViT-B-16", "ViT-B-16.pt", "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"),
    "ViT-L/14": ("ViT-L-14", "ViT-L-14.pt", "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"),
    "ViT-L/14@336px": (
        "ViT-L-14-336",
        "ViT-L-14-336px.pt",
        "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",
    ),
}
EMBEDDED = ("demo", "miniature")  # weights that come with the package
WEIGHT_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
QUICKGELU = "-quickgelu"  # how open_clip ends the name of an architecture's QuickGELU twin


@dataclass(frozen=True)
class ParsedName:
    """A name taken apart.

    Attributes:
        embedded: one of `EMBEDDED`; all else is None.
        openai: a key of `OPENAI`, None for weights of others.
        arch: open_clip's architecture; None for a local checkpoint that does not name it.
        tag: open_clip's tag of weights.
        path: an existing local checkpoint.
    """

    embedded: str | None = None
    openai: str | None = None
    arch: str | None = None
    tag: str | None = None
    path: Path | None = None


def available_models() -> list[str]:
    """OpenAI's names, the embedded ones, and each usable ARCH/TAG of open_clip (which is imported for that)."""
    from open_clip.pretrained import list_pretrained

    tags = [
        f"{arch}/{tag}"
        for arch, tag in list_pretrained()
        if tag != "openai"
        and arch in architectures.names()
        and not architectures.why_unusable(architectures.config(arch))
        and not _gelu_differs(arch, tag)
    ]
    return [*OPENAI, *EMBEDDED, *tags]


def parse(name: str) -> ParsedName:
    """Take a name apart. Whether a TAG exists is left to `tag_record`, which needs open_clip.

    Raises:
        ValueError: it is none of these kinds (the nearest names are given), or an architecture that prompt learning
        cannot use (the reason is given). FileNotFoundError: it is that of a local checkpoint that is not there.
    """
    if not isinstance(name, str):
        raise WrongValue(f"the name of a backbone is a text such as 'ViT-B/16', got {name!r}")
    if is_demo(name):
        return ParsedName(embedded=name)
    if name not in OPENAI and _is_path(name):
        return ParsedName(path=existing_file(name))
    path, at, model = _split(name)
    if at and (_is_path(path) or _known(model)):
        return _parse_model(model, existing_file(path), name)
    return _parse_model(name, None, name)


def is_demo(name: str) -> bool:
    """Whether `name` is a small backbone that comes with this package."""
    return name in EMBEDDED


def is_resnet(name: str) -> bool:
    """Whether the image tower of a backbone that `parse` accepts is a ResNet; a FILE that names none may be."""
    arch = parse(name).arch
    return bool(arch) and isinstance(architectures.config(arch)["vision_cfg"].get("layers"), list)


def existing_file(path: str | Path) -> Path:
    """`path` with `~` expanded, if there is such a file.

    Raises:
        FileNotFoundError: there is none; the absolute path is named.
    """
    found = Path(os.path.expanduser(path))
    if not found.is_file():
        kind = " (a folder)" if found.is_dir() else " (not a regular file)" if found.exists() else ""
        raise FileNotFoundError(f"no weights file at {found.absolute()}{kind}")
    return found


def tag_record(arch: str, tag: str) -> dict:
    """open_clip's record of a tag: mean, std, interpolation, and where the weights are (`hf_hub`, `url`).

    Raises:
        ValueError: no such tag, or its weights were trained with another activation than the architecture has.
    """
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    record = get_pretrained_cfg(arch, tag)
    if not record:
        tags = list_pretrained_tags_by_model(arch)
        meant = did_you_mean(f"{arch}/{tag}", [f"{arch}/{other}" for other in tags], end=".")
        raise WrongValue(f"open_clip has no weights {tag!r} for {arch}{meant} It has: {', '.join(tags) or 'none'}")
    if _gelu_differs(arch, tag):
        raise WrongValue(
            f"{arch}/{tag} was trained with QuickGELU, but the architecture {arch} has GELU: "
            f"write {arch}{QUICKGELU}/{tag}"
        )
    return record


def openai_name(arch: str) -> str:
    """OpenAI's name for `arch`; where there is none, open_clip's name of its QuickGELU twin."""
    plain = arch.removesuffix(QUICKGELU)
    return next((name for name, (own, _, _) in OPENAI.items() if own == plain), plain + QUICKGELU)


def _gelu_differs(arch: str, tag: str) -> bool:
    """Whether weights trained with QuickGELU would go into a model with GELU: it silently costs some accuracy."""
    from open_clip.pretrained import get_pretrained_cfg

    return bool(get_pretrained_cfg(arch, tag).get("quick_gelu")) and not architectures.config(arch).get("quick_gelu")


def _is_path(name: str) -> bool:
    return name.endswith(WEIGHT_SUFFIXES) or os.path.isfile(os.path.expanduser(name))


def _known(model: str) -> bool:
    return model in OPENAI or model.partition("/")[0] in architectures.names()


def _split(name: str) -> tuple[str, str, str]:
    """Path, "@" and model of `PATH@MODEL`: at the last "@", except that one of OpenAI's names has an "@" of its own."""
    for openai in OPENAI:
        if name.endswith("@" + openai):
            return name[: -len(openai) - 1], "@", openai
    return ("", "", name) if name in OPENAI else name.rpartition("@")


def _parse_model(model: str, path: Path | None, name: str) -> ParsedName:
    """An OpenAI name, ARCH/TAG, or, for a local checkpoint, ARCH."""
    arch, slash, tag = model.partition("/")
    if model in OPENAI:
        return ParsedName(openai=model, arch=OPENAI[model][0], path=path)
    if arch not in architectures.names() or (slash and not tag):
        raise WrongValue(_unknown(name, model))
    reason = architectures.why_unusable(architectures.config(arch))
    if reason:
        raise WrongValue(
            f"the backbone {name!r} cannot be used: {reason}. Prompt learning here needs a causal text tower whose "
            "feature is read at the end-of-text token, as in ViT-B/16 or ViT-B-16/laion2b_s34b_b88k"
        )
    if tag == "openai" and openai_name(arch) in OPENAI:
        return _parse_model(openai_name(arch), path, name)
    if not tag and path is None:
        raise WrongValue(
            f"{name!r} is an architecture without weights: write {arch}/TAG with a tag of open_clip, FILE@{arch} for "
            f"a local checkpoint, or one of OpenAI's names: {', '.join(OPENAI)}"
        )
    return ParsedName(arch=arch, tag=tag or None, path=path)


def _unknown(name: str, model: str) -> str:
    near = nearest(model, [*OPENAI, *EMBEDDED], most=2) or nearest(
        model.partition("/")[0], architectures.names(), most=2
    )
    asked = f"backbone {name!r}" if name == model else f"architecture {model!r} in the backbone {name!r}"
    meant = f"; did you mean {' or '.join(near)}?" if near else "."
    return (
        f"unknown {asked}{meant} Names are OpenAI's ({', '.join(OPENAI)}), {', '.join(EMBEDDED)}, ARCH/TAG of "
        "open_clip (mocoop.clip.available_models() lists them), and FILE@ARCH for a local checkpoint"
    )
