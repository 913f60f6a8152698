"""How much each patch of an image looks like a class: an illustration, no account of how the answer came about.

A patch token of the image tower's last block goes through the tower's final LayerNorm and projection, as the whole
image's own token does, and is compared with the class feature that the image was scored with. Attention has mixed the
patches long before, so that a bright patch need not be what the answer rests on; in CLIP's ViTs, background is known to
be bright (Li et al., "CLIP Surgery", arXiv 2304.05653). Axes: B images, h x w patches, D joint width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from open_clip.transformer import VisionTransformer
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor, nn

from ..clip.preprocess import build_square
from ..toolbox.dassl.errors import WrongValue
from ..trainers.model import PromptModel
from .images import Reader, to_image
from .labels import Label

NOTE = "an illustration: how much each patch looks like the class, not what the answer rests on"
SIDE = 448  # pixels of an overlay, at least
DARK, MIDDLE, LIGHT = "#0d0887", "#cc4778", "#f0f921"  # of matplotlib's plasma


@dataclass(frozen=True)
class SimilarityMap:
    """Cosines of an image's patches with a class feature.

    Attributes:
        image: name; label: of the class; values: [h][w], the top row first.
        picture: what the model sees of the image, S x S pixels.
    """

    image: str
    label: Label
    values: list[list[float]]
    picture: Image.Image

    def overlay(self) -> Image.Image:
        """The picture in grey under the map in colour, from the smallest (dark) to the largest value (light)."""
        side = max(SIDE, *self.picture.size)
        grey = self.picture.convert("L").resize((side, side), Image.Resampling.BICUBIC)
        values = torch.tensor(self.values)
        low, high = float(values.min()), float(values.max())
        scaled = ((values - low) / (high - low) if high > low else torch.zeros_like(values)).mul(255).round().byte()
        small = Image.fromarray(scaled.numpy()).resize((side, side), Image.Resampling.BICUBIC)
        colour = ImageOps.colorize(small, DARK, LIGHT, mid=MIDDLE)
        return with_caption(Image.blend(grey.convert("RGB"), colour, 0.6), f"cosines {low:.2f} to {high:.2f}", NOTE)


def with_caption(picture: Image.Image, *lines: str) -> Image.Image:
    """A picture with lines of text below it."""
    line = 18
    page = Image.new("RGB", (picture.width, picture.height + line * len(lines) + 10), "white")
    page.paste(picture)
    pen = ImageDraw.Draw(page)
    for i, text in enumerate(lines):
        pen.text((6, picture.height + 5 + line * i), text, fill="black")
    return page


@torch.no_grad()
def similarity_map(
    model: PromptModel, labels: Sequence[Label], image: object, chosen: Label | None = None
) -> SimilarityMap:
    """The map of one image.

    Args:
        model: with C classes, on a ViT; labels: of these.
        image: in any form that `images` knows, but a prepared tensor.
        chosen: the class; None = the answer.

    Raises:
        ImageError: it cannot be read.
        WrongValue: the image tower is no ViT of open_clip; the method does not compare features with class features;
            `chosen` is no class.
    """
    check_vit(model)
    (batch,) = Reader([image], model.backbone.preprocess, batch_size=1)
    pixels = batch.images.to(model.device)
    patches, features = patch_features(model, pixels)
    logits, rows = model.logits(features), class_rows(model, features)
    if chosen is not None and chosen not in labels:
        raise WrongValue(f"{chosen!r} is no class of this classifier")
    c = int(logits[0].argmax()) if chosen is None else list(labels).index(chosen)
    values = patches[0] @ F.normalize(rows[0, c], dim=0)  # [h, w]
    picture = build_square(model.backbone.preprocess)(to_image(image, batch.names[0]))
    return SimilarityMap(batch.names[0], labels[c], values.tolist(), picture)


def check_vit(model: PromptModel) -> None:
    """Refuse image towers without patch tokens in the joint space.

    Raises:
        WrongValue: naming the tower.
    """
    visual = model.backbone.visual
    if not isinstance(visual, VisionTransformer) or visual.attn_pool is not None:
        raise WrongValue(
            f"similarity maps need the patch tokens of a ViT, and the image tower of {model.backbone.name} is a "
            f"{type(visual).__name__}{' with attention pooling' if isinstance(visual, VisionTransformer) else ''}: its "
            "places have no features in the joint space. Take a ViT such as ViT-B/16, or leave the maps out"
        )


def class_rows(model: PromptModel, features: Tensor) -> Tensor:
    """The class features [B, C, D] that images of features [B, D] were scored with.

    Raises:
        WrongValue: scores are made in another way.
    """
    rows = model.class_features_for(features)
    logits = model.logit_scale * torch.einsum("bd,bcd->bc", features, rows)
    if not torch.allclose(logits, model.logits(features), rtol=1e-3, atol=1e-2):
        raise WrongValue(f"{model.method} does not score by comparing with class features: there is no similarity map")
    return rows


def patch_features(model: PromptModel, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features of all patches as though each were the image's own token, and the image features.

    Args:
        images: [B, 3, S, S].

    Returns:
        [B, h, w, D] and [B, D], all of norm 1.
    """
    visual = model.backbone.visual
    kept: list[Tensor] = []

    def keep(module: nn.Module, given: object, out: Tensor) -> None:
        kept.append(out)

    # With a hook on it a tower is called block by block (`clip.plain`), also by methods with prompts in it.
    handle = visual.transformer.resblocks[-1].register_forward_hook(keep)
    try:
        features = model.encode_image(images)
    finally:
        handle.remove()
    h, w = visual.grid_size
    tokens = visual.ln_post(kept[-1][:, 1 : 1 + h * w].float())
    joint = tokens if visual.proj is None else tokens @ visual.proj
    return F.normalize(joint, dim=-1).unflatten(1, (h, w)), features
