# SPDX-License-Identifier: MIT
"""tests/guest, run where they belong: in the lab's guest, on each kernel."""

import subprocess
import threading
from typing import Any

from pvlab import Lab, progress

INDIFFERENT = ("run", "plugins", "jitter", "happening", "pmu_cost", "example", "validate")
"""To who owns the structures: these are run where the kernel does, or with --matrix."""

PYTEST = "timeout 600 python3 -m pytest -v -rsR --reruns 1 --color=no --durations=10 tests/guest"
"""What fails at a bad moment of the machine is tried once more in there, and named at the end."""


def run_suite(machine: dict[str, Any], *, everything: bool, steal: int) -> None:
    """Those of the tests that are for a guest from which the host takes time, or the others."""
    left_out = () if everything or machine["kernel"] != "claim-6.1" else INDIFFERENT
    ignored = [f"--ignore tests/guest/test_{name}.py" for name in left_out]
    chosen = "contended" if steal else "'not contended or anyway'"
    with Lab(vcpus=2, steal=steal, **machine) as lab:
        assert _run_aloud(lab, " ".join([PYTEST, "-m", chosen, *ignored])) == []
        log = lab.run(["dmesg"]).stdout
        assert not [line for line in log.splitlines() if "WARNING" in line or "BUG" in line]


def _run_aloud(lab: Lab, command: str, timeout: float = 660) -> list[str]:
    """Run pytest in the guest and show each line as it comes: it takes minutes.

    Returns what it says has failed, a line each: an assertion about it says so, too.
    """

    def give_up() -> None:
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
