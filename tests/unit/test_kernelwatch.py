# SPDX-License-Identifier: MIT
"""The kernel's account beside the counts, where either is missing or says nonsense."""

import numpy as np
import pytest

import guestpv
from guestpv.account.kernel import sample
from guestpv.page.abi import State
from guestpv.source.procstat import no_accounts
from guestpv.validate import kernelwatch
from guestpv.validate.kernelwatch import KernelWatch, Sample

SECOND = 1_000_000_000


class Source:
    """One vCPU with these counts, one for each snapshot."""

    cpus = (0,)

    def __init__(self, *counts):
        self.counts = iter(counts)

    def snapshot(self):
        rows = np.zeros(1, guestpv.SNAPSHOT)
        rows["state"], rows["valid"], rows["stolen_ns"] = State.ONLINE, True, next(self.counts)
        return rows


@pytest.mark.parametrize(
    ("count0", "count1", "slack_ns"),
    [(5, 12, 7), (12, 5, 0), (0, 2**63, 2**63 - 1), (0, 2**64 - 1, 2**63 - 1)],
)
def test_slack_is_what_was_stolen_while_the_kernel_was_asked(count0, count1, slack_ns):
    rows, account = sample(Source(count0, count1))
    assert rows["stolen_ns"] == count0
    assert account["slack_ns"] == slack_ns


@pytest.mark.parametrize(
    ("began_s", "ended_s", "spent_s"), [(100, 103, 3), (None, 103, 0), (100, None, 0), (9, 8, 0)]
)
def test_interrupts_are_of_the_time_between_two_figures(monkeypatch, began_s, ended_s, spent_s):
    """A CPU that came online meanwhile has no first one: not all since the boot is of the run."""
    samples = iter((began_s, ended_s))

    def next_sample(reader):
        account = no_accounts(reader.cpus)
        if (seconds := next(samples)) is not None:
            account["present"] = account["run_known"] = True
            account["interrupts_ns"] = seconds * SECOND
        return reader.snapshot(), account

    monkeypatch.setattr(kernelwatch, "sample", next_sample)
    watch = KernelWatch(Source(0, 0))
    watch.update(settled=True)
    assert watch.interrupts_ns.tolist() == [spent_s * SECOND]
    assert isinstance(watch.last, Sample)


@pytest.mark.parametrize(
    ("steal_s", "backwards_s"), [((40, 41, 39), 2), ((40, 0, None), 0), ((40, None, 0), 0)]
)
def test_a_cpu_that_goes_offline_does_not_run_backwards(monkeypatch, steal_s, backwards_s):
    """In its last moments Linux takes all that was stolen for less than nothing, and subtracts."""
    samples = iter(steal_s)

    def next_sample(reader):
        account = no_accounts(reader.cpus)
        if (seconds := next(samples)) is not None:
            account["present"] = account["steal_known"] = True
            account["steal_ns"] = seconds * SECOND
        return reader.snapshot(), account

    monkeypatch.setattr(kernelwatch, "sample", next_sample)
    watch = KernelWatch(Source(0, 0, 0))
    watch.update(settled=True)
    watch.update(settled=True)
    assert watch.backwards_ns.tolist() == [backwards_s * SECOND]
