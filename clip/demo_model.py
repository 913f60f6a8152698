"""The demo backbone: a small CLIP (open_clip's own class) that reads 48-pixel icons, and its weights file.

It exists so that the first command of a newcomer runs the real thing in minutes, offline, on a CPU. What it was trained
on and how well it does is written in `clip/demo/MODEL_CARD.md`; `scripts/demo/pretrain.py` trains it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ..toolbox.dassl.errors import WrongValue
from .upstream import CLIP, CLIPTextCfg, CLIPVisionCfg

WEIGHTS = Path(__file__).parent / "demo" / "demo.safetensors"
IMAGE_SIZE, PATCH_SIZE, VISION_WIDTH, VISION_LAYERS = 48, 8, 160, 3
TEXT_WIDTH, TEXT_LAYERS, EMBED_DIM, HEAD_WIDTH = 128, 3, 128, 32
STEM_WIDTHS = (32, 64, VISION_WIDTH)
# How the token embedding is stored: only the rows that pretraining touched, and which rows these are.
EMBEDDING, EMBEDDING_ROWS, EMBEDDING_IDS = "token_embedding.weight", "token_embedding.rows", "token_embedding.ids"


class ResidualDown(nn.Module):
    """Two 3x3 convolutions beside a 1x1 shortcut; divides height and width by the stride.

    GroupNorm, not BatchNorm: frozen batch statistics would tie the backbone to the icons it was pretrained on.

    Args:
        inputs, outputs: channel counts.
        stride: of the first convolution and the shortcut.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 2):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(8, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(8, outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features [B, inputs, H, W] -> [B, outputs, H/stride, W/stride]."""
        inner = nn.functional.gelu(self.norm1(self.conv1(x)))
        return nn.functional.gelu(self.shortcut(x) + self.norm2(self.conv2(inner)))


def build_demo() -> CLIP:
    """The demo architecture with random weights, in training mode, float32.

    An open_clip `CLIP` whose patch embedding `visual.conv1` is a stem of three residual blocks of stride 2: a plain
    patch embedding learns too slowly from scratch on a CPU. The feature is the average of the 6 x 6 patch tokens.
    """
    vision = CLIPVisionCfg(
        layers=VISION_LAYERS,
        width=VISION_WIDTH,
        head_width=HEAD_WIDTH,
        patch_size=PATCH_SIZE,
        image_size=IMAGE_SIZE,
        pool_type="avg",
    )
    text = CLIPTextCfg(width=TEXT_WIDTH, heads=TEXT_WIDTH // HEAD_WIDTH, layers=TEXT_LAYERS)
    model = CLIP(EMBED_DIM, vision, text)
    channels = (3, *STEM_WIDTHS)
    model.visual.conv1 = nn.Sequential(*(ResidualDown(a, b) for a, b in zip(channels, STEM_WIDTHS, strict=False)))
    return model


def pack(model: CLIP, ids: Tensor) -> dict[str, Tensor]:
    """The tensors of the weights file: half precision, and of the token embedding only the rows `ids`.

    Args:
        model: a demo model.
        ids: token ids whose embedding rows are kept, sorted, [R], integer.

    Returns:
        Name -> tensor, ready for `safetensors.torch.save_file`.
    """
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    rows = state.pop(EMBEDDING)[ids]
    packed = {name: tensor.half().contiguous() for name, tensor in state.items()}
    return packed | {EMBEDDING_ROWS: rows.half().contiguous(), EMBEDDING_IDS: ids.to(torch.int32).contiguous()}


def unpack(packed: dict[str, Tensor], model: CLIP, origin: str = "the demo weights") -> None:
    """Load packed tensors into `model`, in place and strictly; embedding rows that are not stored become zero.

    Args:
        packed: what `pack` returned.
        model: a demo model.
        origin: what the tensors were read from, for error messages.

    Raises:
        ValueError: a tensor is missing, unknown, or of another shape; all of them are named.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    vocabulary, width = expected.pop(EMBEDDING)
    count = len(packed.get(EMBEDDING_IDS, ()))
    expected |= {EMBEDDING_ROWS: (count, width), EMBEDDING_IDS: (count,)}
    found = {name: tuple(tensor.shape) for name, tensor in packed.items()}
    faults = [f"{name} is missing" for name in expected if name not in found]
    faults += [f"{name} is unknown" for name in found if name not in expected]
    faults += [
        f"{name} has shape {found[name]}, expected {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    ids = packed.get(EMBEDDING_IDS)
    if not faults and count and not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary:
        faults.append(f"{EMBEDDING_IDS} holds ids outside of 0 .. {vocabulary - 1}")
    if faults:
        raise WrongValue(f"{origin} does not fit the demo backbone: " + "; ".join(faults))
    embedding = torch.zeros(vocabulary, width)
    embedding[packed[EMBEDDING_IDS].long()] = packed[EMBEDDING_ROWS].float()
    state = {name: tensor.float() for name, tensor in packed.items() if name not in (EMBEDDING_ROWS, EMBEDDING_IDS)}
    model.load_state_dict(state | {EMBEDDING: embedding}, strict=True)


def load_demo(path: str | Path | None = None) -> CLIP:
    """The pretrained demo backbone: an open_clip `CLIP` in eval mode, float32, on the CPU.

    Args:
        path: a weights file written by `scripts/demo/pretrain.py`; None for the one that comes with the package.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no safetensors file, or its tensors do not fit.
    """
    return load_packed(build_demo(), Path(path or WEIGHTS), "scripts/demo/pretrain.py")


def load_packed(model: CLIP, path: Path, script: str) -> CLIP:
    """Fill `model` with a weights file that `pack` made. Returns it in eval mode.

    Args:
        model: one of the small architectures of this package.
        path: the weights file.
        script: what trains such weights, for error messages.

    Raises:
        FileNotFoundError, ValueError: as `load_demo`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise FileNotFoundError(
            f"no demo weights at {path}; reinstall mocoop, or train them: python {script} --out {path.parent}"
        )
    try:
        packed = load_file(path)
    except SafetensorError as error:
        raise WrongValue(f"{path} is not a readable safetensors file ({error}); fetch it again") from error
    unpack(packed, model, str(path))
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise WrongValue(f"{path} is damaged: it holds numbers that are infinite or NaN; fetch it again")
    return model.eval()
