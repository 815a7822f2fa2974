# SPDX-License-Identifier: MIT
"""Where the lab's guests have their structures, and what the host sees and changes there."""

from guestpv.page import abi
from pvlab import Lab

BASE = 0x090A0000
"""Where QEMU's virt machine puts the first structure; the next follow at 64 bytes."""


def ipa(vcpu: int) -> int:
    return BASE + abi.STRUCTURE_ALIGNMENT * vcpu


def count(lab: Lab, vcpu: int) -> int:
    """A vCPU's count, as it stands in memory."""
    return int.from_bytes(lab.read_guest_memory(ipa(vcpu) + 8, 8), "little")


def add(lab: Lab, vcpu: int, ns: int) -> None:
    """Change a count by so much."""
    lab.write_guest_memory(ipa(vcpu) + 8, (count(lab, vcpu) + ns).to_bytes(8, "little"))
