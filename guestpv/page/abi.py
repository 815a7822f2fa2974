# SPDX-License-Identifier: MIT
"""The numbers of kmod/uapi/guestpv.h, which documents them, in Python."""

from enum import IntEnum
from typing import Self

DEVICE = "/dev/guestpv"

MAGIC = 0x0056505453455547
ABI_VERSION = 1

PV_TIME_FEATURES = 0xC5000020
PV_TIME_ST = 0xC5000021
PV_TIME_ST_DRAFT = 0xC5000022

PV_TIME_UNDEFINED = 0xC500003F
PV_TIME_FEATURES_SMC32 = 0x85000020
PV_TIME_ST_SMC32 = 0x85000021
"""This and the two before it must be refused."""

FLAG_PROBE = 1
"""In the header's flags: nothing but the index is mapped."""

FLAG_SIMULATED = 2
"""In the header's flags: no hypervisor wrote this, but a simulation: nothing was stolen."""

NO_COUNT = 2**64 - 1
"""In place of the first count of an epoch: none was seen that can be interpreted."""

NOT_CALLED = -(2**63)
"""In place of a return value: the call was not made."""

NOT_SUPPORTED = (-1, 0xFFFFFFFF)
"""How a hypervisor refuses: as an int64, as the merged interface does, or as the draft's int32."""

REFUSAL_BIT = 0x80000000
"""Set in a refusal, whichever error code it is, as an int32 or an int64."""

STRUCTURE_ALIGNMENT = 64
"""Bytes to which a structure is aligned (DEN0057A, 3.2.2)."""


class Conduit(IntEnum):
    """How SMCCC calls reach the hypervisor."""

    NONE = 0
    SMC = 1
    HVC = 2


class State(IntEnum):
    """What can be said of a CPU's structure."""

    ABSENT = 0
    """The CPU is offline, and without a structure."""
    ONLINE = 1
    """The CPU is online and its structure is live."""
    OFFLINE = 2
    """The CPU is offline; its structure can still be read and holds the last count."""
    REFUSED = 3
    """The CPU is online, but has no structure that can be trusted; its fault says why."""
    STARTING = 4
    """The CPU is on its way up or down; its count may be starting again, and can't be read."""


GONE = (State.OFFLINE, State.ABSENT)
"""Of a CPU on which nothing runs, and whose count stands still or is not there."""


class Origin(IntEnum):
    """How the structure's address was learned."""

    NONE = 0
    """It was not."""
    ADOPTED = 1
    """The kernel owns the structure; its mapping is used."""
    CLAIMED = 2
    """Nobody owned the structure; the module called PV_TIME_ST."""


class _Explained(IntEnum):
    """Numbers that say in words what they mean."""

    text: str

    def __new__(cls, value: int, text: str) -> Self:
        member = int.__new__(cls, value)
        member._value_ = value
        member.text = text
        return member


class Fault(_Explained):
    """Why a structure was refused; `text` says it in words."""

    NONE = 0, "no fault"
    NOT_SUPPORTED = 1, "the hypervisor answered NOT_SUPPORTED"
    NO_REGION = 2, "the kernel mapped no structure"
    UNALIGNED = 3, "the address is zero or not 64-byte aligned"
    OUT_OF_RANGE = 4, "the address is beyond the physical address size"
    SYSTEM_RAM = 5, "the address is in System RAM"
    OVERLAP = 6, "another CPU has the same structure"
    NO_SLOT = 7, "no page of the mapping is left"
    UNREADABLE = 8, "the structure could not be mapped or read"
    MISMATCH = 9, "the count is not the one that the kernel reads"
    SHARED_PAGE = 10, "memory of a device is in the same page"
    PROBED = 11, "the module was loaded to probe only"


class Reason(_Explained):
    """Why an epoch began; `text` says it in words that a line of 80 columns has room for."""

    NONE = 0, "none has begun yet"
    FIRST_SEEN = 1, "seen for the first time"
    HOTPLUG = 2, "lower when the CPU came online"
    FOUND_LOWER = 3, "found lower, nobody said why"
    """Than at an earlier look of the module, and nothing is known to have happened."""
    RESTORED = 4, "lower after a restore or resume"
    """Of the VM, restored or cloned, or of the machine, resumed from hibernation."""
    RELEARNED = 5, "structure at another address"


CALLS = {
    "arch_features": f"SMCCC_ARCH_FEATURES({PV_TIME_FEATURES:#x})",
    "features_self": f"PV_TIME_FEATURES({PV_TIME_FEATURES:#x})",
    "features_st": f"PV_TIME_FEATURES({PV_TIME_ST:#x})",
    "features_st_draft": f"PV_TIME_FEATURES({PV_TIME_ST_DRAFT:#x})",
    "features_undefined": f"PV_TIME_FEATURES({PV_TIME_UNDEFINED:#x})",
    "features_st_smc32": f"PV_TIME_FEATURES({PV_TIME_ST_SMC32:#x})",
    "features_smc32": f"{PV_TIME_FEATURES_SMC32:#x}({PV_TIME_FEATURES:#x})",
    "st_return": "PV_TIME_ST",
}
"""The calls of discovery, in their order, by the field of `ENTRY` that has what they returned."""


class PerfEvent(IntEnum):
    """An event of the PMU ``guestpv``: ``perf_event_attr.config``."""

    STOLEN = 0
    """Nanoseconds that were stolen, as far as they are known."""
    UNKNOWN = 1
    """Nanoseconds of which nobody can tell how many were stolen."""
