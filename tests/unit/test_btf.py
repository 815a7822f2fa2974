# SPDX-License-Identifier: MIT
"""BTF: the right offset from a whole one, a clear refusal of any other, and no long search."""

import struct
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestpv.driver import btf
from guestpv.errors import FormatError

VMLINUX = Path("/sys/kernel/btf/vmlinux")


class Builder:
    """Writes BTF, one type after the other, as the kernel's build does."""

    def __init__(self, order="="):
        self.order = order
        self.strings = b"\0"
        self.names = {"": 0}
        self.types = b""
        self.last_id = 0

    def add(self, kind, name="", members=0, words=()):
        if name not in self.names:
            self.names[name] = len(self.strings)
            self.strings += name.encode() + b"\0"
        record = (self.names[name], kind << 24 | members, 0, *words)
        self.types += struct.pack(f"{self.order}{len(record)}I", *record)
        self.last_id += 1
        return self.last_id

    def datasec(self, name, variables):
        words = [word for variable, offset in variables for word in (variable, offset, 8)]
        return self.add(15, name, len(variables), words)

    def build(self):
        sizes = (0, len(self.types), len(self.types), len(self.strings))
        header = struct.pack(f"{self.order}HBBIIIII", 0xEB9F, 1, 0, 24, *sizes)
        return header + self.types + self.strings


def kernel(order="=", region=0x40, cpustat=0x1000):
    """One type of each kind before the variables: passing them takes knowing their lengths."""
    b = Builder(order)
    b.add(1, "int", words=[32])
    b.add(2)
    b.add(3, words=[1, 1, 4])
    b.add(4, "thread", 2, [0] * 6)
    b.add(5, "either", 3, [0] * 9)
    b.add(6, "state", 4, [0] * 8)
    for kind in (7, 8, 9, 10, 11):
        b.add(kind, "name")
    b.add(13, members=3, words=[0] * 6)
    b.add(12, "schedule")
    b.add(16, "double")
    b.add(17, "tag", words=[0])
    b.add(18, "user")
    b.add(19, "wide", 2, [0] * 6)
    variables = [
        (b.add(14, name, words=[1]), offset)
        for name, offset in (
            ("kernel_cpustat", cpustat),
            ("runqueues", 0x2000),
            *([("stolen_time_region", region)] if region is not None else []),
        )
    ]
    b.datasec(".data", [(b.add(14, "kernel_cpustat_other", words=[1]), 0)])
    b.datasec(".data..percpu", variables)
    return b


def test_offset_of_a_per_cpu_variable():
    whole = kernel().build()
    assert btf.percpu_offset(whole, "stolen_time_region") == 0x40
    assert btf.percpu_offset(whole, "runqueues") == 0x2000


def test_adoption_needs_the_distance_of_two_variables():
    assert btf.adopt_offset(kernel().build()) == 0x40 - 0x1000


def test_kernel_without_the_region_has_nothing_to_adopt():
    assert btf.adopt_offset(kernel(region=None).build()) is None


def test_variable_of_another_section_is_not_taken():
    with pytest.raises(FormatError, match="kernel_cpustat_other is there 0 times"):
        btf.percpu_offset(kernel().build(), "kernel_cpustat_other")


def test_two_variables_of_one_name_are_not_guessed_between():
    b = kernel()
    again = [b.add(14, "stolen_time_region", words=[1]) for _ in range(2)]
    b.datasec(".data..percpu", [(variable, 8) for variable in again])
    with pytest.raises(FormatError, match="3 times"):
        btf.adopt_offset(b.build())


def test_section_entry_that_is_no_variable():
    b = kernel()
    b.datasec(".data..percpu", [(1, 0)])
    with pytest.raises(FormatError, match="Type 1 in"):
        btf.adopt_offset(b.build())


def test_other_byte_order():
    other = ">" if sys.byteorder == "little" else "<"
    with pytest.raises(FormatError, match="magic number"):
        btf.adopt_offset(kernel(other).build())


def test_other_version():
    whole = bytearray(kernel().build())
    whole[2] = 2
    with pytest.raises(FormatError, match="version is 2"):
        btf.adopt_offset(bytes(whole))


def test_unknown_kind():
    b = kernel()
    b.add(25)
    with pytest.raises(FormatError, match="unknown kind 25"):
        btf.adopt_offset(b.build())


def test_every_truncation_is_refused():
    whole = kernel().build()
    for size in range(len(whole)):
        with pytest.raises(FormatError):
            btf.adopt_offset(whole[:size])


@given(st.binary(max_size=400))
def test_garbage_is_refused(garbage):
    with pytest.raises(FormatError):
        btf.adopt_offset(garbage)


@given(st.data())
def test_damaged_is_refused_or_read(data):
    """Any bytes may be wrong; the answer is an offset, or a FormatError, never anything else."""
    damaged = bytearray(kernel().build())
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with suppress(FormatError):
        assert isinstance(btf.adopt_offset(bytes(damaged)), int | None)


@pytest.mark.skipif(not VMLINUX.exists(), reason="this kernel has no BTF")
def test_this_kernels_own():
    assert btf.percpu_offset(VMLINUX.read_bytes(), "kernel_cpustat") > 0
