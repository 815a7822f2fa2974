# SPDX-License-Identifier: MIT
"""Whom the checks of the guest's own kernel, and of the host's account, blame.

The accounts are given as they were seen in the lab (tests/lab/test_nohz.py makes them there).
"""

from types import SimpleNamespace

import numpy as np
import pytest

from guestpv.source.procstat import no_accounts
from guestpv.source.reader import SNAPSHOT
from guestpv.validate import host, kernel
from guestpv.validate.hostaccount import HostView
from guestpv.validate.kernelwatch import Sample

MS = 1_000_000
HEALTHY = (1000, 1000, 1000)
LATE = (0, 2000, 964)
AHEAD = (1250, 750, 1052)
STUCK = (2000, 0, 1000)
WRONG = (1500, 500, 1000)


@pytest.fixture
def nohz_full(tmp_path, monkeypatch):
    file = tmp_path / "nohz_full"
    monkeypatch.setattr(kernel, "NOHZ_FULL", file)
    return file.write_text


def rows(counts_ms, monotonic_ns):
    snapshot = np.zeros(len(counts_ms), SNAPSHOT)
    snapshot["cpu"] = range(len(counts_ms))
    snapshot["stolen_ns"] = [ms * MS for ms in counts_ms]
    snapshot["valid"], snapshot["epoch"], snapshot["monotonic_ns"] = True, 1, monotonic_ns
    return snapshot


def ends_of(accounts):
    """Each CPU's steal and run time in /proc/stat, and its count, all in ms of the same 2 s."""
    samples = []
    for share in 0, 1:
        account = no_accounts(range(len(accounts)))
        account["present"] = account["steal_known"] = account["run_known"] = True
        account["steal_ns"] = [share * steal * MS for steal, _, _ in accounts]
        account["run_ns"] = [share * run * MS for _, run, _ in accounts]
        counts = [share * counted for _, _, counted in accounts]
        samples.append(Sample(rows(counts, 1 + share * 2000 * MS), account))
    return tuple(samples)


def guest_of(*accounts, around=None, adopted=True):
    """What was seen while the CPUs were busy; and from before that until they were idle again."""
    judged = np.zeros(len(accounts), [("cpu", np.uint64)])
    judged["cpu"] = range(len(accounts))
    watched = SimpleNamespace(
        samples=ends_of(accounts), around=ends_of(around or accounts), judged=judged
    )
    return SimpleNamespace(watched=watched, adopted=adopted)


def verdicts(guest):
    checks = {"agrees": kernel.agrees, "nohz": kernel.nohz, "stuck": kernel.stuck}
    findings = {name: judge(guest) for name, judge in checks.items()}
    return {name: (str(finding.verdict), finding.cpus) for name, finding in findings.items()}


def test_a_healthy_guest_with_nohz_full_does_not_fail(nohz_full):
    """Both ways in which Linux was seen to be late there; in the end all was booked."""
    nohz_full("1-3\n")
    guest = guest_of(HEALTHY, LATE, HEALTHY, AHEAD, around=[HEALTHY] * 4)
    assert verdicts(guest) == {
        "agrees": ("pass", ()),
        "nohz": ("warn", (1, 3)),
        "stuck": ("pass", ()),
    }


def test_all_of_its_time_stolen_for_ever_is_named(nohz_full):
    nohz_full("1-3")
    around = [HEALTHY, HEALTHY, STUCK, HEALTHY]
    guest = guest_of(HEALTHY, LATE, LATE, HEALTHY, around=around)
    assert verdicts(guest) == {
        "agrees": ("pass", ()),
        "nohz": ("warn", (1, 2)),
        "stuck": ("warn", (2,)),
    }
    finding = kernel.stuck(guest)
    assert finding.text.startswith("cpu2: /proc/stat 2.00 s, the count 1.000 s: 100 %")
    assert "prev_steal_time" in finding.advice


def test_a_cpu_from_which_all_is_stolen_is_not_stuck(nohz_full):
    nohz_full("0")
    assert verdicts(guest_of((2000, 0, 2000)))["stuck"] == ("pass", ())


def test_a_difference_elsewhere_is_a_failure_as_before(nohz_full):
    nohz_full("1")
    guest = guest_of(WRONG, LATE, (1400, 600, 1000))
    assert verdicts(guest)["agrees"] == ("fail", (0, 2))
    finding = kernel.agrees(guest)
    assert finding.text.startswith("cpu0,2, on cpu0: /proc/stat 1.50 s")
    assert [cpus.cpus for cpus in finding.unjudged] == [(1,)]


@pytest.mark.parametrize("content", ["", "\n", "(null)\n", None])
def test_without_nohz_full_nothing_is_excused(nohz_full, content):
    if content is not None:
        nohz_full(content)
    assert verdicts(guest_of(HEALTHY, STUCK)) == {
        "agrees": ("fail", (1,)),
        "nohz": ("skip", ()),
        "stuck": ("skip", ()),
    }


def test_a_kernel_that_accounts_for_none_is_named_and_nothing_else(nohz_full):
    nohz_full("0-1")
    guest = guest_of((0, 2000, 900), (0, 2000, 1000), adopted=False)
    assert {name: verdict for name, (verdict, _) in verdicts(guest).items()} == {
        "agrees": "warn",
        "nohz": "skip",
        "stuck": "skip",
    }


def test_all_cpus_on_which_the_hosts_account_differs_are_told():
    """One that can't be compared costs the others nothing."""
    begin = HostView(rows([0] * 5, 1), {0: 0, 1: 0, 2: 0, 3: 0}, rows([0] * 5, 2))
    counted = [1000, 500, 990, 900, 1000]
    truth = dict.fromkeys(range(4), 1000 * MS)
    end = HostView(rows(counted, 3), truth, rows(counted, 4))
    guest = guest_of(*[HEALTHY] * 5)
    guest.watched.host = (begin, end)
    finding = host.agrees(guest)
    assert (finding.verdict, finding.cpus) == ("fail", (1, 3))
    assert finding.text == "cpu1,3, on cpu1: the host 1000.0 ms, the count 500.0 ms"
    (missing,) = finding.unjudged
    assert missing.cpus == (4,)
