# SPDX-License-Identifier: MIT
"""No time is invented, whatever a hypervisor and the module do between two looks.

The hypervisor, the module and their vCPUs are simulated here, and know what was truly stolen.
"""

import json
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import guestpv
from guestpv.page.abi import Origin, State

CPUS = 2
READABLE = (State.ONLINE, State.OFFLINE)


@dataclass
class Vcpu:
    """One vCPU: what is true, what the hypervisor shows, and what the module makes of it."""

    true_ns: int = 0
    count: int = 0
    state: State = State.ONLINE
    known: bool = True
    epoch: int = 1
    epoch_stolen_ns: int = 0
    last_count: int = 0
    """As the module saw it."""
    disturbed: bool = False
    """Whether anything but stealing happened since the last snapshot."""
    silent: bool = False
    """Whether a count went back since then, which no look need find."""

    def steal(self, ns):
        self.true_ns += ns
        self.count += ns

    def set_back(self, ns):
        """To an older count, or zero, without a word."""
        self.count = max(0, self.count - ns)
        self.disturbed = self.silent = True

    def module_looks(self):
        if self.count < self.last_count:
            self.epoch += 1
            self.epoch_stolen_ns = self.count
            self.disturbed = True
        self.last_count = self.count

    def revise(self, _):
        """The revision becomes unknown, or known again."""
        self.known = not self.known
        self.disturbed = True

    def unplug(self, _):
        if self.state == State.ONLINE:
            self.state, self.disturbed = State.OFFLINE, True
            self.module_looks()

    def prepare(self, _):
        if self.state == State.OFFLINE:
            self.state, self.disturbed = State.STARTING, True

    def plug(self, ns):
        """KVM starts the count again, others go on: an epoch begins if it is lower."""
        self.prepare(0)
        if self.state == State.STARTING:
            self.set_back(ns)
            self.module_looks()
            self.state = State.ONLINE

    def reload(self, ns, adopts):
        """A new instance: where it claims, the hypervisor starts the count again."""
        if not adopts:
            self.count = max(0, self.count - ns)
        self.epoch, self.epoch_stolen_ns, self.last_count = 1, self.count, self.count
        self.disturbed = True


@dataclass
class Machine:
    adopts: bool = False
    instance: int = 1
    monotonic_ns: int = 1
    vcpus: list[Vcpu] = field(default_factory=lambda: [Vcpu() for _ in range(CPUS)])

    def act(self, action, cpu, ns):
        if action == "pass":
            self.monotonic_ns += ns
        elif action == "reload":
            self.instance += 1
            for vcpu in self.vcpus:
                vcpu.reload(ns, self.adopts)
        elif action == "module_looks":
            self.vcpus[cpu].module_looks()
        else:
            getattr(self.vcpus[cpu], action)(ns)

    def snapshot(self):
        rows = np.zeros(CPUS, guestpv.SNAPSHOT)
        rows["monotonic_ns"], rows["instance"] = self.monotonic_ns, self.instance
        rows["origin"] = Origin.ADOPTED if self.adopts else Origin.CLAIMED
        for cpu, (row, vcpu) in enumerate(zip(rows, self.vcpus, strict=True)):
            row["cpu"], row["state"], row["epoch"] = cpu, vcpu.state, vcpu.epoch
            row["epoch_stolen_ns"] = vcpu.epoch_stolen_ns
            if vcpu.known and vcpu.state in READABLE:
                row["valid"], row["stolen_ns"] = True, vcpu.count
        return rows


@dataclass(frozen=True)
class Look:
    """A snapshot, and what is true of each vCPU; the flags are of the time before it."""

    rows: np.ndarray
    true_ns: list[int]
    disturbed: list[bool]
    silent: list[bool]


def looks(steps, adopts=False):
    """At the beginning, and after each list of actions."""
    machine = Machine(adopts)
    for actions in [[], *steps]:
        for action, cpu, ns in actions:
            machine.act(action, cpu, ns)
        vcpus = machine.vcpus
        yield Look(
            machine.snapshot(),
            [vcpu.true_ns for vcpu in vcpus],
            [vcpu.disturbed for vcpu in vcpus],
            [vcpu.silent for vcpu in vcpus],
        )
        for vcpu in vcpus:
            vcpu.disturbed = vcpu.silent = False


