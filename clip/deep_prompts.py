"""Deep prompts: learned vectors that enter a tower anew at each of its first blocks, on the text and the image side.

Layer 0 is part of the input. Layer j (1 to J-1) is written into the same rows before block j (blocks counted from 0),
in place of what block j-1 computed there. From block J on nothing is replaced. "Depth 9" in published configs is J = 9:
the input and blocks 1 to 8.

- Text, [J, V, W]: the rows of the V context vectors, wherever in the prompts they stand. The positional embeddings are
  added to layer 0, as to tokens; the others are used as they are.
- Image, [J, M, Wv]: M tokens behind the patches. They have no position; layer 0 goes through the LayerNorm before the
  first block (`ln_pre`) like the patches, the others are used as they are. Other rows attend to them, but their own
  output is never read: the feature is that of the class token, or the average of the patches, depending on the tower.

Khattak et al.: MaPLe, CVPR 2023, arXiv 2210.03117 (§3.2); PromptSRC, ICCV 2023, arXiv 2307.06948. Jia et al.: Visual
Prompt Tuning, ECCV 2022, arXiv 2203.12119 (§3.2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..toolbox.dassl.errors import WrongValue


def prompt_layers(vectors: Tensor | None, blocks: int, width: int) -> tuple[Tensor, ...]:
    """The vectors of each layer, checked.

    Args:
        vectors: [J, n, W]; [n, W] means J = 1; None means no layer.
        blocks: of the tower; width: W of the tower.

    Returns:
        J tensors [n, W].

    Raises:
        ValueError: another width, or more layers than blocks.
    """
    if vectors is None:
        return ()
    if vectors.dim() == 2:
        vectors = vectors[None]
    if vectors.dim() != 3 or vectors.shape[2] != width or not 1 <= len(vectors) <= blocks:
        raise WrongValue(
            f"expected prompts of shape [J, n, {width}] with 1 to {blocks} layers J, the blocks of the tower; "
            f"found {list(vectors.shape)}"
        )
    return vectors.unbind(0)


def put_behind(x: Tensor, length: int, tokens: Tensor) -> Tensor:
    """The first `length` rows of each image and then `tokens`: x [B, >= length, Wv], [M, Wv] -> [B, length + M, Wv]."""
    return torch.cat([x[:, :length], tokens.to(x.dtype).expand(len(x), -1, -1)], dim=1)
