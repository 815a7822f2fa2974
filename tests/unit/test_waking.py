# SPDX-License-Identifier: MIT
"""Who wakes while the host is busy: simulated hosts, honest and not, on any machine."""

from types import SimpleNamespace

import numpy as np
import pytest
from reportschema import outcome_is_by_schema

from guestpv.latency.naps import NAP, NAP_NS, Slept
from guestpv.latency.observation import LONG_GAP
from guestpv.validate import Outcome, catalogue
from guestpv.validate.waking import waking

SLICE_MS = 10
RUNS = 20
"""Of each simulated host."""


def naps_of(seed, factor=1.0, n=600, slice_ms=(0, SLICE_MS), stray=0.3, beside_us=60):
    """As in the lab: half of the naps end in a slice, and what else is counted is of two kinds.

    stray: of them, this part was taken before it halted, too, or came late for the guest's reasons
    """
    rng = np.random.default_rng(seed % 1000)
    waited_ms = np.where(rng.random(n) < 0.5, 0, rng.uniform(*slice_ms, n))
    kind = rng.random(n)
    before_ms = np.where(kind < 0.7 * stray, rng.uniform(1, SLICE_MS, n), 0)
    own_ms = np.where(kind > 1 - 0.3 * stray, rng.uniform(0, 4, n), 0)
    naps = np.zeros(n, NAP)
    naps["length_ns"] = NAP_NS
    late_ms = waited_ms + own_ms + 0.5 + rng.normal(0, beside_us / 1e3, n)
    naps["late_ns"] = 1e6 * late_ms
    naps["grown_ns"] = 1e6 * factor * (waited_ms + before_ms)
    return naps


def judged(*naps, pieces=1.0):
    """The finding, of which a report can be made; so much of each slice is counted while busy."""
    (check,) = (check for check in catalogue() if check.judge is waking)
    gaps = np.zeros(30 * len(naps), LONG_GAP)
    gaps["cpu"] = np.repeat(np.arange(len(naps)), 30)
    gaps["stolen_ns"] = 1e6 * SLICE_MS * pieces
    guest = SimpleNamespace(
        naps={cpu: Slept(one, 0.02) for cpu, one in enumerate(naps)},
        proportions=SimpleNamespace(gaps=gaps),
    )
    finding = waking(guest)
    outcome_is_by_schema(Outcome(check, finding, 0.0))
    return finding


def failed(factor, **host):
    """How often of all runs, of two vCPUs."""
    verdicts = [
        judged(naps_of(seed, factor, **host), naps_of(~seed, factor, **host), pieces=factor).verdict
        for seed in range(RUNS)
    ]
    return verdicts.count("fail")


def test_no_honest_host_is_blamed():
    assert failed(1.0) == 0
    assert failed(1.0, stray=0.6) == 0
    assert failed(1.0, beside_us=1000) == 0
    assert failed(1.0, n=220) == 0


@pytest.mark.parametrize("factor", [0.5, 0.9, 0.96, 1.04, 2.0])
def test_what_is_hidden_or_too_much_is_found(factor):
    assert failed(factor) == RUNS


def test_the_vcpu_that_is_lied_to_is_named():
    finding = judged(naps_of(0), naps_of(1, 0.96), naps_of(2))
    assert (finding.verdict, finding.cpus) == ("fail", (1,))
    assert finding.text.startswith("cpu1: 9")
    assert [row["cpu"] for row in finding.figures["factors"]] == [0, 1, 2]
    assert finding.figures["factors"][1]["factor"] == pytest.approx(0.96, abs=0.01)


def test_who_was_kept_out_twice_is_not_looked_at():
    waits = judged(naps_of(0)).figures["waits"]
    assert waits > 250
    assert judged(naps_of(0), pieces=0.4).figures["waits"] == pytest.approx(waits / 2, rel=0.2)


def test_each_vcpu_has_a_constant_of_its_own():
    slow, quick = naps_of(0), naps_of(1, slice_ms=(0, 3))
    slow["late_ns"] += 2_000_000
    assert judged(slow, quick).verdict == "pass"


def test_the_log_is_in_the_figures_by_which_it_can_be_judged_again():
    naps = naps_of(0), naps_of(1, 0.9)
    finding = judged(*naps)
    log = finding.figures["long_waits"]
    again = (np.array([tuple(nap) for c, *nap in log if c == cpu], NAP) for cpu in (0, 1))
    assert judged(*again) == finding


@pytest.mark.parametrize(
    ("naps", "why"),
    [
        (naps_of(0, n=120), "cpu0-1: too few waits"),
        (naps_of(0, factor=0.0), "cpu0-1: too few waits"),
        (
            naps_of(0, slice_ms=(SLICE_MS, SLICE_MS), stray=0),
            "cpu0-1: they were all as long, or",
        ),
        (naps_of(0, beside_us=5000), "cpu0-1: they were all as long, or"),
    ],
    ids=["too few", "nothing taken", "one length", "muddled"],
)
def test_what_says_nothing_is_not_judged(naps, why):
    finding = judged(naps, naps)
    assert finding.verdict == "skip"
    assert why in finding.text
    finding = judged(naps, naps_of(1, 0.96))
    assert (finding.verdict, finding.cpus) == ("fail", (1,))
    assert [some.cpus for some in finding.unjudged] == [(0,)]


def test_without_naps_nothing_is_judged():
    assert judged().verdict == "skip"
    assert judged(np.zeros(0, NAP)).verdict == "skip"
