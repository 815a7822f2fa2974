# SPDX-License-Identifier: MIT
"""guestpv validate on a real hypervisor: healthy, and with each promise broken on purpose.

Each fault is made by the host, in KVM or in the guest's memory, and the check that owns it must
catch it. At the end stands a table of both; a check that no fault trips is in it as a hole.
"""

import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import preloaded
import pytest
from reportschema import VALIDATOR
from structures import ipa
from validator import (
    VALIDATORS,
    claim_again,
    going_on,
    guestpv,
    labs_in_turn,
    load_again,
    pin_vcpus,
)

from guestpv.driver.ask import UPPER
from guestpv.page import abi
from guestpv.validate import catalogue
from guestpv.validate.check import CHECKS
from guestpv.validate.life_events import IDS as COMPARING
from pvlab import Lab
from pvlab.cache import CHECKOUT
from pvlab.faults import Lie

RAM = 0x40000000

ST, FEATURES, VERSION, ARCH_FEATURES = abi.PV_TIME_ST, abi.PV_TIME_FEATURES, 0x80000000, 0x80000001
UNDEFINED = 0xC500002A
REFUSED = -1

Arrange = Callable[[Lab], AbstractContextManager[None]]


@dataclass(frozen=True)
class Fault:
    """What the host does wrong, and the check that must catch it."""

    name: str
    check: str
    arrange: Arrange
    options: dict[str, Any] = field(default_factory=dict)
    verdict: str = "fail"
    says: str = ""
    tries: int = 1
    """How often to look, where the host's scheduler decides whether there is something to see."""
    warns_if_busy: bool = False
    """Whether on a machine that is busy itself, which takes time from the lab's host that nobody
    reports, a warning that the two can't be told apart is as right."""


CAUGHT: dict[str, list[str]] = {}
"""By check, the faults that it was seen to catch in this run."""


HEIGHTS = itertools.count(1)
"""Of counts that go on by themselves."""


# ---- what the host does wrong ----


def answering(**wrong: int) -> Arrange:
    """A hypercall is answered wrongly while the module loads, and claims."""

    @contextmanager
    def arrange(lab: Lab) -> Iterator[None]:
        with lab.answering(**wrong):
            claim_again(lab)
            yield
        claim_again(lab)

    return arrange


def answering_now(**wrong: int) -> Arrange:
    """A hypercall is answered wrongly during the run, and was not when the module was loaded."""
    return lambda lab: lab.answering(**wrong)


@contextmanager
def refusing_one_that_is_adopted(lab: Lab) -> Iterator[None]:
    """The kernel has its structure from before; the module is told that there is none."""
    with lab.answering(call=ARCH_FEATURES, arg=FEATURES, vcpu=1, answer=REFUSED):
        load_again(lab)
        yield
    load_again(lab)


@contextmanager
def moved_at_hotplug(lab: Lab) -> Iterator[None]:
    with lab.answering(call=ST, vcpu=1, answer=ipa(2)):
        yield
    claim_again(lab)


def wrote(vcpu: int, offset: int, content: bytes) -> Arrange:
    """Something stands in a structure that should not."""

    @contextmanager
    def arrange(lab: Lab) -> Iterator[None]:
        before = lab.read_guest_memory(ipa(vcpu) + offset, len(content))
        lab.write_guest_memory(ipa(vcpu) + offset, content)
        try:
            yield
        finally:
            lab.write_guest_memory(ipa(vcpu) + offset, before)

    return arrange


def stepping(vcpu: int, by_ns: int) -> Arrange:
    """The count goes on by itself, or back, a few times a second.

    It begins higher each time: that it was high before the module may know, and announce a restart.
    """
    program = f"""
import time
count = {next(HEIGHTS) << 50}
while True:
    count += {by_ns}
    write(8, count.to_bytes(8, "little"))
    time.sleep(0.3)
"""
    return lambda lab: lab.writing(ipa(vcpu), program)


@contextmanager
def at_its_end(lab: Lab) -> Iterator[None]:
    with lab.frozen(vcpu=1), wrote(1, 8, bytes([255] * 8))(lab):
        yield
    claim_again(lab)