ACTIONS = st.sampled_from(
    [
        *("steal", "steal", "steal", "set_back", "module_looks", "module_looks", "pass", "pass"),
        *("unplug", "prepare", "plug", "revise", "reload"),
    ]
)
NS = st.integers(0, 20) | st.integers(0, 2**60)
STEPS = st.lists(st.lists(st.tuples(ACTIONS, st.integers(0, CPUS - 1), NS), max_size=6), max_size=9)


@given(STEPS)
def test_delta_says_no_more_than_was_stolen_and_exactly_that_where_nothing_happened(steps):
    history = list(looks(steps))
    for earlier, later in pairwise(history):
        for cpu, change in enumerate(guestpv.delta(earlier.rows, later.rows)):
            stolen_ns = later.true_ns[cpu] - earlier.true_ns[cpu]
            assert change["stolen_ns"] <= stolen_ns
            if change["valid"] and not later.silent[cpu]:
                assert change["stolen_ns"] == stolen_ns
            if not later.disturbed[cpu] and later.rows["valid"][cpu]:
                assert change["valid"]


@given(STEPS, st.booleans(), st.booleans())
def test_totals_never_fall_and_say_no_more_than_was_stolen(steps, adopts, same_boot):
    first, *history = looks(steps, adopts)
    totals = guestpv.Totals(None, first.rows)
    before = totals.rows
    last = first.rows.copy()  # for each CPU, that had a count
    restarts = [0] * CPUS
    for earlier, later in pairwise([first, *history]):
        rows = totals.update(later.rows, same_boot=same_boot)
        for cpu, row in enumerate(rows):
            assert row["total_ns"] >= before["total_ns"][cpu]
            assert row["unknown_ns"] >= before["unknown_ns"][cpu]
            assert totals.total(cpu) == row["total_ns"] <= later.true_ns[cpu]

            grown_ns = totals.total(cpu) - int(before["total_ns"][cpu])
            stolen_ns = later.true_ns[cpu] - earlier.true_ns[cpu]
            if row["valid"] and not later.silent[cpu]:
                assert row["unknown_ns"] == before["unknown_ns"][cpu]
                assert grown_ns == stolen_ns
            if not row["valid"]:
                passed_ns = later.rows["monotonic_ns"][cpu] - earlier.rows["monotonic_ns"][cpu]
                assert row["unknown_ns"] == before["unknown_ns"][cpu] + passed_ns
            now = later.rows[cpu]
            if now["valid"]:
                if now["instance"] == last["instance"][cpu]:
                    restarts[cpu] += now["epoch"] - last["epoch"][cpu]
                last[cpu] = now
            assert row["restarts"] == restarts[cpu]
        before = rows
    assert totals.total() == sum(totals.total(cpu) for cpu in range(CPUS))


class Source:
    """Of which the next snapshot is taken by whoever opens it."""

    def __init__(self, rows):
        self.rows = rows

    def snapshot(self):
        return self.rows.copy()


@given(STEPS, st.data())
def test_totals_that_are_saved_and_restored_say_the_same(steps, data):
    first, *history = looks(steps)
    straight = guestpv.Totals(None, first.rows)
    reopened = guestpv.Totals(None, first.rows)
    for look in history:
        if data.draw(st.booleans()):
            saved = json.loads(json.dumps(reopened.save()))
            reopened = guestpv.Totals.restore(Source(look.rows), saved)
        else:
            reopened.update(look.rows)
        assert (straight.update(look.rows) == reopened.rows).all()


COUNTS = st.integers(0, 2**64 - 1)


@given(st.lists(st.tuples(COUNTS, st.integers(1, 2), st.integers(1, 2)), min_size=2))
def test_totals_are_exact_to_the_last_bit_and_do_not_wrap(counts):
    """Whatever stands on a page: 2**53 + 1 is no float, and a sum may be beyond 64 bits."""
    rows = np.zeros(1, guestpv.SNAPSHOT)
    rows["valid"], rows["state"] = True, State.ONLINE
    totals, expected, highest = None, 0, 0  # of the epoch
    for (now, epoch, instance), before in zip(counts, [counts[0], *counts], strict=False):
        rows["stolen_ns"], rows["epoch"], rows["instance"] = now, epoch, instance
        rows["epoch_stolen_ns"] = 2**64 - 1  # so that nothing came since
        if (epoch, instance) != before[1:] or totals is None:
            highest = now
        if now > highest:
            expected, highest = min(expected + now - highest, 2**64 - 1), now
        totals = totals or guestpv.Totals(None, rows)
        totals.update(rows)
        assert totals.total(0) == expected
