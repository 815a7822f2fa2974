# SPDX-License-Identifier: MIT
"""Differences of counts: right where there is one, never negative or huge where there is none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import guestpv

counts = st.integers(0, 2**64 - 1)
epochs = st.integers(1, 3)
flags = st.booleans()
NOW_NS, LATER_NS = 5_000_000_000, 7_000_000_000


def snapshot(rows, monotonic_ns):
    result = np.zeros(len(rows), guestpv.SNAPSHOT)
    result["cpu"] = range(len(rows))
    result["monotonic_ns"] = monotonic_ns
    for row, (epoch, valid, stolen_ns) in zip(result, rows, strict=True):
        row["epoch"], row["valid"], row["stolen_ns"] = epoch, valid, stolen_ns
    return result


rows = st.tuples(epochs, flags, counts)


@given(st.lists(st.tuples(rows, rows), min_size=1, max_size=8))
def test_what_is_said_can_be_said(pairs):
    before, after = zip(*pairs, strict=True)
    change = guestpv.delta(snapshot(before, NOW_NS), snapshot(after, LATER_NS))
    assert (change["interval_ns"] == LATER_NS - NOW_NS).all()
    for (epoch0, valid0, count0), (epoch1, valid1, count1), row in zip(
        before, after, change, strict=True
    ):
        assert row["valid"] == (valid0 and valid1)
        if not row["valid"]:
            assert (row["restarted"], row["stolen_ns"]) == (False, 0)
        elif epoch0 == epoch1 and count1 >= count0:
            assert (row["restarted"], row["stolen_ns"]) == (False, count1 - count0)
        else:
            assert row["restarted"]
            assert row["stolen_ns"] <= min(count1, LATER_NS - NOW_NS)


def test_a_count_that_restarted_gives_what_came_since():
    change = guestpv.delta(
        snapshot([(1, True, 9_000_000_000)], NOW_NS), snapshot([(2, True, 300)], LATER_NS)
    )
    assert (change["restarted"][0], change["stolen_ns"][0]) == (True, 300)


def test_snapshots_that_do_not_belong_together_are_refused():
    one, two = snapshot([(1, True, 1)], NOW_NS), snapshot([(1, True, 1)] * 2, NOW_NS)
    with pytest.raises(ValueError, match="CPUs"):
        guestpv.delta(one, two)
    with pytest.raises(ValueError, match="before"):
        guestpv.delta(snapshot([(1, True, 1)], LATER_NS), one)
