"""The saved form of a classifier: one .safetensors file, tensors and JSON, of which nothing is executed.

Tensors: `trained/<name>` (all that was trained), `class_features` ([C, D] or [G, C, D], so that the text tower need not
run) and, if CLIP is embedded, `clip/<name>`. Metadata, under the key `mocoop`: `Header` as JSON. Without CLIP in it, a
file names CLIP with the SHA-256 of all of it that was not trained; another CLIP is refused.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..clip import Backbone, Preprocess, load_backbone
from ..clip.embedded import architecture, image_only, restore
from ..toolbox.dassl.errors import WrongValue
from ..toolbox.dassl.utils import atomic_write
from ..trainers.model import PromptModel
from ..trainers.trained import rebuild
from .recorded import MOST, NAME, fault_of_figures, fault_of_fit, list_of, number, small, text

FORMAT = 1
KEY = "mocoop"  # of the metadata
FILE = "classifier.safetensors"  # in a folder
TRAINED, CLIP, FEATURES = "trained/", "clip/", "class_features"
MOST_BYTES = 2**24  # of the metadata: 100,000 classes with long names take a third of it
TEMPERATURES = (1e-3, 1e3)  # `fit_temperature` gives 0.1 to 10; beyond these, float32 probabilities mean nothing
THRESHOLDS = (0, 2)  # above 1: never sure, see `fit_threshold`
MOST_LABEL = 2**62
Embed = Literal["no", "image", "all"]


@dataclass
class Header:
    """What a file says beside its tensors.

    Attributes:
        format: of this file; versions: of the packages that wrote it.
        model: `PromptModel.settings`: method, backbone, class names for prompts, arguments (templates among them).
        precision: in which the towers compute.
        labels: C labels in the model's order.
        clip: `sha256` of what was not trained, `embedded` ("no", "image" or "all"), `architecture` and `preprocess`.
        temperature: of the probabilities; threshold: below which an answer is unsure.
        figures: what was measured: on held-out images, and how methods compared.
        fit: how it was trained.
    """

    format: int
    versions: dict
    model: dict
    precision: str
    labels: list
    clip: dict
    temperature: float
    threshold: float
    figures: dict
    fit: dict


# ---- writing
# -----------------------------------------------------------------------------------------------------------------


def write(path: str | Path, model: PromptModel, header: Header, embed: Embed, overwrite: bool = False) -> None:
    """Save a classifier, all or nothing.

    Args:
        path: of the file; model: the trained model; header: all but `clip`, which is filled in here.
        embed: what of CLIP goes into the file: "no", the "image" tower alone (classes then stay), or "all".
        overwrite: an existing file is replaced.

    Raises:
        FileExistsError: there is a file, and it may not be replaced.
        WrongValue: the method needs the text tower for every image, and only the image tower is to be embedded; or the
            header is not as `check_header` wants it.
        OSError: it cannot be written; what was there is intact.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; give another name, or overwrite=True")
    features = model.kept_class_features()
    if embed == "image" and features is None:
        raise WrongValue(f'{model.method} encodes prompts for every image: embed="all" of CLIP, or "no"')
    header.clip = {"sha256": frozen_hash(model), "embedded": embed, "preprocess": asdict(model.backbone.preprocess)}
    header.clip["architecture"] = architecture(model.backbone) if embed != "no" else None
    tensors = {TRAINED + name: p for name, p in model.state_dict().items() if isinstance(p, Tensor)}
    tensors |= {} if features is None else {FEATURES: features}
    tensors |= {CLIP + name: p for name, p in embedded_state(model.backbone, embed).items()}
    plain = {name: p.detach().cpu().contiguous().clone() for name, p in tensors.items()}
    metadata = {KEY: as_text(header)}
    try:
        parse_header(path, metadata[KEY])
    except WrongValue as error:
        raise WrongValue(f"not saved, as it could not be loaded again: {error}") from error
    try:
        with atomic_write(path) as temporary:
            Path(temporary).touch()
            mode = os.stat(temporary).st_mode  # a file of this user; the library's own are for nobody else to read
            save_file(plain, temporary, metadata)
            os.chmod(temporary, mode)
    except (SafetensorError, OSError) as error:
        raise OSError(f"cannot write {path}: {error}; nothing was changed") from error


def as_text(header: Header) -> str:
    """A header as JSON; without the confusion matrix where it would be too large (from some 2,000 classes on)."""
    written = json.dumps(asdict(header), ensure_ascii=False, allow_nan=False)
    if len(written) <= MOST_BYTES:
        return written
    fewer = {name: value for name, value in header.figures.items() if name != "confusion"}
    return json.dumps({**asdict(header), "figures": fewer}, ensure_ascii=False, allow_nan=False)


