"""The arithmetic of the tables: means, spreads, H, paired differences."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and population standard deviation (NumPy's default, as in CoOp's parser)."""
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))


def ci95(values: Sequence[float]) -> float | None:
    """Half-width of the 95% interval of the mean by Student's t: t(0.975, n-1) s / sqrt(n), s with n-1.

    (CoOp's parser uses 1.96 population stds over sqrt(n), too narrow for three seeds by a factor of 2.7.)

    Returns:
        None for a single value, which says nothing about spread.
    """
    n = len(values)
    if n < 2:
        return None
    from scipy.special import stdtrit  # (scipy.stats, which has it under a nicer name, takes a second to import)

    mean = math.fsum(values) / n
    s = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    return float(stdtrit(n - 1, 0.975)) * s / math.sqrt(n)


def harmonic(base: float, new: float) -> float:
    """H = 2 base new / (base + new); 0 if both are 0."""
    return 2 * base * new / (base + new) if base + new > 0 else 0.0


@dataclass(frozen=True)
class Difference:
    """A paired difference.

    Attributes:
        mean: of first minus second, in percentage points.
        half_width: of its 95% interval (None: fewer than two common seeds).
        seeds: the common seeds.
    """

    mean: float
    half_width: float | None
    seeds: tuple[int, ...]

    @property
    def low(self) -> float | None:
        """Lower end of the 95% interval."""
        return None if self.half_width is None else self.mean - self.half_width

    @property
    def high(self) -> float | None:
        """Upper end of the 95% interval."""
        return None if self.half_width is None else self.mean + self.half_width

    @property
    def clear(self) -> bool:
        """Whether the 95% interval excludes 0."""
        return self.half_width is not None and abs(self.mean) > self.half_width


def paired_difference(first: Mapping[int, float], second: Mapping[int, float]) -> Difference | None:
    """First minus second over their common seeds, with the 95% interval of Student's t.

    Args:
        first, second: {seed: value}.

    Returns:
        None without a common seed.
    """
    seeds = tuple(sorted(first.keys() & second.keys()))
    if not seeds:
        return None
    differences = [first[seed] - second[seed] for seed in seeds]
    return Difference(math.fsum(differences) / len(seeds), ci95(differences), seeds)
