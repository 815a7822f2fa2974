# SPDX-License-Identifier: MIT
"""tests/guest, run where they belong: in the lab's guest, on each kernel, under contention."""

import pytest

from pvlab import Lab

SUITE = "cd /root && python3 -m pytest -v --durations=5 tests/guest"


@pytest.mark.parametrize("kernel", ["stock-6.1", "stock-6.12", "claim-6.1"])
def test_guest_suite(kernel):
    with Lab(kernel=kernel, vcpus=2) as lab:
        for steal, choice in (0, "--ignore tests/guest/test_unharmed.py"), (40, "-k unharmed"):
            lab.steal(steal)
            done = lab.run(["sh", "-c", f"{SUITE} {choice}"], timeout=600)
            print(done.stdout, done.stderr)
            assert done.returncode == 0
        log = lab.run(["dmesg"]).stdout
        assert not [line for line in log.splitlines() if "WARNING" in line or "BUG" in line]