@contextmanager
def creeping(lab: Lab) -> Iterator[None]:
    """The count goes on while its vCPU runs: for that the host needs a CPU beside the vCPU's."""
    pin_vcpus(lab, "0", "0")
    try:
        with lab.creeping_count(ipa(0), by_ns=1_000):
            yield
    finally:
        pin_vcpus(lab, "0-1", "0-1")


@contextmanager
def busy(lab: Lab) -> Iterator[None]:
    """The host runs something else, as hosts do."""
    lab.steal(40)
    try:
        yield
    finally:
        lab.steal(0)


@contextmanager
def frozen(lab: Lab) -> Iterator[None]:
    with lab.frozen(), busy(lab):
        yield


def lying(**lie: Any) -> Arrange:
    """The count says something else than what was stolen, under contention; a new one is true."""

    @contextmanager
    def arrange(lab: Lab) -> Iterator[None]:
        with lab.lying(Lie(**lie)):
            lab.steal(50)
            try:
                yield
            finally:
                lab.steal(0)
        claim_again(lab)

    return arrange


def leaping_at_hotplug(lab: Lab) -> AbstractContextManager[None]:
    return lab.creeping_count(ipa(1), by_ns=1 << 40)


@contextmanager
def counting_while_offline(lab: Lab) -> Iterator[None]:
    """A count that goes on with the clock, as if a CPU that is offline wanted to run.

    Not as fast as that, which could be more than time passes, by the guest's clock.
    """
    claim_again(lab)  # or the module may find meanwhile what the fault before has set back
    with lab.not_restarting(), going_on(lab, 1, 0.75):
        yield


@contextmanager
def counting_no_more(lab: Lab) -> Iterator[None]:
    """The guest's kernel, which owns the structures, does not account for what is stolen."""
    stale = "cp /proc/stat /tmp/stat && mount --bind /tmp/stat /proc/stat"
    lab.run(["sh", "-c", stale]).check_returncode()
    try:
        with busy(lab):
            yield
    finally:
        lab.run(["umount", "/proc/stat"]).check_returncode()


@contextmanager
def meanwhile(lab: Lab, act: Callable[[], None]) -> Iterator[None]:
    """Something happens while the command runs: it has begun to wait for it."""

    def act_later() -> None:
        time.sleep(2)
        act()

    with ThreadPoolExecutor(1) as other:
        acting = other.submit(act_later)
        yield
        acting.result()


def paused(seconds: float) -> Arrange:
    return lambda lab: meanwhile(lab, lambda: lab.pause(seconds))


@contextmanager
def pausing(lab: Lab) -> Iterator[None]:
    """The VM is held again and again, so that it is while it is watched."""
    over = threading.Event()

    def hold() -> None:
        while not over.wait(1.0):
            lab.pause(1.5)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def lost_in_a_pause(lab: Lab) -> AbstractContextManager[None]:
    """As if the VM had been moved to a host that begins to count anew."""

    def act() -> None:
        lab.qmp("stop")
        lab.write_guest_memory(ipa(0), bytes(16))
        time.sleep(5)
        lab.qmp("cont")

    return meanwhile(lab, act)


