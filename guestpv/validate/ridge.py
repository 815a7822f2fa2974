# SPDX-License-Identifier: MIT
"""The line along which points lie closest, where most of them may lie elsewhere.

Modal regression: of all lines it is the one to which most points are near, as a normal kernel
weighs them (Yao and Li 2014). It begins with the least quantile of squares (Rousseeuw and Leroy
1987), whose width is the kernel's. How sure it is the bootstrap tells (Efron 1979).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from guestpv.validate.line import Floats, percent, slopes_of_pairs

_TRIED = 200
"""Slopes of which the best is where it begins,"""
_STEEP = 3
"""none steeper than this, and none as flat."""
_STEPS = 12
"""From there to the line's place; it takes less."""
_RESAMPLES = 200


@dataclass(frozen=True, slots=True)
class Ridge:
    """The line of what is counted of lengths."""

    factor: float
    """What the count grows by for each nanosecond; 1 if all is well."""
    error: float
    """Its standard error; infinite or no number where it is nowhere near."""

    def bounds(self, confidence: float) -> tuple[float, float]:
        off = NormalDist().inv_cdf(0.5 + confidence / 2) * self.error
        return self.factor - off, self.factor + off

    def text(self, confidence: float) -> str:
        return percent(self.factor, *self.bounds(confidence))


def ridge(length_ns: Floats, stolen_ns: Floats) -> Ridge | None:
    """None if no two points say anything of a slope."""
    begun = _densest(length_ns, stolen_ns)
    if begun is None:
        return None
    slope, constant_ns, width_ns = begun
    n = len(length_ns)
    often = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), _RESAMPLES)
    weights = np.vstack([np.ones(n), often])  # all of them first, and then each resample
    slopes, constants_ns = np.full(len(weights), slope), np.full(len(weights), constant_ns)
    with np.errstate(all="ignore"):  # what comes of too few points is seen in the error
        for _ in range(_STEPS):
            beside_ns = length_ns - slopes[:, np.newaxis] * stolen_ns - constants_ns[:, np.newaxis]
            near = weights * np.exp(-((beside_ns / width_ns) ** 2) / 2)
            near /= near.sum(axis=1, keepdims=True)
            stolen, length = near @ stolen_ns, near @ length_ns
            slopes = (near @ (stolen_ns * length_ns) - stolen * length) / (
                near @ stolen_ns**2 - stolen**2
            )
            constants_ns = length - slopes * stolen
        factors = 1 / slopes
        return Ridge(float(factors[0]), float(np.std(factors[1:])))


def _densest(length_ns: Floats, stolen_ns: Floats) -> tuple[float, float, float] | None:
    """Slope and constant of the line that a quarter of all points is nearest to, and its width."""
    i, j = np.triu_indices(len(length_ns), 1)
    slopes = slopes_of_pairs(length_ns, stolen_ns, i, j)
    slopes = slopes[(slopes > 1 / _STEEP) & (slopes < _STEEP)]
    if not len(slopes):
        return None
    slopes = np.quantile(slopes, np.linspace(0, 1, _TRIED + 2)[1:-1])
    beside_ns = np.sort(length_ns - slopes[:, np.newaxis] * stolen_ns)
    quarter = len(length_ns) // 4
    widths_ns = beside_ns[:, quarter:] - beside_ns[:, : len(length_ns) - quarter]
    best, first = np.unravel_index(widths_ns.argmin(), widths_ns.shape)
    width_ns = float(widths_ns[best, first])
    return float(slopes[best]), float(beside_ns[best, first]) + width_ns / 2, max(width_ns, 1.0)


def together(ridges: Sequence[Ridge]) -> Ridge:
    """Their mean, in which the surest weigh most."""
    weights = np.array([1 / one.error**2 for one in ridges])
    factor = np.average([one.factor for one in ridges], weights=weights)
    return Ridge(float(factor), float(weights.sum() ** -0.5))
