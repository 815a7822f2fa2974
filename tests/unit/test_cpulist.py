# SPDX-License-Identifier: MIT
"""CPU lists, as the kernel writes them and users type them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestpv import NoSuchCpuError
from guestpv.cpulist import CpuList, listed


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("0", (0,)), ("0,2-5", (0, 2, 3, 4, 5)), (" 1 , 3", (1, 3)), ("2-2", (2,)), ("5,0", (0, 5))],
)
def test_list(text, cpus):
    assert CpuList.parse(text).choose(range(8)) == cpus


@pytest.mark.parametrize(
    "text", ["", ",", "a", "-1", "1-", "3-1", "1-2-3", "1.5", "²", "0,", "0x1"]
)
def test_no_list(text):
    with pytest.raises(ValueError, match=r"CPU number|counts down"):
        CpuList.parse(text)


@pytest.mark.parametrize("text", ["8", "0-8", "0,99", "0-99999999999999999999"])
def test_cpu_that_does_not_exist(text):
    with pytest.raises(NoSuchCpuError, match="use 0-7"):
        CpuList.parse(text).choose(range(8))


@given(st.sets(st.integers(0, 200), min_size=1))
def test_written_and_parsed_again(cpus):
    text = listed(sorted(cpus))
    assert CpuList.parse(text).choose(range(201)) == tuple(sorted(cpus))
