"""Accuracy of a batch."""

import torch


def compute_accuracy(
    output: torch.Tensor | tuple | list, target: torch.Tensor, topk: tuple[int, ...] = (1,)
) -> list[torch.Tensor]:
    """Return the percentage of samples whose class is among the k highest logits.

    Args:
        output: logits [batch, classes]; of a tuple or list, its first element.
        target: labels [batch].
        topk: the values of k. (Dassl fails for any k > 1.)

    Returns:
        One float tensor [1] a value of k, in percent.
    """
    if isinstance(output, (tuple, list)):
        output = output[0]
    ranked = output.topk(min(max(topk), output.shape[1]), dim=1).indices
    hits = ranked == target.reshape(-1, 1)
    return [hits[:, :k].any(dim=1).float().sum().reshape(1) * (100.0 / target.shape[0]) for k in topk]
