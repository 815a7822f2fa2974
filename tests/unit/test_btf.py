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

    def __init__(self, order="=", layout=None):
        """*layout*: by kind, the bytes of a type once and for each member; None as before 7.1."""
        self.order = order
        self.layout = layout
        self.strings = b"\0"
        self.names = {"": 0}
        self.types = b""
        self.last_id = 0

    def add(self, kind, name="", members=0, words=()):
        if name not in self.names:
            self.names[name] = len(self.strings)
            self.strings += name.encode() + b"\0"
        kind_flag = self.last_id % 2 << 31  # it is of no importance here
        record = (self.names[name], kind_flag | kind << 24 | members, 0, *words)
        self.types += struct.pack(f"{self.order}{len(record)}I", *record)
        self.last_id += 1
        return self.last_id

    def datasec(self, name, variables):
        words = [word for variable, offset in variables for word in (variable, offset, 8)]
        return self.add(15, name, len(variables), words)

    def build(self):
        layout = b""
        sizes = [0, len(self.types), len(self.types), len(self.strings)]
        if self.layout is not None:
            layout = b"".join(struct.pack(f"{self.order}BBH", *each, 0) for each in self.layout)
            sizes[2] += len(layout)
            sizes += [len(self.types), len(layout)]
        fixed = (0xEB9F, 1, 0, 8 + 4 * len(sizes))
        header = struct.pack(f"{self.order}HBBI{len(sizes)}I", *fixed, *sizes)
        return header + self.types + layout + self.strings


# As Linux has them: nothing, int, ptr, array, struct, ... enum64.
LAYOUT = [
    *((0, 0), (4, 0), (0, 0), (12, 0), (0, 12), (0, 12), (0, 8), (0, 0), (0, 0), (0, 0)),
    *((0, 0), (0, 0), (0, 0), (0, 8), (4, 0), (0, 12), (0, 0), (4, 0), (0, 0), (0, 12)),
]
NEW_KINDS = [(4, 4), (0, 4), (0, 12)]  # location parameters, prototypes and sections, soon


def kernel(order="=", region=0x40, cpustat=0x1000, layout=None, new=lambda b: None):
    """One type of each kind before the variables: passing them takes knowing their lengths."""
    b = Builder(order, layout)
    new(b)
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
            ("stolen_time_region", region),
        )
        if offset is not None
    ]
    b.datasec(".data", [(b.add(14, "kernel_cpustat", words=[1]), 0)])
    b.datasec(".data..percpu", variables)
    return b


@pytest.mark.parametrize(("region", "cpustat"), [(0x40, 0x1000), (0x1000, 0x40), (0, 0x40)])
def test_adoption_needs_the_distance_of_two_variables(region, cpustat):
    whole = kernel(region=region, cpustat=cpustat).build()
    assert btf.adopt_offset(whole) == region - cpustat


def test_kernel_without_the_region_has_nothing_to_adopt():
    assert btf.adopt_offset(kernel(region=None).build()) is None


def test_variable_of_another_section_is_not_taken():
    """kernel() has a kernel_cpustat in .data, too."""
    with pytest.raises(FormatError, match="kernel_cpustat is there 0 times"):
        btf.adopt_offset(kernel(cpustat=None).build())


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
    with pytest.raises(FormatError, match=r"newer than this guestpv: .*version 2.*update guestpv"):
        btf.adopt_offset(bytes(whole))


@pytest.mark.parametrize("layout", [None, [], LAYOUT])
@pytest.mark.parametrize("kind", [20, 31, 32 + 14, 127])
def test_unknown_kind_of_unknown_length_says_which_is_too_old(layout, kind):
    whole = kernel(layout=layout, new=lambda b: b.add(kind)).build()
    with pytest.raises(FormatError, match=rf"newer than this guestpv: .*kind {kind}.*update"):
        btf.adopt_offset(whole)


def test_kind_zero_is_none_whatever_the_layout_says():
    with pytest.raises(FormatError, match="kind 0"):
        btf.adopt_offset(kernel(layout=[(4, 4), *LAYOUT[1:]], new=lambda b: b.add(0)).build())


def test_unknown_kinds_are_skipped_by_the_layout():
    def new(b):
        b.add(20, members=2, words=[8, 31, 16])
        b.add(21, members=3, words=[1, 0, 1])
        b.add(22, "inline.text", 2, [0] * 6)

    whole = kernel(layout=LAYOUT + NEW_KINDS, new=new).build()
    assert btf.adopt_offset(whole) == 0x40 - 0x1000


@given(
    kinds=st.lists(
        st.tuples(st.integers(0, 63), st.integers(0, 63), st.integers(0, 3)),
        min_size=1,
        max_size=108,
    )
)
def test_any_kind_of_any_length_is_skipped(kinds):
    """Up to kind 127, each with some types: (words once, words per member, members)."""

    def new(b):
        for kind, (once, member, members) in enumerate(kinds, 20):
            b.add(kind, "new", members, [0] * (once + member * members))

    layout = LAYOUT + [(4 * once, 4 * member) for once, member, _ in kinds]
    assert btf.adopt_offset(kernel(layout=layout, new=new).build()) == 0x40 - 0x1000


@pytest.mark.parametrize("length", [(2, 0), (0, 2)])
def test_layout_that_does_not_keep_types_aligned_is_refused(length):
    whole = kernel(layout=[*LAYOUT, length], new=lambda b: b.add(20)).build()
    with pytest.raises(FormatError, match="kind 20"):
        btf.adopt_offset(whole)


@pytest.mark.parametrize("size", [4 * len(LAYOUT) - 1, 1 << 20])
def test_layout_of_another_size_than_there_is_is_refused(size):
    whole = bytearray(kernel(layout=LAYOUT).build())
    whole[28:32] = struct.pack("=I", size)
    with pytest.raises(FormatError):
        btf.adopt_offset(bytes(whole))


@pytest.mark.parametrize("members", [0xFFFF, 0x10000, 0x10001])
def test_more_members_than_16_bits_can_count(members):
    def new(b):
        b.add(6, "large", members, [0] * (2 * members))

    assert btf.adopt_offset(kernel(layout=LAYOUT, new=new).build()) == 0x40 - 0x1000


@pytest.mark.parametrize("layout", [None, LAYOUT])
def test_every_truncation_is_refused(layout):
    whole = kernel(layout=layout).build()
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
    layout = data.draw(st.sampled_from([None, LAYOUT, LAYOUT + NEW_KINDS]))
    damaged = bytearray(kernel(layout=layout).build())
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with suppress(FormatError):
        assert isinstance(btf.adopt_offset(bytes(damaged)), int | None)


@pytest.mark.skipif(not VMLINUX.exists(), reason="this kernel has no BTF")
def test_this_kernels_own():
    """Whether it owns the structures or not."""
    variables = dict(btf._percpu_variables(VMLINUX.read_bytes()))
    assert variables[b"kernel_cpustat"] > 0
