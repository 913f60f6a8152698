"""The miniature backbone: a small CLIP (open_clip's own class) that has seen a little of many domains.

It is to the miniature world (`datasets/miniature.py`) what OpenAI's CLIP is to the benchmark of CoOp: its answers
depend on the prompt. What it was trained on is written in `clip/miniature/MODEL_CARD.md`;
`scripts/demo/miniature_pretrain.py` trains it.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from .demo_model import ResidualDown, load_packed
from .upstream import CLIP, CLIPTextCfg, CLIPVisionCfg

WEIGHTS = Path(__file__).parent / "miniature" / "miniature.safetensors"
IMAGE_SIZE, PATCH_SIZE, VISION_WIDTH, VISION_LAYERS = 48, 12, 128, 3
TEXT_WIDTH, TEXT_LAYERS, EMBED_DIM, HEAD_WIDTH = 128, 2, 128, 32
STEM_WIDTHS = (24, 64)


class Down(nn.Module):
    """A convolution of stride 2 with GroupNorm.

    Args:
        inputs, outputs: channel counts.
        kernel: side of the kernel, odd.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride=2, padding=kernel // 2, bias=False)
        self.norm = nn.GroupNorm(8, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Features [B, inputs, H, W] -> [B, outputs, H/2, W/2]."""
        return nn.functional.gelu(self.norm(self.conv(x)))


def build_miniature() -> CLIP:
    """The architecture with random weights, in training mode, float32.

    Like the demo backbone, an open_clip `CLIP` with a convolutional stem as patch embedding `visual.conv1` and the
    average of the patch tokens as feature; its image blocks have the LayerNorms that MoCoOp tunes. The stem's stride
    of 12 leaves 4 x 4 tokens: a quarter of the demo backbone's work per image, since it must see many more things.
    """
    vision = CLIPVisionCfg(
        layers=VISION_LAYERS,
        width=VISION_WIDTH,
        head_width=HEAD_WIDTH,
        mlp_ratio=3.0,
        patch_size=PATCH_SIZE,
        image_size=IMAGE_SIZE,
        pool_type="avg",
    )
    text = CLIPTextCfg(width=TEXT_WIDTH, heads=TEXT_WIDTH // HEAD_WIDTH, layers=TEXT_LAYERS)
    model = CLIP(EMBED_DIM, vision, text)
    first, second = STEM_WIDTHS
    model.visual.conv1 = nn.Sequential(
        Down(3, first, 5), Down(first, second, 3), ResidualDown(second, VISION_WIDTH, stride=3)
    )
    return model


def load_miniature(path: str | Path | None = None) -> CLIP:
    """The pretrained backbone: an open_clip `CLIP` in eval mode, float32, on the CPU.

    Args:
        path: a weights file of `scripts/demo/miniature_pretrain.py`; None for the one that comes with the package.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no safetensors file, or its tensors do not fit.
    """
    return load_packed(build_miniature(), Path(path or WEIGHTS), "scripts/demo/miniature_pretrain.py")
