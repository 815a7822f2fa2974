# SPDX-License-Identifier: MIT
"""Liars: hypervisors whose count is wrong, and healthy ones in all their moods.

Each liar must be caught, by a check that is meant for it, and no healthy hypervisor may be blamed.
With GUESTPV_LIARS=20 every liar is tried twenty times; with GUESTPV_HEALTHY=200 there are two
hundred runs on all the healthy guests; without either this file is left out, and
tests/lab/test_validate.py has the faults. At the end stand the tables; see campaign.py for those of
many sessions.
"""

import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import campaign
import pytest
from campaign import HEALTHY_RUNS, LIARS_RUNS
from structures import ipa
from validator import VALIDATORS, claim_again, going_on, labs_in_turn, pin_vcpus

from guestpv.page import abi
from guestpv.validate import Verdict, catalogue
from pvlab import Lab, Lie

QUICK_S, DEFAULT_S = 2, 20
HEALTHY_S = float(os.environ.get("GUESTPV_WATCHED_S", QUICK_S))
"""How long healthy guests are watched."""

ID_LEVEL = {check.id: check.level for check in catalogue()}
Arrange = Callable[[Lab], AbstractContextManager[None]]


@dataclass(frozen=True)
class Liar:
    """What the hypervisor does wrong.

    by: the checks of which one must catch it
    steal: what the host takes meanwhile, in percent
    observe_s: how long the guest has to be watched for that
    at_least: of the runs, in how many it must be caught, rounded down
    """

    name: str
    arrange: Arrange
    by: tuple[str, ...]
    steal: int = 50
    observe_s: float = QUICK_S
    at_least: float = 1.0


@dataclass(frozen=True)
class Healthy:
    """A guest of a hypervisor that keeps its promises.

    spec: what is special about the guest, see Lab
    """

    name: str
    steal: int = 0
    arrange: Arrange = lambda lab: nullcontext()
    kernel: str = "stock-6.1"
    spec: dict[str, Any] = field(default_factory=dict)


# ---- what the host does wrong ----


def lying(*, vcpu: int | None = None, count_ns: int | None = None, **lie: Any) -> Arrange:
    """A count lies, from `count_ns` on if that is given; afterwards there is a new one."""

    @contextmanager
    def arrange(lab: Lab) -> Iterator[None]:
        with ExitStack() as stack:
            stack.callback(claim_again, lab)
            if count_ns is not None:
                for each in range(2):
                    lab.write_guest_memory(ipa(each) + 8, count_ns.to_bytes(8, "little"))
            stack.enter_context(lab.lying(Lie(**lie), vcpu=vcpu))
            yield

    return arrange


def creeping(part: float) -> Arrange:
    """vCPU 0 has one of the host's CPUs for itself, and its count goes on all the same."""

    @contextmanager
    def arrange(lab: Lab) -> Iterator[None]:
        pin_vcpus(lab, "0", "1")
        try:
            with going_on(lab, 0, part):
                yield
        finally:
            pin_vcpus(lab, "0-1", "0-1")
            claim_again(lab)

    return arrange


@contextmanager
def swapped(lab: Lab) -> Iterator[None]:
    """The guest is told that each of two vCPUs has the structure of the other."""
    with (
        lab.answering(call=abi.PV_TIME_ST, vcpu=0, answer=ipa(1)),
        lab.answering(call=abi.PV_TIME_ST, vcpu=1, answer=ipa(0)),
    ):
        claim_again(lab)
        yield
    claim_again(lab)


def stopped(write: Callable[[int, int], int]) -> Arrange:
    """In the midst of it the VM stops for half a second, and its counts are others then.

    write: the count after it, from that before it and how many ns it took
    """

    @contextmanager
    def arrange(lab: Lab) -> Iterator[None]:
        def stop() -> None:
            time.sleep(1)
            began_ns = time.monotonic_ns()
            lab.qmp("stop")
            time.sleep(0.5)
            for vcpu in range(2):
                count = int.from_bytes(lab.read_guest_memory(ipa(vcpu) + 8, 8), "little")
                count = write(count, time.monotonic_ns() - began_ns)
                lab.write_guest_memory(ipa(vcpu) + 8, count.to_bytes(8, "little"))
            lab.qmp("cont")

        with meanwhile(stop):
            yield
        claim_again(lab)

    return arrange


@contextmanager
def meanwhile(act: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=act)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def frozen(lab: Lab) -> AbstractContextManager[None]:
    return lab.frozen()


