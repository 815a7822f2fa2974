# SPDX-License-Identifier: MIT
"""A guest of the lab that is judged: what the tests of `guestpv validate` there share."""

import json
import select
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import preloaded
from structures import ipa

from pvlab import Lab

# One process for many runs, since its start would take longer than they do.
VALIDATOR = """
import json, os, sys, time
from guestpv.validate import Guest, HostAccount, Options, run, select
account = HostAccount.parse(os.environ["GUESTPV_HOST_ACCOUNT"])
print("ready", flush=True)
for line in sys.stdin:
    only, options = json.loads(line)
    began = time.monotonic()
    guest = Guest(options=Options(host_account=account, **options))
    findings, after_s, long_gaps, long_waits = {}, {}, [], []
    for outcome in run(select(only), guest):
        found = outcome.finding
        findings[outcome.check.id] = found.verdict, found.text, found.advice
        after_s[outcome.check.id] = time.monotonic() - began
        long_gaps = found.figures.get("long_gaps", long_gaps)
        long_waits = found.figures.get("long_waits", long_waits)
    guest.reader.close()
    print(json.dumps([findings, after_s, long_gaps, long_waits]), flush=True)
"""

# As the host's clock goes on, and not from what stands there: of what KVM writes nothing is lost
# but what comes between a read and the write after it.
GOING_ON = """
import os, time
os.sched_setaffinity(0, {{max(os.sched_getaffinity(0))}})
was = time.monotonic_ns()
while True:
    now = time.monotonic_ns()
    step = (now - was) * {ppm} // 1_000_000
    if step:
        was += step * 1_000_000 // {ppm}
        write(8, (int.from_bytes(read(8, 8), "little") + step).to_bytes(8, "little"))
"""


class Validator:
    """Runs checks in the guest of a lab, as often as it is asked to."""

    def __init__(self, lab: Lab) -> None:
        command = lab.guest.argv([*preloaded.COMMAND, "-c", VALIDATOR])
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self.after_s: dict[str, float] = {}
        """Of the last run: by check, how long after its beginning that was judged."""
        self.long_gaps: list[list[int]] = []
        """And what it was judged by: LONG_GAP,"""
        self.long_waits: list[list[int]] = []
        """and the CPU and its NAP."""
        assert self._read() == "ready\n"

    def begin(self, *only: str, observe_s: float = 2, **options: Any) -> None:
        assert self._process.stdin
        request = json.dumps([only, {"observe_s": observe_s, **options}])
        print(request, file=self._process.stdin, flush=True)

    def end(self) -> dict[str, list[str]]:
        """Verdict, text and advice by check."""
        findings: dict[str, list[str]]
        findings, self.after_s, self.long_gaps, self.long_waits = json.loads(self._read())
        return findings

    def run(self, *only: str, **options: Any) -> dict[str, list[str]]:
        self.begin(*only, **options)
        return self.end()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _read(self) -> str:
        assert self._process.stdout
        assert select.select([self._process.stdout], [], [], 180)[0], "the guest does not answer"
        return self._process.stdout.readline()


VALIDATORS: dict[Lab, Validator] = {}
"""Of the lab that runs."""


@contextmanager
def labs_in_turn() -> Iterator[Callable[..., Lab]]:
    """One lab at a time, kept as long as it is the one that is wanted: see Lab for the words."""
    with ExitStack() as stack:
        running: dict[str, Lab] = {}

        def lab(kernel: str, **spec: Any) -> Lab:
            key = json.dumps([kernel, spec], sort_keys=True)
            if key not in running:
                VALIDATORS.clear()
                stack.close()
                running.clear()
                wanted = Lab(kernel=kernel, load=True, prepare=preloaded.START, **spec)
                running[key] = stack.enter_context(wanted)
                VALIDATORS[running[key]] = validator = Validator(running[key])
                stack.callback(validator.close)
            return running[key]

        yield lab


def going_on(lab: Lab, vcpu: int, part: float) -> AbstractContextManager[None]:
    """The count of a vCPU goes on by this part of the host's clock, whatever the vCPU does."""
    return lab.writing(ipa(vcpu), GOING_ON.format(ppm=round(1e6 * part)))


def pin_vcpus(lab: Lab, *cpus: str) -> None:
    """Each vCPU may run on the host's CPUs in its list."""
    for vcpu in lab.qmp("query-cpus-fast"):
        allowed = cpus[vcpu["cpu-index"]]
        pin = ["taskset", "--pid", "--cpu-list", allowed, str(vcpu["thread-id"])]
        lab.host.run(pin).check_returncode()


def guestpv(lab: Lab, *arguments: str, expect: int = 0) -> str:
    done = preloaded.guestpv(lab, *arguments)
    assert done.returncode == expect, (arguments, done)
    assert "Traceback" not in done.stderr
    return done.stdout


def claim_again(lab: Lab) -> None:
    """As `guestpv unload` and `guestpv load` do, in less time."""
    insert = "rmmod guestpv && insmod /lib/modules/$(uname -r)/extra/guestpv.ko"
    done = lab.run(["sh", "-c", insert])
    assert done.returncode == 0, done.stderr


def load_again(lab: Lab) -> None:
    guestpv(lab, "unload")
    guestpv(lab, "load")
