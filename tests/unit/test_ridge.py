# SPDX-License-Identifier: MIT
"""A line through points of which most may lie elsewhere."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestpv.validate.ridge import Ridge, ridge, together


def points(seed, slope=1.0, constant_ns=500_000.0, *, n=300, others=0.0, noise_ns=100_000.0):
    """What was counted, and how long it was: *others* of them anywhere else."""
    rng = np.random.default_rng(seed)
    stolen_ns = rng.uniform(0, 1e7, n)
    length_ns = slope * stolen_ns + constant_ns + rng.normal(0, noise_ns, n)
    wrong = np.arange(n) < others * n
    length_ns[wrong] = rng.uniform(0, 2e7, wrong.sum())
    return length_ns, stolen_ns


@given(st.integers(0, 1000), st.floats(0.4, 2.5), st.floats(-1e6, 1e7), st.floats(0, 0.6))
def test_it_is_found_wherever_most_of_the_others_are(seed, slope, constant_ns, others):
    noise_ns = 50_000.0 * slope  # of a flatter line the same noise hides more
    found = ridge(*points(seed, slope, constant_ns, others=others, noise_ns=noise_ns))
    assert found.factor == pytest.approx(1 / slope, rel=0.03)


def test_its_error_is_that_which_it_makes():
    found = [ridge(*points(seed, others=0.4)) for seed in range(100)]
    factors, errors = (np.array([getattr(one, name) for one in found]) for name in Ridge.__slots__)
    assert np.mean(factors) == pytest.approx(1, abs=0.001)
    assert np.median(errors) == pytest.approx(np.std(factors), rel=0.35)
    assert (abs(factors - 1) < 4 * errors).mean() >= 0.98


def test_where_there_is_no_line_the_error_is_large():
    rng = np.random.default_rng(0)
    for _ in range(20):
        found = ridge(rng.uniform(0, 1e7, 300), rng.uniform(0, 1e7, 300))
        assert not found.error < 0.02


def test_two_constants_do_not_bend_it():
    """As where some wake from a halt, and some do not, the more the shorter their waits are."""
    length_ns, stolen_ns = points(0, n=600)
    chance = np.random.default_rng(1).random(600)
    length_ns[chance < 0.4 * (1 - stolen_ns / 1e7)] -= 700_000
    assert ridge(length_ns, stolen_ns).factor == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("stolen_ns", [np.zeros(0), np.ones(1), np.ones(300)])
def test_of_one_point_there_is_none(stolen_ns):
    assert ridge(np.arange(float(len(stolen_ns))), stolen_ns) is None


def test_the_surest_weighs_most():
    whole = together([Ridge(1.0, 0.003), Ridge(0.9, 0.004)])
    assert whole.factor == pytest.approx((1.0 * 16 + 0.9 * 9) / 25)
    assert whole.error == pytest.approx(0.0024)
    assert together([Ridge(0.5, 0.1)]) == Ridge(0.5, pytest.approx(0.1))


def test_bounds_are_those_of_a_normal_error():
    low, high = Ridge(1.0, 0.01).bounds(0.95)
    assert (low, high) == (pytest.approx(0.9804, abs=1e-4), pytest.approx(1.0196, abs=1e-4))
    assert Ridge(0.96, 0.001).text(0.95) == "96.0 % (from 95.8 to 96.2)"