CLAIM = [
    Fault(
        "one vCPU is refused",
        "discovery.arch_features",
        answering(call=ARCH_FEATURES, arg=FEATURES, vcpu=1, answer=REFUSED),
    ),
    Fault(
        "PV_TIME_FEATURES denies itself",
        "discovery.features_self",
        answering(call=FEATURES, arg=FEATURES, answer=REFUSED),
    ),
    Fault(
        "one vCPU has no PV_TIME_ST",
        "discovery.st",
        answering(call=FEATURES, arg=ST, vcpu=1, answer=REFUSED),
    ),
    Fault(
        "a number that nobody defined is vouched for",
        "discovery.undefined",
        answering(call=FEATURES, arg=abi.PV_TIME_UNDEFINED, answer=0),
    ),
    Fault(
        "the 32-bit calls are vouched for",
        "discovery.smc32",
        answering(call=FEATURES, arg=abi.PV_TIME_ST_SMC32, answer=0),
    ),
    Fault(
        "a refusal that is none",
        "discovery.refusals",
        answering(call=FEATURES, arg=abi.PV_TIME_ST_DRAFT, answer=-2),
    ),
    Fault(
        "one vCPU is offered the draft's number, too",
        "discovery.alike",
        answering(call=FEATURES, arg=abi.PV_TIME_ST_DRAFT, vcpu=1, answer=0),
    ),
    Fault(
        "ARCH_FEATURES returns 1",
        "discovery.exactly_0",
        answering(call=ARCH_FEATURES, arg=FEATURES, answer=1),
        verdict="warn",
        says="Linux guests go without",
    ),
    Fault(
        "x9 is not kept",
        "smccc.registers",
        answering_now(call=FEATURES, arg=ST, vcpu=1, register=9, answer=7),
        says="cpu1: x9 changed",
    ),
    Fault(
        "x17 is not kept by a call that is refused",
        "smccc.registers",
        answering_now(call=UNDEFINED, register=17, answer=0),
        says="cpu0-1, on cpu0: x17 changed",
    ),
    Fault(
        "SMCCC 1.3 is announced, and its hint not masked",
        "smccc.hint",
        answering_now(call=VERSION, answer=0x10003),
        says="without the hint",
    ),
    Fault(
        "the upper half of an argument counts",
        "smccc.upper",
        answering_now(call=FEATURES, arg=UPPER | ST, answer=REFUSED),
        says="with zeroes above",
    ),
    Fault(
        "a number that nobody defined is vouched for",
        "smccc.undefined",
        answering_now(call=FEATURES, arg=UNDEFINED, answer=0),
        says="returned 0",
    ),
    Fault(
        "a call that nobody defined is taken for done",
        "smccc.direct",
        answering_now(call=UNDEFINED, answer=0),
        says="returned 0",
    ),
    Fault(
        "a refusal that is none",
        "smccc.refusals",
        answering_now(call=UNDEFINED, answer=-2),
        says="returned -2",
    ),
    Fault(
        "PV_TIME_ST is gone since the module was loaded",
        "smccc.same",
        answering_now(call=FEATURES, arg=ST, answer=REFUSED),
        verdict="warn",
        says="now",
    ),
    Fault("no structure for one vCPU", "address.given", answering(call=ST, vcpu=1, answer=REFUSED)),
    Fault("unaligned", "address.aligned", answering(call=ST, vcpu=1, answer=ipa(1) + 8)),
    Fault("beyond the address size", "address.range", answering(call=ST, vcpu=1, answer=1 << 53)),
    Fault("in System RAM", "address.ram", answering(call=ST, vcpu=1, answer=RAM + (1 << 24))),
    Fault("one for two vCPUs", "address.apart", answering(call=ST, vcpu=1, answer=ipa(0))),
    Fault("another one after hotplug", "address.stable", moved_at_hotplug, {"disruptive": True}),
    Fault("revision 1", "structure.revision", wrote(1, 0, b"\1\0\0\0"), says="cpu1: revision 0x1"),
    Fault(
        "a revision that changes between two loads",
        "structure.revision",
        lambda lab: lab.flipping_revision(ipa(0)),
    ),
    Fault("attributes", "structure.attributes", wrote(0, 4, b"\4\0\0\0"), says="attributes 0x4"),
    Fault("set back", "counter.monotonic", stepping(0, -(10**9)), says="cpu0"),
    Fault("one vCPU's only is set back", "counter.remote", stepping(1, -(10**9)), says="cpu1"),
    Fault("forward by an hour", "counter.passed", stepping(0, 3600 * 10**9)),
    Fault("forward by an hour", "gaps.bound", stepping(0, 3600 * 10**9)),
    Fault("at 2^64 - 1", "counter.plausible", at_its_end),
    Fault("frozen", "counter.grows", frozen),
    Fault("half is hidden", "gaps.proportion", lying(scale=0.5), tries=3),
    Fault("a tenth is hidden", "gaps.proportion", lying(scale=0.9), tries=6, warns_if_busy=True),
    Fault("a tenth is hidden", "gaps.waking", lying(scale=0.9), {"observe_s": 8}, tries=4),
    Fault("microseconds", "gaps.proportion", lying(scale=0.001), tries=3),
    Fault(
        "one slice in ten is lost",
        "gaps.lost",
        lying(lose_every=10),
        tries=6,
        warns_if_busy=True,
    ),
    Fault("halted time is counted", "counter.idle", lying(counts_halted=True), tries=3),
    Fault("creeping", "counter.still", creeping, tries=5),
    Fault("written in halves", "counter.whole", lambda lab: lab.tearing_count(ipa(0))),
    Fault("a kernel that accounts for none", "kernel.agrees", busy, verdict="warn"),
    Fault("forward by an hour", "host.agrees", stepping(0, 3600 * 10**9)),
    Fault(
        "paused for 10 s",
        "life.paused",
        paused(10),
        {"wait_s": 30},
        "warn",
        "stood still for about",
    ),
    Fault(
        "moved, and the count was lost",
        "life.survives",
        lost_in_a_pause,
        {"wait_s": 30},
        says="began a new count",
    ),
    Fault(
        "forward by minutes over hotplug",
        "life.hotplug",
        leaping_at_hotplug,
        {"disruptive": True},
        says="it grew by",
    ),
    Fault(
        "counts while it is offline",
        "life.hotplug",
        counting_while_offline,
        {"disruptive": True},
        says="in which it was offline are counted",
    ),
    Fault("set back", "life.suspend", stepping(0, -(10**9)), {"disruptive": True}, says="cpu0"),
]
STOCK = [
    Fault("one vCPU is refused", "address.given", refusing_one_that_is_adopted, says="cpu1"),
    Fault("a kernel that counts no more", "kernel.agrees", counting_no_more, says="0.00 s"),
    Fault("set back", "kernel.forward", stepping(0, -(10**9))),
    Fault(
        "hotplug: Linux's own defect",
        "kernel.hotplug",
        lambda lab: nullcontext(),
        {"disruptive": True},
        "warn",
        "a known defect of Linux",
    ),
    Fault("set back", "life.reload", stepping(0, -(10**9)), {"disruptive": True}, says="cpu0"),
]


