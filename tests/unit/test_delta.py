# SPDX-License-Identifier: MIT
"""A delta is what was stolen in between, and never more than can be said."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestpv import SNAPSHOT, delta
from guestpv.reader import Snapshot

COUNTS = st.integers(0, 2**64 - 1)
EPOCHS = st.integers(0, 2**32 - 1)
INTERVALS = st.integers(0, 2**62)


def snapshot(at_ns: int, *counts: int, epoch: int = 1, valid: bool = True) -> Snapshot:
    rows = np.zeros(len(counts), SNAPSHOT)
    rows["cpu"] = np.arange(len(counts))
    rows["epoch"] = epoch
    rows["valid"] = valid
    rows["stolen_ns"] = counts
    rows["monotonic_ns"] = at_ns
    return rows


@given(COUNTS, COUNTS, INTERVALS)
def test_a_count_that_went_on(one: int, other: int, interval: int) -> None:
    first, last = sorted((one, other))
    change = delta(snapshot(5, first), snapshot(5 + interval, last))[0]
    assert change["stolen_ns"] == last - first
    assert change["interval_ns"] == interval
    assert change["valid"]
    assert not change["restarted"]


@given(COUNTS, COUNTS, EPOCHS, EPOCHS, INTERVALS)
def test_no_difference_is_taken_across_a_restart(
    first: int, last: int, one: int, other: int, interval: int
) -> None:
    change = delta(snapshot(0, first, epoch=one), snapshot(interval, last, epoch=other))[0]
    assert change["restarted"] == (one != other or last < first)
    if change["restarted"]:
        assert change["stolen_ns"] == (last if last <= interval else 0)


@given(COUNTS, COUNTS, EPOCHS, EPOCHS, st.booleans(), st.booleans())
def test_what_was_not_interpreted_has_no_delta(
    first: int, last: int, one: int, other: int, valid: bool, valid_later: bool
) -> None:
    earlier = snapshot(0, first, epoch=one, valid=valid)
    later = snapshot(9, last, epoch=other, valid=valid_later)
    change = delta(earlier, later)[0]
    assert change["valid"] == (valid and valid_later)
    if not change["valid"]:
        assert change["stolen_ns"] == 0
        assert not change["restarted"]


def test_a_restored_count_is_not_taken_for_time_of_this_interval() -> None:
    """A VM restored from a snapshot brings back an old count, which did not begin at 0."""
    minute, second = 60_000_000_000, 1_000_000_000
    change = delta(snapshot(0, 2 * minute), snapshot(second, minute))[0]
    assert change["restarted"]
    assert change["stolen_ns"] == 0


def test_each_cpu_has_its_own_row() -> None:
    earlier, later = snapshot(0, 10, 20, 30), snapshot(100, 11, 5, 33)
    later["epoch"][2] += 1
    change = delta(earlier, later)
    assert change["cpu"].tolist() == [0, 1, 2]
    assert change["stolen_ns"].tolist() == [1, 5, 33]
    assert change["restarted"].tolist() == [False, True, True]


def test_snapshots_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValueError, match="before"):
        delta(snapshot(2, 1), snapshot(1, 1))


def test_snapshots_of_other_cpus_are_refused() -> None:
    with pytest.raises(ValueError, match="same CPUs"):
        delta(snapshot(0, 1), snapshot(1, 1, 2))
    renumbered = snapshot(1, 1)
    renumbered["cpu"] = 7
    with pytest.raises(ValueError, match="same CPUs"):
        delta(snapshot(0, 1), renumbered)
