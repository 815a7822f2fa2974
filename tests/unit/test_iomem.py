# SPDX-License-Identifier: MIT
"""/proc/iomem of an arm64 guest: what an address is in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestpv.validate import iomem
from guestpv.validate.iomem import is_reserved_ram, names_of

GUEST = """\
09000000-09000fff : pl011@9000000
  09000000-09000fff : 9000000.pl011 pl011@9000000
40000000-5fffffff : System RAM
  40210000-4185ffff : Kernel code
  41860000-41dbffff : reserved
  41dc0000-422affff : Kernel data
  5c000000-5dffffff : reserved
60000000-600fffff : reserved
4010000000-401fffffff : PCI ECAM
"""


@pytest.fixture
def guest(tmp_path, monkeypatch):
    monkeypatch.setattr(iomem, "IOMEM", tmp_path / "iomem")
    iomem.IOMEM.write_text(GUEST)


@pytest.mark.parametrize(
    ("address", "names"),
    [
        (0x09000010, ["pl011@9000000", "9000000.pl011 pl011@9000000"]),
        (0x40000000, ["System RAM"]),
        (0x41860000, ["System RAM", "reserved"]),
        (0x5DFFFFFF, ["System RAM", "reserved"]),
        (0x5E000000, ["System RAM"]),
        (0x60000000, ["reserved"]),
        (0x090A0000, []),
    ],
)
def test_an_address_is_in_the_resources_that_have_it(address, names):
    assert names_of(address, GUEST) == names


@pytest.mark.usefixtures("guest")
def test_reserved_ram_is_ram_first():
    assert is_reserved_ram(0x5C000000)
    assert not is_reserved_ram(0x5E000000)  # a program may have it
    assert not is_reserved_ram(0x40210000)  # the kernel's own
    assert not is_reserved_ram(0x60000000)  # not mapped: guestpv maps that


def test_who_is_not_root_sees_nothing(tmp_path, monkeypatch):
    """Zeroes, in which the address 0 would be: none of a structure that is in RAM."""
    monkeypatch.setattr(iomem, "IOMEM", tmp_path / "iomem")
    iomem.IOMEM.write_text("00000000-00000000 : System RAM\n  00000000-00000000 : reserved\n")
    assert not is_reserved_ram(0x5C000000)
    iomem.IOMEM.unlink()
    assert not is_reserved_ram(0x5C000000)


@given(st.text(), st.integers(0, 2**64 - 1))
def test_whatever_stands_there_is_no_error(text, address):
    assert names_of(address, text) == names_of(address, text + "\nnonsense")
