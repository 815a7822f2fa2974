# SPDX-License-Identifier: MIT
"""guestpv validate on a real hypervisor: healthy, and with each promise broken on purpose.

Each fault is made by the host, in KVM or in the guest's memory, and the check that owns it must
catch it. At the end stands a table of both; a check that no fault trips is in it as a hole.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass

import pytest

from guestpv import layout
from pvlab import Lab

BASE = 0x090A0000
"""Where QEMU's virt machine puts the first structure; the next follow at 64 bytes."""
RAM = 0x40000000

ST, FEATURES, ARCH_FEATURES = layout.PV_TIME_ST, layout.PV_TIME_FEATURES, 0x80000001
REFUSED = -1

Arrange = Callable[[Lab], AbstractContextManager[None]]


@dataclass(frozen=True)
class Fault:
    """What the host does wrong, and the check that must catch it."""

    name: str
    check: str
    arrange: Arrange
    options: str = ""
    verdict: str = "fail"
    says: str = ""


CAUGHT: dict[str, list[str]] = {}
"""By check, the faults that it was seen to catch in this run."""


def ipa(vcpu: int) -> int:
    return BASE + layout.STRUCTURE_ALIGNMENT * vcpu


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


def moved_at_hotplug(lab: Lab) -> AbstractContextManager[None]:
    return lab.answering(call=ST, vcpu=1, answer=ipa(2))


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
    """The count goes on by itself, or back, a few times a second."""
    program = f"""
import time
count = {1 << 50}
while True:
    count += {by_ns}
    write(8, count.to_bytes(8, "little"))
    time.sleep(0.3)
"""
    return lambda lab: lab.writing(ipa(vcpu), program)


def at_its_end(lab: Lab) -> AbstractContextManager[None]:
    """KVM adds to what stands there, so it has to be written again and again."""
    return lab.writing(ipa(1), "while True: write(8, bytes([255] * 8))")


@contextmanager
def frozen(lab: Lab) -> Iterator[None]:
    with lab.frozen():
        lab.steal(40)
        try:
            yield
        finally:
            lab.steal(0)


@contextmanager
def kept_over_hotplug(lab: Lab) -> Iterator[None]:
    hour = (1 << 42).to_bytes(8, "little")
    with wrote(1, 8, hour)(lab), lab.not_restarting(vcpu=1):
        yield


@contextmanager
def meanwhile(lab: Lab, act: Callable[[], None]) -> Iterator[None]:
    """Something happens while the command runs: it has begun to wait for it."""
    thread = threading.Timer(6, act)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def paused(seconds: float) -> Arrange:
    return lambda lab: meanwhile(lab, lambda: lab.pause(seconds))


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
        answering(call=FEATURES, arg=layout.PV_TIME_UNDEFINED, answer=0),
    ),
    Fault(
        "the 32-bit calls are vouched for",
        "discovery.smc32",
        answering(call=FEATURES, arg=layout.PV_TIME_ST_SMC32, answer=0),
    ),
    Fault(
        "a refusal that is none",
        "discovery.refusals",
        answering(call=FEATURES, arg=layout.PV_TIME_ST_DRAFT, answer=-2),
    ),
    Fault(
        "one vCPU is offered the draft's number, too",
        "discovery.alike",
        answering(call=FEATURES, arg=layout.PV_TIME_ST_DRAFT, vcpu=1, answer=0),
    ),
    Fault("no structure for one vCPU", "address.given", answering(call=ST, vcpu=1, answer=REFUSED)),
    Fault("unaligned", "address.aligned", answering(call=ST, vcpu=1, answer=ipa(1) + 8)),
    Fault("beyond the address size", "address.range", answering(call=ST, vcpu=1, answer=1 << 53)),
    Fault("in System RAM", "address.ram", answering(call=ST, vcpu=1, answer=RAM + (1 << 24))),
    Fault("one for two vCPUs", "address.apart", answering(call=ST, vcpu=1, answer=ipa(0))),
    Fault("another one after hotplug", "address.stable", moved_at_hotplug, "--disruptive"),
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
    Fault(
        "creeping",
        "counter.still",
        lambda lab: lab.creeping_count(ipa(0), by_ns=5_000),
    ),
    Fault("written in halves", "counter.whole", lambda lab: lab.tearing_count(ipa(0))),
    Fault("forward by an hour", "host.agrees", stepping(0, 3600 * 10**9)),
    Fault(
        "paused for 10 s", "life.paused", paused(10), "--wait 30", "warn", "stood still for about"
    ),
    Fault("moved, and the count was lost", "life.survives", lost_in_a_pause, "--wait 30"),
    Fault("not restarted by hotplug", "life.hotplug", kept_over_hotplug, "--disruptive"),
    Fault("set back", "life.suspend", stepping(0, -(10**9)), "--disruptive"),
]
STOCK = [
    Fault("set back", "kernel.agrees", stepping(0, -(10**9))),
    Fault("set back", "kernel.forward", stepping(0, -(10**9))),
    Fault(
        "hotplug: Linux's own defect",
        "kernel.hotplug",
        lambda lab: nullcontext(),
        "--disruptive",
        "warn",
        "a known defect of Linux",
    ),
    Fault("set back", "life.reload", stepping(0, -(10**9)), "--disruptive"),
]


# ---- the guest ----


def guestpv(lab: Lab, *arguments: str, expect: int = 0) -> str:
    done = lab.run(["guestpv", *arguments])
    assert done.returncode == expect, (arguments, done)
    assert "Traceback" not in done.stderr
    return done.stdout


def claim_again(lab: Lab) -> None:
    """As `guestpv unload` and `guestpv load` do. From the first CPU: a fault may be another's."""
    insert = "rmmod guestpv && taskset -c 0 insmod /lib/modules/$(uname -r)/extra/guestpv.ko"
    done = lab.run(["sh", "-c", insert])
    assert done.returncode == 0, done.stderr


def verdicts(report: str) -> dict[str, dict[str, str]]:
    return {check["id"]: check for check in json.loads(report)["checks"]}


def validate(lab: Lab, *options: str) -> dict[str, dict[str, str]]:
    done = lab.run(["guestpv", "validate", "--json", "--quick", *options])
    assert done.returncode in (0, 11), done
    return verdicts(done.stdout)


@pytest.fixture(scope="module")
def labs() -> Iterator[Callable[[str], Lab]]:
    """One lab at a time, kept as long as its kernel is the one that is wanted."""
    with ExitStack() as stack:
        running: dict[str, Lab] = {}

        def lab(kernel: str) -> Lab:
            if kernel not in running:
                stack.close()
                running.clear()
                running[kernel] = stack.enter_context(Lab(kernel=kernel, memory_mb=384, load=True))
            return running[kernel]

        yield lab


@pytest.mark.parametrize("fault", CLAIM, ids=lambda fault: f"{fault.name} - {fault.check}")
def test_a_fault_is_caught_where_guestpv_claims(labs, fault):
    caught(labs("claim-6.1"), fault)


@pytest.mark.parametrize("fault", STOCK, ids=lambda fault: f"{fault.name} - {fault.check}")
def test_a_fault_is_caught_where_guestpv_adopts(labs, fault):
    caught(labs("stock-6.1"), fault)


def caught(lab: Lab, fault: Fault) -> None:
    with fault.arrange(lab):
        check = validate(lab, "--only", fault.check, *fault.options.split())[fault.check]
    print(f"{fault.name}: {fault.check} says {check['verdict']}: {check['text']}")
    assert check["verdict"] == fault.verdict
    assert fault.says in check["text"] + check["advice"]
    CAUGHT.setdefault(fault.check, []).append(fault.name)
