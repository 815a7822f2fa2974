# SPDX-License-Identifier: MIT
"""A line through what is missing and what is counted of it, and how sure it is.

The length of a gap is estimated from its count and not the other way round: noise in the length
then widens the interval of confidence, where it would flatten the slope (and blame an honest host).
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

CONFIDENCE = 0.999
ENOUGH = 20
"""Gaps from which on a line is drawn."""
_MOST = 800
"""Gaps that are used at most: their pairs grow by the square."""
_SHARP = 1.08
_BLUR = 0.2
"""At most: a host that loses time itself may lie all the same."""


@dataclass(frozen=True, slots=True)
class Line:
    """Through what is missing and what is counted."""

    factor: float
    """What the count grows by for each nanosecond that is missing; 1 if all is well."""
    low: float
    high: float
    """The interval of confidence of *factor*, 99.9 % or what was asked for."""
    constant_ns: float
    """What is missing beside what is counted."""
    blur: float = 0.0
    """Half the square of how far what is missing beside varies, of how far what is counted does: so
    much the factor is off for nothing, if the one is not the same for what is longer. Where all
    slices are of two lengths it is from these two alone, and the interval knows nothing of that."""

    @property
    def sharp(self) -> bool:
        """Whether a tenth that is hidden can be told from nothing."""
        return self.high < _SHARP * self.low

    def __str__(self) -> str:
        return percent(self.factor, self.low, self.high)


def percent(factor: float, low: float, high: float) -> str:
    """A factor and its bounds, as findings tell them."""
    digits = 1 if factor > 0.02 else 4
    factor, low, high = (100 * each for each in (factor, low, high))
    return f"{factor:.{digits}f} % (from {low:.{digits}f} to {high:.{digits}f})"


def excludes_1(low: float, high: float, tolerance: float) -> bool:
    """Whether all between these bounds is further than *tolerance* from 1."""
    return high < 1 - tolerance or low > 1 + tolerance


def advice_on(factor: float) -> str:
    """What a person can do about a count that grows by this factor."""
    return (
        f"take {1 / factor:.3g} times what it says for an estimate, and ask who runs the hypervisor"
    )


def slopes_of_pairs(length_ns: Floats, stolen_ns: Floats, i: Indices, j: Indices) -> Floats:
    """Of the points *i* to the points *j*, where their counts differ."""
    counted = stolen_ns[j] - stolen_ns[i]
    found: Floats = (length_ns[j] - length_ns[i])[counted != 0] / counted[counted != 0]
    return found


def through(
    cpus: npt.NDArray[np.uint64], length_ns: Floats, stolen_ns: Floats, confidence: float
) -> Line | None:
    """Sen (1968): the median slope of all pairs; its interval by Kendall's variance of their order.

    Each vCPU has a constant of its own, so a pair is of one: between two that differ in how long
    their gaps are, the difference of their constants would pass for a slope.

    scipy.stats.theilslopes does the same (a test compares the two) and is a hundred times as large
    as guestpv, in guests that have little.
    """
    if len(length_ns) > _MOST:
        chosen = np.random.default_rng(0).choice(len(length_ns), _MOST, replace=False)
        cpus, length_ns, stolen_ns = cpus[chosen], length_ns[chosen], stolen_ns[chosen]
    if len(cpus) < ENOUGH:
        return None
    i, j = np.triu_indices(len(cpus), 1)
    i, j = i[cpus[i] == cpus[j]], j[cpus[i] == cpus[j]]
    slopes = np.sort(slopes_of_pairs(length_ns, stolen_ns, i, j))
    if not len(slopes):
        return None
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    n = np.unique(cpus, return_counts=True)[1]
    half = z * np.sqrt((n * (n - 1) * (2 * n + 5)).sum() / 18)
    lowest = max(0, round((len(slopes) - half) / 2) - 1)
    highest = min(len(slopes) - 1, round((len(slopes) + half) / 2))
    low, slope, high = (
        float(each) for each in (slopes[lowest], np.median(slopes), slopes[highest])
    )
    if low <= 0:
        return None  # the count does not depend on what is missing
    beside_ns = length_ns - slope * stolen_ns
    varies_ns = slope * _spread_ns(stolen_ns)
    blur = (_spread_ns(beside_ns) / varies_ns) ** 2 / 2 if varies_ns else _BLUR
    return Line(1 / slope, 1 / high, 1 / low, float(np.median(beside_ns)), min(blur, _BLUR))


def _spread_ns(values_ns: Floats) -> float:
    low, high = usual_ns(values_ns)
    return high - low


def usual_ns(length_ns: Floats) -> tuple[float, float]:
    """From where to where the middle eighty percent are."""
    if not len(length_ns):
        return 0.0, 0.0
    low, high = np.quantile(length_ns, [0.1, 0.9])
    return float(low), float(high)