PROPORTION = ("gaps.proportion",)
FEW_PERCENT = ("gaps.waking", "gaps.proportion")
LOST = ("gaps.lost", "gaps.proportion")
STILL = ("counter.still", "counter.passed")
"""It grows where nothing was missing: over many looks, or over one."""
TOO_MUCH = ("gaps.proportion", "gaps.bound", *STILL)
LATE = ("gaps.lost", *TOO_MUCH)
LIARS = [
    Liar("half of it", lying(scale=0.5), PROPORTION),
    Liar("a tenth short", lying(scale=0.9), PROPORTION),
    Liar("4 % short", lying(scale=0.96), FEW_PERCENT, observe_s=DEFAULT_S, at_least=0.95),
    Liar("2 % short", lying(scale=0.98), FEW_PERCENT, observe_s=DEFAULT_S, at_least=0),
    Liar("microseconds", lying(scale=1e-3), PROPORTION),
    Liar("ticks of the counter", lying(scale=0.0625), PROPORTION),
    Liar("jiffies", lying(scale=1 / 4e6), (*PROPORTION, "counter.grows")),
    Liar("one slice in ten lost", lying(lose_every=10), LOST),
    Liar("one slice in 100 lost", lying(lose_every=100), LOST, observe_s=DEFAULT_S, at_least=0.9),
    Liar("5 ms of a slice at most", lying(cap_ns=5_000_000), LOST),
    Liar("freezes after 0.8 s", lying(freeze_after_ns=800_000_000), LOST),
    Liar("frozen", frozen, ("counter.grows", *LOST)),
    Liar("half a percent too much", lying(scale=1.005), TOO_MUCH, observe_s=DEFAULT_S, at_least=0),
    Liar("double", lying(scale=2), TOO_MUCH),
    Liar("the sum of all vCPUs", lying(counts_all=True), TOO_MUCH),
    Liar("halted time", lying(counts_halted=True), ("counter.idle",)),
    Liar("halted time, nothing taken", lying(counts_halted=True), ("counter.idle",), 0),
    Liar("creeps by 10 %", creeping(0.1), STILL, 0),
    Liar("creeps by 1 %", creeping(0.01), STILL, 0),
    Liar("creeps by 0.1 %", creeping(0.001), STILL, 0),
    Liar("creeps by 10 % at exits", lying(creep=0.1), TOO_MUCH, 0),
    Liar("creeps by 1 % at exits", lying(creep=0.01), TOO_MUCH, 0, at_least=0),
    Liar("creeps by 0.1 % at exits", lying(creep=1e-3), TOO_MUCH, 0, at_least=0),
    Liar("10 ms late", lying(late_ns=10_000_000), LATE),
    Liar("1 s late", lying(late_ns=1_000_000_000), LATE),
    Liar("32 bits", lying(bits=32, count_ns=(1 << 32) - 800_000_000), ("counter.monotonic",)),
    Liar(
        "big-endian",
        lying(big_endian=True),
        ("counter.plausible", "counter.passed", "counter.monotonic"),
    ),
    Liar("two structures swapped", swapped, (*LOST, *STILL)),
    Liar(
        "begins anew in a short migration",
        stopped(lambda count, took_ns: 0),
        ("life.survives", "counter.monotonic"),
    ),
    Liar(
        "a pause is stolen",
        stopped(lambda count, took_ns: count + took_ns),
        ("counter.passed", "life.paused"),
        steal=0,
    ),
]


# ---- the healthy ----


