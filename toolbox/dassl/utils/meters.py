"""Running means."""

from collections import defaultdict
from typing import Any


class AverageMeter:
    """Latest value, sum, count and mean of a number.

    Args:
        ema: `avg` is an exponential average (0.9 of the old, 0.1 of the new, from 0) instead of the mean.
    """

    def __init__(self, ema: bool = False) -> None:
        self.ema = ema
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.val, self.avg, self.sum, self.count = 0.0, 0.0, 0.0, 0

    def update(self, val: Any, n: int = 1) -> None:
        """Add a value (a number or a one-element tensor) that stands for `n` samples."""
        val = val.item() if hasattr(val, "item") else val
        self.val = val
        self.sum += val * n
        self.count += n
        self.avg = self.avg * 0.9 + val * 0.1 if self.ema else self.sum / self.count


class MetricMeter:
    """Named meters, printed as `name value (mean)` with 4 decimals.

    Args:
        delimiter: between two metrics.
    """

    def __init__(self, delimiter: str = " ") -> None:
        self.meters: defaultdict[str, AverageMeter] = defaultdict(AverageMeter)
        self.delimiter = delimiter

    def update(self, input_dict: dict | None) -> None:
        """Add the metrics of one batch; None is ignored, anything but a dict is a TypeError."""
        if input_dict is None:
            return
        if not isinstance(input_dict, dict):
            raise TypeError(
                f"Expected a dict of metrics (or None) from forward_backward, found {type(input_dict).__name__}"
            )
        for name, value in input_dict.items():
            self.meters[name].update(value)

    def __str__(self) -> str:
        return self.delimiter.join(f"{name} {meter.val:.4f} ({meter.avg:.4f})" for name, meter in self.meters.items())
