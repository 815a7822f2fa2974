# SPDX-License-Identifier: MIT
"""The guest's tests that are indifferent to what the host takes: the others have a file beside."""

import pytest
from guestsuite import run_suite


@pytest.mark.flaky(reruns=0)
def test_guest_suite(machine, pytestconfig):
    run_suite(machine, everything=pytestconfig.getoption("--matrix"), steal=0)