@contextmanager
def outer_machine_busy(lab: Lab) -> Iterator[None]:
    """The lab's host is itself a guest of a busy one: time is lost that nobody reports."""
    loop = [sys.executable, "-c", "while True: pass"]
    loops = [subprocess.Popen(loop) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for each in loops:
            each.kill()
            each.wait()


INTERRUPTING = """
for cpu in 0 1; do
    taskset -c $cpu sh -c 'while :; do
        dd if=/dev/vda of=/dev/null bs=4k count=2000 iflag=direct 2>/dev/null
    done' </dev/null >/dev/null 2>&1 &
    echo $!
done
"""


@contextmanager
def interrupted(lab: Lab) -> Iterator[None]:
    """The disk's interrupts, and those who wait for them."""
    loops = lab.run(["sh", "-c", INTERRUPTING]).stdout.split()
    try:
        yield
    finally:
        lab.run(["kill", *loops])


# Not with zeros: QEMU sends a page of them in no time.
DIRTYING = """
head -c 32M /dev/urandom >/dev/shm/source
sh -c 'while :; do
    dd if=/dev/shm/source of=/dev/shm/dirty bs=1M conv=notrunc 2>/dev/null
done' </dev/null >/dev/null 2>&1 &
echo $!
"""


@contextmanager
def auto_converging(lab: Lab) -> Iterator[None]:
    """A live migration finds no end: QEMU holds the vCPUs back, which KVM does not count."""
    loop = lab.run(["sh", "-c", DIRTYING]).stdout.strip()
    capabilities = {"auto-converge": True, "x-ignore-shared": False}
    switched = [{"capability": name, "state": state} for name, state in capabilities.items()]
    lab.qmp("migrate-set-capabilities", capabilities=switched)
    lab.qmp(
        "migrate-set-parameters",
        cpu_throttle_initial=50,
        max_cpu_throttle=60,
        throttle_trigger_threshold=1,
        max_bandwidth=1 << 30,
        downtime_limit=1,
    )
    lab.qmp("migrate", uri="exec:cat >/dev/null")
    try:
        # All of the memory once, and then as much as the guest dirties, or less: for QEMU compares
        # the two at the end of each pass, and holds the guest back at the second that was in vain.
        migration_comes_to(lab, lambda status: status.get("ram", {}).get("dirty-sync-count", 0) > 1)
        lab.qmp("migrate-set-parameters", max_bandwidth=16 << 20)
        migration_comes_to(lab, lambda status: status.get("cpu-throttle-percentage", 0) > 0)
        lab.qmp("migrate-set-parameters", max_bandwidth=1 << 20)  # or it would find its end
        yield
        assert lab.qmp("query-migrate")["status"] == "active"
    finally:
        lab.qmp("migrate_cancel")
        lab.qmp("cont")  # if it found its end all the same
        lab.run(["sh", "-c", f"kill {loop}; rm /dev/shm/source /dev/shm/dirty"])


def migration_comes_to(lab: Lab, there: Callable[[dict[str, Any]], bool]) -> None:
    deadline = time.monotonic() + 60
    while not there(status := lab.qmp("query-migrate")):
        assert status["status"] in ("setup", "active"), status
        assert time.monotonic() < deadline, status
        time.sleep(0.2)


HEALTHY = [
    Healthy("nothing taken"),
    Healthy("5 % taken", 5),
    Healthy("50 % taken", 50),
    Healthy("90 % taken", 90),
    Healthy("interrupted", 0, interrupted),
    Healthy("interrupted, 50 % taken", 50, interrupted),
    Healthy("host's host busy", 0, outer_machine_busy),
    Healthy("host's host busy, 50 % taken", 50, outer_machine_busy),
    Healthy("auto-converging", 0, auto_converging),
    Healthy("auto-converging, 50 % taken", 50, auto_converging),
    Healthy("claimed, 50 % taken", 50, kernel="claim-6.1"),
    Healthy("nohz_full, 50 % taken", 50, spec={"append": "nohz_full=1"}),
    Healthy("one vCPU, 50 % taken", 50, spec={"vcpus": 1}),
    Healthy("16 vCPUs on two CPUs, 20 % taken", 20, spec={"vcpus": 16, "memory_mb": 1024}),
]


# ---- the runs ----


@pytest.fixture(scope="module")
def labs() -> Iterator[Callable[..., Lab]]:
    with labs_in_turn() as lab:
        yield lab


Record = Callable[[str, object], None]


def validate(
    lab: Lab, case: Liar | Healthy, kernel: str, record: Record, *, observe_s: float = QUICK_S
) -> campaign.Run:
    """Run the command's checks once, as the case has it."""
    with case.arrange(lab):
        findings = VALIDATORS[lab].run(observe_s=observe_s)
    found = {id: [verdict, text] for id, (verdict, text, _) in findings.items()}
    run = campaign.Run(
        name=case.name,
        by=list(case.by) if isinstance(case, Liar) else [],
        kernel=kernel,
        steal=case.steal,
        observe_s=observe_s,
        failed={
            id: round(VALIDATORS[lab].after_s[id], 2)
            for id, (verdict, _) in found.items()
            if verdict == Verdict.FAIL and ID_LEVEL[id].blames_hypervisor
        },
        found={id: what for id, what in found.items() if what[0] != Verdict.PASS},
        long_gaps=VALIDATORS[lab].long_gaps,
        long_waits=VALIDATORS[lab].long_waits,
    )
    campaign.keep(run)
    record(campaign.PROPERTY, run.record())
    for id, (verdict, text) in run.found.items():
        print(f"{case.name}: {id} {verdict}: {text}")
    return run


@pytest.mark.parametrize("liar", LIARS, ids=lambda liar: liar.name)
def test_a_liar_is_caught(labs, liar, record_property):
    if not LIARS_RUNS:
        pytest.skip("this campaign is of healthy guests: see GUESTPV_LIARS")
    lab = labs("claim-6.1")
    lab.steal(liar.steal)
    runs = [
        validate(lab, liar, "claim-6.1", record_property, observe_s=liar.observe_s)
        for _ in range(LIARS_RUNS or 1)
    ]
    caught = sum(run.caught for run in runs)
    if caught < math.floor(liar.at_least * len(runs)):
        pytest.fail(f"caught in {caught} of {len(runs)}")


@pytest.mark.parametrize("healthy", HEALTHY, ids=lambda healthy: healthy.name)
def test_no_healthy_hypervisor_is_blamed(labs, healthy, record_property):
    lab = labs(healthy.kernel, **healthy.spec)
    lab.steal(healthy.steal)
    runs = [
        validate(lab, healthy, healthy.kernel, record_property, observe_s=HEALTHY_S)
        for _ in range(math.ceil(HEALTHY_RUNS / len(HEALTHY)) or 1)
    ]
    assert not [run.failed for run in runs if run.failed]
