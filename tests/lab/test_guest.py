# SPDX-License-Identifier: MIT
"""tests/guest, run where they belong: in the lab's guest, on each kernel, under contention."""

import subprocess
import threading

import pytest

from pvlab import Lab, progress

CONTENDED = ("unharmed", "storm", "restart", "pmu", "run", "plugins", "jitter")
"""What is run while the host takes time away."""
INDIFFERENT = ("run", "plugins", "jitter", "happening", "pmu_cost", "example")
"""To who owns the structures: these are run where the kernel does, or with --matrix."""

SUITE = "timeout 600 python3 -m pytest -v -rsR --reruns 1 --color=no --durations=10"
"""What fails at a bad moment of the machine is tried once more in there, and named at the end."""


def run_aloud(lab, command, timeout=660):
    """Run pytest in the guest and show each line as it comes: it takes minutes.

    Returns what it says has failed, a line each: an assertion about it says so, too.
    """

    def give_up():
        progress.say(f"guest: {command} did not end within {timeout} s")
        lab.guest.stop()

    # The connection's master holds the pipe as well: to end ssh alone would not end the reading.
    limit = threading.Timer(timeout, give_up)
    limit.daemon = True
    limit.start()
    with subprocess.Popen(
        lab.guest.argv(["sh", "-c", f"cd /root && {command}"]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout
        lines = []
        for line in process.stdout:
            lines.append(line.rstrip())
            progress.say(f"guest: {lines[-1]}")
    limit.cancel()
    if process.returncode == 255:
        lab.guest.check()
    failed = [line for line in lines if line.startswith(("FAILED ", "ERROR "))]
    return failed if failed or process.returncode == 0 else lines[-20:]


def file_of(name):
    return f"tests/guest/test_{name}.py"


@pytest.mark.flaky(reruns=0)
def test_guest_suite(machine, pytestconfig):
    everything = machine["kernel"] != "claim-6.1" or pytestconfig.getoption("--matrix")
    left_out = () if everything else INDIFFERENT
    contended = [file_of(name) for name in CONTENDED if name not in left_out]
    others = ["tests/guest", *(f"--ignore {file_of(name)}" for name in (*CONTENDED, *left_out))]
    with Lab(vcpus=2, **machine) as lab:
        for steal, choice in (0, others), (40, contended):
            lab.steal(steal)
            assert run_aloud(lab, f"{SUITE} {' '.join(choice)}") == []
        log = lab.run(["dmesg"]).stdout
        assert not [line for line in log.splitlines() if "WARNING" in line or "BUG" in line]
