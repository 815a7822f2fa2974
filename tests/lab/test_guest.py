# SPDX-License-Identifier: MIT
"""tests/guest, run where they belong: in the lab's guest, on each kernel, under contention."""

import pytest

from pvlab import Lab


@pytest.mark.parametrize("kernel", ["stock-6.1", "stock-6.12", "claim-6.1"])
def test_guest_suite(kernel):
    with Lab(kernel=kernel, vcpus=2) as lab:
        lab.steal(40)
        done = lab.run(["sh", "-c", "cd /root && python3 -m pytest -q tests/guest"], timeout=600)
        print(done.stdout, done.stderr)
        assert done.returncode == 0
        oops = lab.run(["sh", "-c", "dmesg | grep -E 'WARNING|BUG|Oops|Call trace'"]).stdout
        assert oops == ""
