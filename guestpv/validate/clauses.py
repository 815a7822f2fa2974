# SPDX-License-Identifier: MIT
"""Every promise that stolen time rests on: who makes it, where, and what it is in our own words.

Each check names the one that it checks, and those that it sees broken besides. One that no check
names is a hole, and PROMISES.md beside this file, which is made from here and from the faults of
tests/lab, shows it as one.
"""

from enum import Enum


class Clause(Enum):
    """A promise: where it stands, and what it says."""

    source: str
    """The document and the place in it, or what else it follows from."""
    text: str

    def __init__(self, source: str, text: str) -> None:
        self.source = source
        self.text = text

    def __str__(self) -> str:
        return self.source

    # ---- how a hypervisor is asked ----
    SMCCC_VERSION = (
        "DEN0028, SMCCC_VERSION",
        "There is a conduit, and what is called by it is of version 1.1 or later.",
    )
    ARCH_FEATURES = (
        "DEN0028, SMCCC_ARCH_FEATURES; Linux, pvtime.rst",
        "Asked for PV_TIME_FEATURES, SMCCC_ARCH_FEATURES returns SUCCESS where that is there.",
    )
    EXACTLY_0 = (
        "Linux, arch/arm64/kernel/paravirt.c: has_pv_steal_clock()",
        "SUCCESS is 0 and no greater number, which Linux takes for a refusal.",
    )
    FEATURES_ITSELF = (
        "DEN0057A, PV_TIME_FEATURES; Linux, pvtime.rst",
        "Asked for itself, PV_TIME_FEATURES returns SUCCESS.",
    )
    FEATURES_OFFERS = (
        "DEN0057A, PV_TIME_FEATURES; Linux, pvtime.rst: PV_TIME_ST",
        "Asked for PV_TIME_ST, PV_TIME_FEATURES returns SUCCESS where stolen time is offered.",
    )
    FEATURES_REFUSES = (
        "DEN0057A, PV_TIME_FEATURES: the numbers of PV-time's calls",
        "Asked for a number that is none of PV-time's calls, PV_TIME_FEATURES refuses it.",
    )
    SMC64_ONLY = (
        "DEN0057A; Linux, pvtime.rst: SMC64/HVC64 only",
        "PV-time's calls are there in the 64-bit calling convention only.",
    )
    NOT_SUPPORTED = (
        "DEN0028, return codes; Linux, pvtime.rst",
        "Whatever is refused is refused with NOT_SUPPORTED, -1, and no other negative number.",
    )
    NOT_OFFERED = (
        "DEN0028, NOT_SUPPORTED; Linux, pvtime.rst",
        "A hypervisor that has no stolen time refuses whatever would offer some.",
    )
    UNKNOWN_FUNCTION = (
        "DEN0028, unknown function identifiers",
        "A call of a number that nobody defined is refused, and does nothing.",
    )
    ALIKE = (
        "DEN0057A: a property of the VM",
        "Every vCPU is answered alike.",
    )
    REGISTERS = (
        "DEN0028, register use by SMC64/HVC64 calls",
        "A call leaves x4 to x17 as they were.",
    )
    SVE_HINT = (
        "DEN0028, hint of no live SVE state",
        "The number of a call may have bit 16 set, which changes no answer.",
    )
    UPPER_HALVES = (
        "DEN0028, arguments of 32 bits",
        "The upper half of a register that holds an argument of 32 bits changes no answer.",
    )

    # ---- where a structure is ----
    GIVEN = (
        "DEN0057A, 3.2.2; Linux, pvtime.rst: PV_TIME_ST",
        "PV_TIME_ST returns the address of the calling vCPU's structure.",
    )
    ALIGNED = ("DEN0057A, 3.2.2: alignment", "A structure is aligned to 64 bytes.")
    ADDRESSABLE = (
        "ID_AA64MMFR0_EL1.PARange",
        "A structure is at an address that the guest's CPUs have.",
    )
    RESERVED = (
        "DEN0057A, 3.2.2; Linux, pvtime.rst: a reserved region",
        "A structure is in memory that the guest uses for nothing else.",
    )
    ONE_EACH = (
        "DEN0057A, 3.2.2: a structure per vCPU",
        "Each vCPU has a structure of its own.",
    )
    PAGES = (
        "Linux, pvtime.rst: one or more pages of 64 KiB",
        "Whole pages of 64 KiB are set aside for structures, and used for nothing else.",
    )
    CACHEABLE = (
        "DEN0057A, 3.2.2; Linux, pvtime.rst: normal memory, inner shareable",
        "A structure is normal cacheable memory, coherent with every vCPU.",
    )

    # ---- what is in it ----
    REVISION = ("DEN0057A, 3.2.2: revision", "The revision is 0.")
    ATTRIBUTES = ("DEN0057A, 3.2.2: attributes", "The attributes are 0.")
    LITTLE_ENDIAN = (
        "DEN0057A, 3.2.2; Linux, pvtime.rst: little-endian",
        "All fields are little-endian.",
    )
    NANOSECONDS = (
        "DEN0057A, 3.2.2; Linux, pvtime.rst: unsigned nanoseconds",
        "The count is of nanoseconds, in 64 bits: it grows by as much as was taken.",
    )
    WHOLE = (
        "DEN0057A, 3.2.2: a field of 64 bits",
        "The count is written whole, never in parts.",
    )
    INVOLUNTARY = (
        "DEN0057A, 3.2.2; Linux, pvtime.rst: involuntarily not running",
        "All time counts in which the vCPU would have run, and was kept from it.",
    )
    ONLY_INVOLUNTARY = (
        "DEN0057A, 3.2.2; Linux, pvtime.rst: involuntarily not running",
        "No time counts in which the vCPU ran.",
    )
    NOT_HALTED = (
        "DEN0057A, 3.2.2; Linux, pvtime.rst: involuntarily not running",
        "No time counts in which the vCPU slept because it had nothing to do.",
    )
    BEFORE_IT_RUNS = (
        "Linux, pvtime.rst: updated prior to scheduling a vCPU",
        "What was taken is counted before the vCPU runs again.",
    )
    MONOTONIC = (
        "follows from DEN0057A, 3.2.2: time that was stolen stays so",
        "The count does not go back.",
    )
    WITHIN_TIME = (
        "follows from DEN0057A, 3.2.2: it is a part of the time",
        "No more is stolen than time passes.",
    )

    # ---- over the life of a VM ----
    SURVIVES = (
        "the review of Linux's patches, v4: migration and suspend must keep working",
        "Counts go on where they were when the VM is saved, moved, or sleeps.",
    )
    ADDRESS_STAYS = (
        "follows from DEN0057A, 3.2.2: a kernel that goes on does not ask for it again",
        "A structure is where it was given as long as the guest's kernel goes on.",
    )
    INTERFACE_STAYS = (
        "the review of Linux's patches, v4: a host without the feature must refuse the VM",
        "A VM that has gone on elsewhere finds the interface that it had.",
    )
    HOTPLUG = (
        "none: DEN0057A does not say what PV_TIME_ST does to the count; KVM restarts it",
        "A CPU that was offline counts on, or begins again from zero.",
    )

    # ---- as KVM does it ----
    BASE_STAYS = (
        "Linux, arch/arm64/kvm/pvtime.c: the base is set once, by the VMM",
        "A structure stays where it was.",
    )
    RUN_DELAY = (
        "Linux, arch/arm64/kvm/pvtime.c: run_delay; within 2 % or 5 ms",
        "The count grows by what the host's scheduler kept the vCPU waiting.",
    )
    STOPPED = (
        "none: a stop is no stolen time by DEN0057A, and the guest's clocks may stop with it",
        "A VM that is stopped loses time that nobody counts, so a run without a stop says more.",
    )

    # ---- what the guest's own Linux makes of it ----
    PROC_STAT = ("proc(5): steal", "/proc/stat's steal is what was stolen.")
    PROC_STAT_FORWARD = ("proc(5): steal", "/proc/stat's steal does not run backwards.")
    PROC_STAT_HOTPLUG = (
        "proc(5): steal; Linux, arch/arm64/kernel/paravirt.c",
        "/proc/stat's steal survives that a CPU was offline.",
    )
    VTIME = (
        "proc(5): steal; Linux, kernel/sched/cputime.c: vtime",
        "/proc/stat is up to date on CPUs in nohz_full, too.",
    )
    VTIME_STEAL = (
        "proc(5): steal; Linux, kernel/sched/cputime.c: get_vtime_delta()",
        "/proc/stat is right on CPUs in nohz_full that were offline, too.",
    )

    # ---- guestpv's own ----
    ADOPTS = ("guestpv's own: it adopts without a reset", "Loading the module resets no count.")
    ANNOUNCED = (
        "guestpv's own: kmod/uapi/guestpv.h",
        "A count that began again is in a new epoch, which says why.",
    )