PAUSED = [
    Fault(
        "stands still in the middle, and says nothing",
        "gaps.share",
        pausing,
        verdict="warn",
        says="missing in one piece",
    ),
]
ELSEWHERE = {
    "life.continues": "a count that a short migration loses (test_life_events.py)",
    "life.announced": "a snapshot that is older than the record (test_life_events.py)",
    "life.grew": "the time of a stop that is counted (test_life_events.py)",
    "life.stayed": "made up only, in tests/unit/test_life_events.py",
    "life.interface": "made up only, in tests/unit/test_life_events.py",
    "discovery.smccc": "a machine without a conduit (test_no_pv_time.py)",
    "discovery.none": "stolen time where none is expected (test_probe.py)",
    "kernel.nohz": "a busy guest with nohz_full: Linux's own defect (test_nohz.py)",
    "kernel.stuck": "hotplug with nohz_full: Linux's own defect (test_nohz.py)",
}
"""Checks whose faults are in other files."""


# ---- the guest ----


def judged(lab: Lab, **options: Any) -> dict[str, list[str]]:
    """The whole catalogue; again, if this machine itself stalled, of which gaps.share tells."""
    for _ in range(3):
        findings = VALIDATORS[lab].run(**options)
        if findings["gaps.share"][0] != "warn":
            break
    return findings


def not_passed(findings: dict[str, list[str]]) -> dict[str, str]:
    """By check; without what this machine, which is the host's host, takes when it is busy.

    And without what two seconds are too short for.
    """
    verdicts = {id: verdict for id, (verdict, _, _) in findings.items() if verdict != "pass"}
    for check in "gaps.proportion", "gaps.lost", "gaps.waking":
        if verdicts.get(check) in ("warn", "skip"):
            del verdicts[check]
    return verdicts


