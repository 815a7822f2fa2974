# SPDX-License-Identifier: MIT
"""The guest's tests that are for one from which the host takes time."""

import pytest
from guestsuite import run_suite

IN_EVERY_RUN = ["stock-6.1"]
"""What guestpv claims is under contention in tests/lab/test_{truth,validate}.py."""


@pytest.mark.flaky(reruns=0)
def test_guest_suite(machine, pytestconfig):
    run_suite(machine, everything=pytestconfig.getoption("--matrix"), steal=40)