def embedded_state(backbone: Backbone, embed: Embed) -> dict[str, Tensor]:
    """The part of CLIP that goes into the file, by name."""
    if embed not in ("no", "image", "all"):
        raise WrongValue(f'embed: expected "no", "image" or "all", found {embed!r}')
    state = backbone.model.state_dict() if embed != "no" else {}
    return {name: p for name, p in state.items() if embed == "all" or image_only(name)}


def frozen_hash(model: PromptModel) -> str:
    """SHA-256 of names, shapes and numbers of all of CLIP that the model has not trained."""
    own = {p.data_ptr() for p in model.parameters()}
    digest = hashlib.sha256()
    for name, p in sorted(model.backbone.model.state_dict().items()):
        if p.data_ptr() not in own:
            digest.update(f"{name} {list(p.shape)} {p.dtype}".encode())
            digest.update(p.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


# ---- reading
# -----------------------------------------------------------------------------------------------------------------


def read(
    path: str | Path, device: str | torch.device | None = None, backbone: Backbone | str | None = None
) -> tuple[PromptModel, Header]:
    """The model of a saved classifier, in eval mode, and what the file says beside it.

    Args:
        path: of the file; device: where the model goes (default: a GPU if there is one).
        backbone: CLIP, or its name, where the one that the file names is called otherwise here.

    Raises:
        FileNotFoundError: there is no such file.
        WrongValue: it is damaged, no classifier, of a later version, or CLIP here is another one.
    """
    path = Path(path)
    header, tensors = read_file(path)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    backbone = find_clip(path, header, tensors, device, backbone)
    trained = {name.removeprefix(TRAINED): p for name, p in tensors.items() if name.startswith(TRAINED)}
    arguments = {**header.model["arguments"], "precision": header.precision}
    try:
        described = {**header.model, "arguments": arguments}
        model = rebuild(described, trained, backbone, header.model["names"], "it").to(device).eval()
    except (ValueError, RuntimeError, TypeError, KeyError, IndexError, AttributeError, MemoryError) as error:
        raise WrongValue(f"{path} cannot be used: {str(error)[:2000]}") from error
    if header.clip["embedded"] != "image" and (found := frozen_hash(model)) != header.clip["sha256"]:
        raise WrongValue(
            f"{path} was made with another CLIP than {backbone.name} is here (SHA-256 {header.clip['sha256'][:12]}…, "
            f"found {found[:12]}…); give backbone=NAME of the right one"
        )
    if FEATURES in tensors:
        model.keep_class_features(checked_features(path, tensors[FEATURES], model))
    return model, header


def find_clip(
    path: Path, header: Header, tensors: Mapping[str, Tensor], device: torch.device, given: Backbone | str | None
) -> Backbone:
    """CLIP: given, embedded in the file, or by its name."""
    if isinstance(given, Backbone):
        return given
    name = given or header.model["backbone"]
    if header.clip["embedded"] == "no" or given:
        return load_backbone(name, device)
    state = {key.removeprefix(CLIP): p for key, p in tensors.items() if key.startswith(CLIP)}
    preprocess = Preprocess(**{k: tuple(v) if isinstance(v, list) else v for k, v in header.clip["preprocess"].items()})
    return restore(name, header.clip["architecture"], state, preprocess, device, str(path))


def read_file(path: Path) -> tuple[Header, dict[str, Tensor]]:
    """Header and tensors of a file, checked as far as that is possible without CLIP.

    Raises:
        FileNotFoundError, WrongValue: as `read`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    try:
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
            header = parse_header(path, metadata.get(KEY))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
    except (SafetensorError, OSError, RuntimeError, MemoryError) as error:
        raise WrongValue(f"{path} is truncated, damaged, or no .safetensors file ({str(error)[:200]})") from error
    for name, p in tensors.items():
        need(p.dtype == torch.float32 and bool(p.isfinite().all()), path, f"finite numbers of float32 in {name[:100]}")
    return header, tensors


def parse_header(path: Path, text: str | None) -> Header:
    """The header from its JSON.

    Raises:
        WrongValue: it is not there, of a later version, or not as `check_header` wants it.
    """
    need(text is not None, path, f"a classifier (metadata {KEY!r}); this .safetensors file was not written by mocoop")
    need(len(text) <= MOST_BYTES, path, f"metadata of at most {MOST_BYTES:,} characters")
    try:
        values = json.loads(text, parse_constant=_not_finite)
    except (ValueError, RecursionError) as error:
        raise WrongValue(f"{path} is damaged: its metadata are no JSON ({str(error)[:200]})") from error
    need(isinstance(values, dict), path, "an object in its metadata")
    version = values.get("format")
    need(type(version) is int and version >= 1, path, "a format number of at least 1")
    if version > FORMAT:
        raise WrongValue(
            f"{path} has format {version}, this version of mocoop knows up to {FORMAT}: install a later one"
        )
    need(values.keys() >= {entry.name for entry in fields(Header)}, path, "all entries of format 1 in its metadata")
    header = Header(**{entry.name: values[entry.name] for entry in fields(Header)})
    check_header(path, header)
    return header


def _not_finite(name: str) -> float:
    raise WrongValue(f"{name} is no number")


def check_header(path: Path, header: Header) -> None:
    """Refuse what is not as this module writes it.

    Raises:
        WrongValue: naming what was expected.
    """
    for name in ("versions", "model", "clip", "figures", "fit"):
        need(isinstance(getattr(header, name), dict), path, f"an object in {name}")
    labels, names = header.labels, header.model.get("names")
    for what, texts in (("labels", labels), ("model.names", names)):
        need(isinstance(texts, list) and len(texts) >= 2, path, f"a list of at least two in {what}")
    need(all(text(name, NAME) for name in names), path, f"texts of at most {NAME:,} characters in model.names")
    need(
        len({type(label) for label in labels}) == 1 and type(labels[0]) in (str, int),
        path,
        "texts or whole numbers in labels",
    )
    need(all(map(good_label, labels)), path, f"labels of at most {NAME:,} characters, or numbers of at most 2^62")
    need(len(set(labels)) == len(labels) == len(names), path, "labels that differ, one for each of model.names")
    for name in ("method", "backbone"):
        need(text(header.model.get(name)), path, f"a text in model.{name}")
    need(isinstance(header.model.get("arguments"), dict) and small(header.model["arguments"]), path, "plain arguments")
    need(header.precision in ("fp32", "amp", "bf16", "fp16"), path, "fp32, amp, bf16 or fp16 in precision")
    for name, (low, high) in (("temperature", TEMPERATURES), ("threshold", THRESHOLDS)):
        value = getattr(header, name)
        need(number(value) and low <= value <= high, path, f"a {name} of {low:g} to {high:g}")
    need(small(header.versions), path, "plain data in versions")
    for fault in (fault_of_figures(header.figures, len(labels)), fault_of_fit(header.fit)):
        need(not fault, path, fault)
    check_clip(path, header.clip)


def good_label(label: str | int) -> bool:
    """Whether a label can be printed, written and held by numpy."""
    return text(label, NAME) if isinstance(label, str) else abs(label) <= MOST_LABEL


def check_clip(path: Path, clip: Mapping[str, object]) -> None:
    """Refuse a description of CLIP that is not as this module writes it."""
    need(clip.get("embedded") in ("no", "image", "all"), path, "no, image or all in clip.embedded")
    need(isinstance(clip.get("sha256"), str) and len(clip["sha256"]) == 64, path, "a SHA-256 in clip.sha256")
    look = clip.get("preprocess")
    need(isinstance(look, dict) and look.keys() == {f.name for f in fields(Preprocess)}, path, "all of clip.preprocess")
    need(type(look["size"]) is int and 1 <= look["size"] <= MOST, path, "pixels in clip.preprocess.size")
    for name in ("mean", "std"):
        good = list_of(number, look[name], 3) and small(look[name])
        good = good and (name == "mean" or min(look[name]) >= 1 / MOST)  # pixels are divided by it
        need(good, path, f"three numbers in clip.preprocess.{name}")
    need(look["interpolation"] in ("bicubic", "bilinear", "nearest"), path, "clip.preprocess.interpolation")
    if clip["embedded"] != "no":
        need(
            isinstance(clip.get("architecture"), dict) and small(clip["architecture"], 10 * MOST),
            path,
            "clip.architecture",
        )


def checked_features(path: Path, features: Tensor, model: PromptModel) -> Tensor:
    """Class features that fit the model: [C, D] or [G, C, D].

    Raises:
        WrongValue: they do not.
    """
    expected = (len(model.names), model.encoder.output_width)
    need(features.dim() in (2, 3) and tuple(features.shape[-2:]) == expected, path, f"class features {list(expected)}")
    features = features.to(model.device)
    model.keep_class_features(features)
    unit = torch.ones(1, expected[1], device=model.device) / math.sqrt(expected[1])
    try:
        with torch.no_grad():
            shape = tuple(model.logits(unit).shape)
    except (RuntimeError, ValueError, TypeError) as error:
        raise WrongValue(f"{path}: its class features do not fit its method ({str(error)[:200]})") from error
    need(shape == (1, expected[0]), path, "one logit per class")
    return features


def need(good: bool, path: Path, expected: str) -> None:
    """Raise `WrongValue` unless `good`.

    Args:
        path: of the file; expected: in it.
    """
    if not good:
        raise WrongValue(f"{path} is damaged or no classifier: expected {expected}")