@pytest.fixture(scope="module")
def labs() -> Iterator[Callable[..., Lab]]:
    with labs_in_turn() as lab:
        yield lab


def caught(lab: Lab, fault: Fault) -> None:
    told_of = False
    for _ in range(fault.tries):
        with fault.arrange(lab):
            findings = VALIDATORS[lab].run(fault.check, **fault.options)
        verdict, text, advice = findings[fault.check]
        print(f"{fault.name}: {fault.check} says {verdict}: {text}")
        if verdict == fault.verdict:
            break
        told_of |= fault.warns_if_busy and verdict == "warn" and "--host-account" in advice
    assert verdict == fault.verdict or told_of
    assert fault.says in text + advice
    CAUGHT.setdefault(fault.check, []).append(fault.name)


def name_of(fault: Fault) -> str:
    return f"{fault.name} - {fault.check}"


@pytest.mark.parametrize("fault", PAUSED, ids=name_of)
def test_a_fault_is_caught_where_virtual_time_goes_on(labs, fault):
    caught(labs("claim-6.1", virtual_time_stops=False), fault)


@pytest.mark.parametrize("fault", CLAIM, ids=name_of)
def test_a_fault_is_caught_where_guestpv_claims(labs, fault):
    caught(labs("claim-6.1"), fault)


# One false blame is one too many: these are never run again where they fail.
judged_once = pytest.mark.flaky(reruns=0)


@judged_once
def test_a_hypervisor_that_does_not_restart_counts_is_not_blamed(labs):
    """Only KVM restarts them, and only Linux's accounting suffers from that."""
    lab = labs("claim-6.1")
    claim_again(lab)  # what the faults before did to the counts is not to be seen
    with wrote(1, 8, (1 << 42).to_bytes(8, "little"))(lab), lab.not_restarting():
        findings = VALIDATORS[lab].run("life.hotplug", disruptive=True)
    assert findings["life.hotplug"][0] == "pass"


README = (CHECKOUT / "README.md").read_text()
NO_NOHZ = {"kernel.nohz": "skip", "kernel.stuck": "skip"}
"""No CPU of these guests is in nohz_full."""
EXPECTED = {
    # what is not a pass, with --disruptive, under contention; it stands in the README, too
    "claim-6.1": {
        **NO_NOHZ,
        "life.survives": "skip",
        "kernel.agrees": "warn",
        "kernel.forward": "skip",
        "kernel.hotplug": "skip",
    },
    "stock-6.12": {"life.survives": "skip", "kernel.hotplug": "warn", **NO_NOHZ},
    "stock-6.1": {"life.survives": "skip", "kernel.hotplug": "warn", **NO_NOHZ},
}


