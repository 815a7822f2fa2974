# SPDX-License-Identifier: MIT
"""What changes the guest: CPUs offline and back, sleep, the module out and in. Each undoes itself.

A function returns what was there before and after, or as text why it could not be done.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from errno import EBUSY, EINVAL
from pathlib import Path

import numpy as np

from guestpv.errors import BusyError, Error, ModuleError, PermissionDeniedError
from guestpv.source.mapped import MappedReader
from guestpv.source.procstat import accounts
from guestpv.source.reader import Snapshot
from guestpv.validate.undisturbed import undisturbed

Progress = Callable[[str], None]

CPUS = Path("/sys/devices/system/cpu")
POWER = Path("/sys/power")
ALARM = Path("/sys/class/rtc/rtc0/wakealarm")
CHECK_MS = Path("/sys/module/guestpv/parameters/check_ms")

_SLEEP_S = 5
_OFFLINE_S = 0.5
"""For how long a CPU stays offline: of the time that going and coming back takes, no less."""


@dataclass(frozen=True, slots=True)
class Switched:
    """A CPU that was taken offline and back."""

    cpu: int
    entry_before: np.void
    entry_after: np.void
    before: np.void
    """A row of a snapshot: the count before it went."""
    offline: np.void
    after: np.void
    procstat_before_ns: int | None
    """Steal in /proc/stat; None where that is not known."""
    procstat_after_ns: int | None
    away_and_back_ns: int
    """CLOCK_BOOTTIME from before it went to after it was back,"""
    offline_ns: int
    """and how much of that it was offline."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """All CPUs before and after something that happened to the whole guest."""

    before: Snapshot
    ipas_before: list[int]
    after: Snapshot
    ipas_after: list[int]
    boot_ns: int
    """CLOCK_BOOTTIME that passed between."""


def switch_cpus(
    reader: MappedReader, among: Sequence[int], progress: Progress
) -> list[Switched] | str:
    """Take each CPU *among* them that can be offline and back, one after the other."""
    cpus = [cpu for cpu in among if _switch(cpu).exists()]
    if not cpus:
        return "there is no CPU that can be taken offline"
    switched, refused = [], ""
    for cpu in cpus:
        progress(f"taking cpu{cpu} offline and back")
        try:
            with undisturbed():
                switched.append(_switch_one(reader, cpu))
        except PermissionError:
            return f"this user may not take cpu{cpu} offline"
        except OSError as error:
            refused = f"cpu{cpu} can't be taken offline: {error.strerror}"
    return switched or refused


def _switch_one(reader: MappedReader, cpu: int) -> Switched:
    began_ns = _boot_ns()
    entry_before, before = reader.entries[cpu].copy(), reader.snapshot()[cpu]
    procstat_before_ns = _procstat_ns(cpu)
    with _offline(cpu):
        went_ns = _boot_ns()
        offline = reader.snapshot()[cpu]
        time.sleep(_OFFLINE_S)
        offline_ns = _boot_ns() - went_ns
    return Switched(
        cpu=cpu,
        entry_before=entry_before,
        entry_after=reader.entries[cpu].copy(),
        before=before,
        offline=offline,
        after=reader.snapshot()[cpu],
        procstat_before_ns=procstat_before_ns,
        procstat_after_ns=_procstat_ns(cpu),
        away_and_back_ns=_boot_ns() - began_ns,
        offline_ns=offline_ns,
    )


@contextmanager
def _offline(cpu: int) -> Iterator[None]:
    _switch(cpu).write_text("0")
    try:
        yield
    finally:
        try:
            _switch(cpu).write_text("1")
        except OSError as error:
            raise Error(
                f"cpu{cpu}: still offline",
                f"It was taken offline, and could not be brought back ({error.strerror})",
                f"write 1 to {_switch(cpu)}",
            ) from error


def _switch(cpu: int) -> Path:
    return CPUS / f"cpu{cpu}/online"


def suspend(reader: MappedReader, progress: Progress) -> Resumed | str:
    """Let the guest sleep for some seconds, to idle, and be woken by its RTC."""
    try:
        if "freeze" not in (POWER / "state").read_text().split():
            return "this kernel can't suspend to idle"
        if not ALARM.exists():
            return "there is no RTC that would wake the guest"
        if not os.access(POWER / "state", os.W_OK):
            return "this user may not suspend the guest"
        if ALARM.read_text().strip():
            return "the RTC has an alarm that is meant for something else"
        progress(f"sleeping for {_SLEEP_S} s")
        before, ipas, began_ns = reader.snapshot(), _ipas(reader), _boot_ns()
        os.sync()  # else the kernel does, while the alarm is running
        wakeups = (POWER / "wakeup_count").read_text()  # waits for wakeups that are under way
        with undisturbed():
            _sleep(wakeups)
    except OSError as error:
        if error.errno in (EBUSY, EINVAL):
            return "something woke the guest before it slept"
        return f"the guest can't be suspended: {error.strerror}"
    return Resumed(before, ipas, reader.snapshot(), _ipas(reader), _boot_ns() - began_ns)


def _sleep(wakeups: str) -> None:
    """Until the alarm. If anything wakes the guest after *wakeups* was read, the alarm too, the
    kernel will not sleep: nothing else would wake it.

    See Documentation/ABI/testing/sysfs-power on wakeup_count.
    """
    try:
        ALARM.write_text(f"+{_SLEEP_S}")
        (POWER / "wakeup_count").write_text(wakeups)
        (POWER / "state").write_text("freeze")
    finally:
        ALARM.write_text("0")


def reload(
    reader: MappedReader, reopen: Callable[[], MappedReader], progress: Progress
) -> Resumed | str:
    """Remove the module and load it again; *reader*, which would keep it, is closed."""
    from guestpv.driver import module

    if os.geteuid() != 0:
        return "only root may load modules"
    if CHECK_MS.read_text().strip() != "1000":
        return "it was loaded with parameters of somebody's own"
    progress("loading the module again")
    try:
        again = module.find()  # before it is gone
        if not module.is_like_loaded(again):
            return f"{again}, which would be loaded, is not the one that is"
    except ModuleError as error:
        return str(error)
    before, ipas, began_ns = reader.snapshot(), _ipas(reader), _boot_ns()
    with undisturbed():
        reader.close()
        try:
            module.unload()
        except (BusyError, PermissionDeniedError) as error:
            return str(error)
        finally:
            module.load(again)
            reader = reopen()
    return Resumed(before, ipas, reader.snapshot(), _ipas(reader), _boot_ns() - began_ns)


def _ipas(reader: MappedReader) -> list[int]:
    ipas: list[int] = reader.entries["ipa"].tolist()
    return ipas


def _procstat_ns(cpu: int) -> int | None:
    row = accounts((cpu,))[0]
    return int(row["steal_ns"]) if row["steal_known"] else None


def _boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
