"""The arithmetic, against numbers worked out by hand."""

import math

import pytest
from mocoop import results


def test_mean_and_population_std():
    assert results.mean_std([80.0, 82.0, 87.0]) == pytest.approx((83.0, (26 / 3) ** 0.5))  # 9 + 1 + 16 over 3
    assert results.mean_std([70.5]) == (70.5, 0.0)


def test_interval_of_student():
    # s^2 = 26 / 2 = 13, t(0.975, 2) = 4.302653 (a table's value)
    assert results.ci95([80.0, 82.0, 87.0]) == pytest.approx(4.302653 * math.sqrt(13 / 3), rel=1e-6)
    assert results.ci95([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(2.776445 * math.sqrt(2.5 / 5), rel=1e-6)
    assert results.ci95([5.0, 5.0]) == 0.0 and results.ci95([5.0]) is None


def test_harmonic_mean():
    assert results.harmonic(60.0, 40.0) == 48.0  # 2 * 2400 / 100
    assert results.harmonic(82.69, 63.22) == pytest.approx(71.66, abs=0.005)  # CoOp's published average
    assert results.harmonic(0.0, 0.0) == 0.0


def test_paired_difference_takes_common_seeds_only():
    one = results.paired_difference({1: 10.0, 2: 12.0, 3: 17.0, 9: 0.0}, {1: 9.0, 2: 10.0, 3: 14.0, 8: 0.0})
    assert one.seeds == (1, 2, 3) and one.mean == 2.0  # differences 1, 2, 3: s = 1
    assert one.half_width == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert (one.low, one.high) == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-6) and not one.clear
    assert results.paired_difference({1: 10.0, 2: 11.0}, {1: 9.0, 2: 10.0}).clear  # always exactly 1
    single = results.paired_difference({1: 10.0}, {1: 9.0})
    assert (single.mean, single.half_width, single.low, single.clear) == (1.0, None, None, False)
    assert results.paired_difference({1: 1.0}, {2: 1.0}) is None