def told_by_the_readme(kernel: str) -> set[str]:
    """The checks in its row of the table of what each kernel gets wrong."""
    (row,) = (line for line in README.splitlines() if line.startswith(f"| {kernel} "))
    return set(re.findall(r"`(\w+\.\w+)`", row))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`kernel`: what has a row of its own in the README."""
    if "kernel" in metafunc.fixturenames:
        matrix = metafunc.config.getoption("--matrix")
        kernels = [kernel for kernel in EXPECTED if matrix or kernel != "stock-6.12"]
        metafunc.parametrize("kernel", kernels)


@judged_once
def test_the_whole_catalogue_on_a_healthy_guest(labs, kernel):
    lab = labs(kernel)
    if kernel == "claim-6.1":
        claim_again(lab)  # what the faults before did to the counts is not to be seen
    lab.steal(40)
    findings = judged(lab, disruptive=True)
    lab.steal(0)
    for id, (verdict, text, _) in findings.items():
        print(f"{kernel:10} {verdict:4} {id:24} {text}")
    assert not_passed(findings) == EXPECTED[kernel] | dict.fromkeys(COMPARING, "skip")
    assert set(EXPECTED[kernel]) - NO_NOHZ.keys() == told_by_the_readme(kernel)
    assert lab.run(["cat", "/sys/devices/system/cpu/online"]).stdout == "0-1\n"


@pytest.mark.parametrize("fault", STOCK, ids=name_of)
def test_a_fault_is_caught_where_guestpv_adopts(labs, fault):
    caught(labs("stock-6.1"), fault)


def test_an_unknown_revision_is_not_interpreted_and_reading_goes_on_when_it_is_known(labs):
    """The thread's open question, as it looks to the users of a VM that was moved."""
    lab = labs("stock-6.1")
    watch = f"{preloaded.GUESTPV} watch --json --interval 0.5 >/tmp/watched"
    lab.run(["sh", "-c", f"setsid {watch} </dev/null 2>/dev/null &"])
    lab.run(["sh", "-c", "until test -s /tmp/watched; do sleep 0.2; done"], timeout=60)
    with wrote(1, 0, b"\1\0\0\0")(lab):
        # The module looks once a second, and on an idle CPU when that wakes for something else.
        known = f"until {preloaded.GUESTPV} info | grep -q 'unknown, since'; do sleep 0.2; done"
        lab.run(["sh", "-c", known], timeout=60)
        done = preloaded.guestpv(lab, "read", "--cpu", "1")
        assert done.returncode == 7
        assert "revision 1" in done.stderr
        assert "since" in done.stderr
        shown = guestpv(lab, "info")
        assert "revision 1, attributes 0x0: unknown, since" in shown
        record = json.loads(guestpv(lab, "read", "--json"))
        assert (record["cpus"][1]["valid"], record["cpus"][1]["stolen_ns"]) == (False, None)
        assert record["cpus"][0]["valid"]
    assert json.loads(guestpv(lab, "read", "--json"))["cpus"][1]["valid"]
    lab.run(["sh", "-c", "sleep 1; pkill -INT -f '[g]uestpv watch'; sleep 1"])
    lines = [json.loads(line) for line in lab.run(["cat", "/tmp/watched"]).stdout.splitlines()]
    texts = [event["text"] for line in lines for event in line["events"]]
    assert any("revision 1" in text and "not interpreted" in text for text in texts), texts
    assert any("its count goes on" in text for text in texts), texts
    for line in lines:
        assert line["cpus"][1]["valid"] == (line["cpus"][1]["revision"] == 0)


SKIPPED = {
    check.id: "skip"
    for check in catalogue()
    if check.effect.disruptive or check.id in ("life.survives", *NO_NOHZ, *COMPARING)
}


@judged_once
def test_runs_in_a_row_have_one_verdict(labs, times):
    lab = labs("stock-6.1")
    lab.steal(40)
    for _ in range(times):
        findings = judged(lab)
        print(findings["host.agrees"][1], findings["kernel.agrees"][1], sep="; ")
        assert not_passed(findings) == SKIPPED, findings
    lab.steal(0)


def test_the_command_as_it_is_run_by_users(labs):
    lab = labs("stock-6.1")
    lab.steal(40)
    done = lab.run(["guestpv", "validate", "--seconds", "6"])
    lab.steal(0)
    said = done.stdout
    print(said, done.stderr)
    assert done.returncode == 0
    skipped = re.search(r" 0 failed, 0 errors, (\d+) skipped", said)
    assert skipped
    assert int(skipped[1]) >= len(SKIPPED)  # more on a machine that is itself busy
    assert "No promise of the hypervisor that was checked was broken." in said


def test_the_report_for_programs_is_by_its_schema(labs):
    lab = labs("stock-6.1")
    lab.steal(50)
    report = json.loads(guestpv(lab, "validate", "--quick", "--disruptive", "--json"))
    lab.steal(0)
    VALIDATOR.validate(report)
    figures = {check["id"]: check["figures"] for check in report["checks"]}
    assert [row["cpu"] for row in figures["gaps.proportion"]["factors"]] == [0, 1]
    if figures["counter.idle"]:  # else no vCPU slept undisturbed
        assert {row["cpu"] for row in figures["counter.idle"]["counted_shares"]} <= {0, 1}
    assert [row["cpu"] for row in figures["host.agrees"]["errors"]] == [0, 1]


