# SPDX-License-Identifier: MIT
"""Differences of counts: right where there is one, and where there is none, no time is invented."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import guestpv
from guestpv.page.abi import NO_COUNT, State

SECOND = 1_000_000_000
NOW_NS, LATER_NS = 5 * SECOND, 7 * SECOND


def row(stolen_ns, **fields):
    """A snapshot of one CPU, which is online and in its first epoch if nothing else is said."""
    result = np.zeros(1, guestpv.SNAPSHOT)
    result["state"], result["valid"], result["epoch"], result["instance"] = 1, True, 1, 77
    result["stolen_ns"], result["monotonic_ns"] = stolen_ns, NOW_NS
    for field, value in fields.items():
        result[field] = value
    return result


def said(earlier, later):
    """What delta says two seconds later: of the flags, those that are set."""
    later["monotonic_ns"] = LATER_NS
    (change,) = guestpv.delta(earlier, later)
    assert change["interval_ns"] == LATER_NS - NOW_NS
    names = ("valid", "restarted", "other_instance")
    flags = {name for name in names if change[name]}
    return flags, int(change["stolen_ns"]), int(change["backwards_ns"])


def test_a_count_that_goes_on_gives_its_difference():
    assert said(row(2**63), row(2**63 + 5)) == ({"valid"}, 5, 0)


def test_a_decrease_within_an_epoch_is_unknown():
    """335 ticks, then 312, is no restart from zero, with 3.12 of two seconds stolen."""
    assert said(row(335 * 10**7), row(312 * 10**7)) == (set(), 0, 230_000_000)


def test_on_procfs_a_decrease_is_unknown_too():
    """It knows no epochs: all are 0."""
    before, after = row(335 * 10**7, epoch=0), row(312 * 10**7, epoch=0)
    assert said(before, after) == (set(), 0, 230_000_000)


def test_a_restart_gives_what_came_since_the_module_saw_it():
    restarted = row(900, epoch=3, epoch_stolen_ns=600)
    assert said(row(10**10), restarted) == ({"restarted"}, 300, 0)


def test_a_restart_gives_no_more_than_the_interval():
    restarted = row(99 * SECOND, epoch=2)
    assert said(row(5), restarted) == ({"restarted"}, LATER_NS - NOW_NS, 0)


def test_a_restart_that_fell_again_gives_nothing():
    restarted = row(5, epoch=2, epoch_stolen_ns=600)
    assert said(row(10**10), restarted) == ({"restarted"}, 0, 0)


def test_another_instance_is_not_compared():
    """The same epoch, and a count that has grown: by what, nobody knows."""
    assert said(row(5), row(700, instance=78)) == ({"other_instance"}, 0, 0)
    assert said(row(700, epoch=4), row(5, instance=78)) == ({"other_instance"}, 0, 0)


def test_a_first_epoch_is_no_restart():
    """A CPU that comes online for the first time was not stolen from before the module saw it."""
    absent = row(0, epoch=0, valid=False, state=State.ABSENT)
    assert said(absent, row(900, epoch_stolen_ns=600)) == (set(), 300, 0)


def test_an_epoch_of_which_no_count_was_seen_yet_vouches_for_nothing():
    assert said(row(5), row(900, epoch=2, epoch_stolen_ns=NO_COUNT)) == ({"restarted"}, 0, 0)


def test_a_decrease_while_a_cpu_is_offline_is_one():
    """On its way up or down it can't be read: who reads it as offline reads its last count."""
    offline = row(300, state=State.OFFLINE)
    assert said(row(700, state=State.OFFLINE), offline) == (set(), 0, 400)


@pytest.mark.parametrize("state", [State.STARTING, State.ABSENT, State.REFUSED, State.ONLINE])
def test_without_a_count_at_one_end_nothing_is_known(state):
    none = {"valid": False, "state": state}
    assert said(row(5), row(0, **none)) == (set(), 0, 0)
    assert said(row(0, **none), row(900)) == (set(), 0, 0)


@given(st.data())
def test_whatever_a_snapshot_holds_one_thing_is_said(data):
    """Of numbers that no page should have, too."""
    numbers = st.integers(0, 2**64 - 1)
    few = st.integers(0, 2)

    def any_row():
        fields = {field: data.draw(numbers) for field in ("stolen_ns", "epoch_stolen_ns")}
        fields |= {field: data.draw(few) for field in ("epoch", "instance", "state", "valid")}
        return row(**fields)

    flags, stolen_ns, backwards_ns = said(any_row(), any_row())
    assert len(flags) + bool(backwards_ns) <= 1
    assert "valid" in flags or stolen_ns <= LATER_NS - NOW_NS


def test_snapshots_that_do_not_belong_together_are_refused():
    one, two = row(1), np.concatenate([row(1), row(1)])
    with pytest.raises(ValueError, match="CPUs"):
        guestpv.delta(one, two)
    with pytest.raises(ValueError, match="before"):
        guestpv.delta(row(1, monotonic_ns=LATER_NS), one)