def test_a_machine_that_sleeps_in_the_middle_is_watched_again(labs):
    """An hour, as users have it, takes the same way as these seconds."""
    lab = labs("stock-6.1")
    VALIDATORS[lab].begin(observe_s=8)
    time.sleep(4)
    lab.run(["rtcwake", "-m", "freeze", "-s", "6"]).check_returncode()
    began = time.monotonic()
    findings = VALIDATORS[lab].end()
    assert time.monotonic() - began > 6  # from the beginning, not the rest
    assert not_passed(findings) == SKIPPED, findings


def validated_over(lab: Lab, what: str, act: Callable[[], None]) -> None:
    """The VM is stopped and goes on, here or elsewhere, while it is validated: its counts do."""
    checks = "--only discovery.smccc,life.paused,life.survives --wait 120"
    command = f"{preloaded.GUESTPV} validate --tap {checks} >/tmp/validated"
    lab.run(["sh", "-c", f"rm -f /tmp/validated; setsid {command} </dev/null 2>/dev/null &"])
    lab.run(["sh", "-c", "until grep -q '^ok 1 ' /tmp/validated; do sleep 0.2; done"], timeout=60)
    act()
    lab.run(["sh", "-c", "while pgrep -f '[g]uestpv validate' >/dev/null; do sleep 0.2; done"])
    validated = lab.run(["cat", "/tmp/validated"]).stdout
    assert "text: it stood still for about" in validated
    assert "text: across a stop of about" in validated
    CAUGHT.setdefault("life.paused", []).append(what)


def test_moves_under_load_keep_the_counts(labs, times):
    lab = labs("stock-6.1")
    before = json.loads(guestpv(lab, "read", "--json"))["cpus"]
    lab.steal(40)
    spin = "for cpu in 0 1; do taskset -c $cpu sh -c 'while :; do :; done' & done >/dev/null"
    watch = f"{preloaded.GUESTPV} watch --json >/tmp/watched"
    detached = "</dev/null 2>/dev/null &"
    lab.run(["sh", "-c", f"({spin}) {detached} setsid {watch} {detached}"])

    def move_slowly() -> None:
        lab.qmp("stop")
        time.sleep(2)  # which an RTC shows
        lab.move()

    for _ in range(times - 1):
        lab.move()
    validated_over(lab, f"moved {times} times under load", move_slowly)
    lab.run(["sh", "-c", "pkill -f '[g]uestpv watch'; pkill -f '[w]hile :'"])
    lab.steal(0)

    lines = lab.run(["cat", "/tmp/watched"]).stdout.splitlines()
    watched = [json.loads(line) for line in lines if line.endswith("}")]
    assert len(watched) > times
    for cpu in range(2):
        counts = [line["cpus"][cpu]["stolen_ns"] for line in watched]
        assert counts == sorted(counts)
        assert counts[0] >= before[cpu]["stolen_ns"]
        assert {line["cpus"][cpu]["epoch"] for line in watched} == {before[cpu]["epoch"]}
    assert not [line["events"] for line in watched if line["events"]]


def test_a_vm_that_is_saved_and_restored_keeps_its_counts(labs):
    lab = labs("stock-6.1")

    def act() -> None:
        saved = lab.save()
        time.sleep(3)
        lab.restore(saved)

    validated_over(lab, "saved and restored", act)


def test_each_check_has_a_fault_that_trips_it(request):
    """The table of both, and its holes."""
    calls = [getattr(item, "callspec", None) for item in request.session.items]
    faults = [call.params.get("fault") for call in calls if call]
    ran = {fault.check for fault in faults if isinstance(fault, Fault)}
    assert CAUGHT.keys() >= ran
    for id in CHECKS:
        faults = CAUGHT.get(id) or [ELSEWHERE.get(id, "a hole: no fault tripped it")]
        print(f"{id:24} {'; '.join(faults)}")
    owned = {fault.check for fault in (*PAUSED, *CLAIM, *STOCK)}
    assert owned | ELSEWHERE.keys() == CHECKS.keys()
    assert owned.isdisjoint(ELSEWHERE)
    print(f"{'no check':24} moved to a host without the feature: it refuses (test_moving.py)")
