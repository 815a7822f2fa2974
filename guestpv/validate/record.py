# SPDX-License-Identifier: MIT
"""A guest as it was at one moment: what is compared when something has happened to its VM."""

import hashlib
import hmac
import json
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from guestpv.driver.vmclock import PATH as VMCLOCK
from guestpv.driver.vmclock import VmClock
from guestpv.errors import BusyError, FormatError
from guestpv.page.abi import CALLS, NO_COUNT, NOT_CALLED, State
from guestpv.source.mapped import MappedReader
from guestpv.source.procfs import boot_id

SCHEMA = "guestpv.validate-record/1"

CPU = np.dtype(
    [
        ("cpu", "u4"),
        ("state", "u1"),
        ("origin", "u1"),
        ("fault", "u1"),
        ("reason", "u1"),
        ("epoch", "u4"),
        ("revision", "u4"),
        ("attributes", "u4"),
        ("valid", "?"),
        ("stolen_ns", "u8"),
        ("epoch_stolen_ns", "u8"),
        ("ipa", "u8"),
        ("st_call", "u4"),
        *((call, "i8") for call in CALLS),
    ]
)
"""One CPU: the fields of `guestpv.source.reader.SNAPSHOT`, and those of `guestpv.page.layout.ENTRY`
that say where its structure is and what the hypervisor answered."""

_COUNTED = ("stolen_ns", "epoch_stolen_ns")
_NUMBERS = tuple(
    name for name in CPU.names or () if name not in (*CALLS, *_COUNTED, "cpu", "valid")
)
_CLOCKS = {
    "monotonic_raw_ns": time.CLOCK_MONOTONIC_RAW,
    "boottime_ns": time.CLOCK_BOOTTIME,
    "realtime_ns": time.CLOCK_REALTIME,
}
_RTC = Path("/sys/class/rtc/rtc0/since_epoch")
_MACHINE_ID = Path("/etc/machine-id")
_U32, _U64 = np.dtype("u4"), np.dtype("u8")


@dataclass(frozen=True, slots=True)
class Moment:
    """Clocks, read one after the other."""

    monotonic_raw_ns: int
    """As the counter of the CPU has it, which nobody adjusts."""
    boottime_ns: int
    """Goes on while the machine sleeps."""
    realtime_ns: int
    rtc_s: int | None
    """Goes on while the VM is stopped, too; None where there is no RTC."""

    @classmethod
    def now(cls) -> "Moment":
        clocks = {name: time.clock_gettime_ns(clock) for name, clock in _CLOCKS.items()}
        return cls(**clocks, rtc_s=rtc_s())


@dataclass(frozen=True, slots=True)
class Record:
    """All that is known of the counts at one moment, and of which machine they are."""

    source: str
    """The kind of what was read: device or image."""
    guestpv: str
    """Its version."""
    kernel: str
    """As ``uname -r`` has it."""
    machine: str | None
    """A hash of the machine's id, which must not be given away itself; None where it has none."""
    boot_id: str
    generation: int | None
    """Of the VM, by /dev/vmclock0: another one where it was restored or cloned. None: unknown."""
    began: Moment
    """Before the counts were read."""
    ended: Moment
    """After they were."""
    instance: int
    sequence: int
    """Of the index: goes up with each of its changes."""
    smccc_version: int
    conduit: int
    possible: int
    """How many CPUs there can be."""
    cpus: npt.NDArray[np.void]
    """An array of `CPU`, a row for each one that is not absent, in the order of their numbers."""

    def of(self, cpus: Sequence[int]) -> "Record":
        """The same, but of these CPUs only."""
        return replace(self, cpus=self.cpus[np.isin(self.cpus["cpu"], cpus)])


def take(reader: MappedReader) -> Record:
    """The guest as it is now. Raises as `MappedReader.snapshot` does."""
    began = Moment.now()
    header, cpus = _read(reader)
    return Record(
        source=reader.source.kind,
        guestpv=version("guestpv"),
        kernel=platform.release(),
        machine=_machine(),
        boot_id=boot_id(),
        generation=_generation(),
        began=began,
        ended=Moment.now(),
        instance=int(header["instance"]),
        sequence=int(header["sequence"]),
        smccc_version=int(header["smccc_version"]),
        conduit=int(header["conduit"]),
        possible=len(reader.cpus),
        cpus=cpus[cpus["state"] != State.ABSENT],
    )


def _read(reader: MappedReader) -> tuple[np.void, npt.NDArray[np.void]]:
    """The header and all CPUs, of one state of the index."""
    cpus = np.zeros(len(reader.cpus), CPU)
    for _ in range(1000):
        before = reader.header.copy()
        rows, entries = reader.snapshot(), reader.entries.copy()
        if before["sequence"] == reader.header["sequence"] and not before["sequence"] % 2:
            break
    else:
        raise BusyError(f"{reader.source.path}: not read", "Its index keeps changing", "try again")
    for source in entries, rows:  # what is in both, from the rows: it belongs to the counts
        for field in set(CPU.names or ()).intersection(source.dtype.names or ()):
            cpus[field] = source[field]
    return before, cpus


def rtc_s() -> int | None:
    """Seconds by the RTC, which goes on while the VM is stopped; None where there is none."""
    try:
        return int(_RTC.read_text())
    except (OSError, ValueError):
        return None


def _machine() -> str | None:
    """Of guestpv's own, as machine-id(5) asks for: the id itself says who the machine is."""
    try:
        machine_id = _MACHINE_ID.read_bytes().strip()
    except OSError:
        return None
    return hmac.digest(machine_id, b"guestpv", hashlib.sha256).hex()[:32] if machine_id else None


def _generation() -> int | None:
    clock = VmClock.find(VMCLOCK)
    if clock is None:
        return None
    with clock:
        return clock.generation


# ---- as JSON ----


def as_json(record: Record) -> dict[str, Any]:
    """As guestpv.cli.records documents it, without schema and time; integers are exact."""
    return {
        "source": record.source,
        "guestpv": record.guestpv,
        "kernel": record.kernel,
        "machine": record.machine,
        "boot_id": record.boot_id,
        "generation": record.generation,
        "began": _moment_as_json(record.began),
        "ended": _moment_as_json(record.ended),
        "instance": f"{record.instance:#018x}",
        "sequence": record.sequence,
        "smccc_version": record.smccc_version,
        "conduit": record.conduit,
        "possible": record.possible,
        "cpus": [_cpu_as_json(row) for row in record.cpus],
    }


def _moment_as_json(moment: Moment) -> dict[str, int | None]:
    return {**{name: getattr(moment, name) for name in _CLOCKS}, "rtc_s": moment.rtc_s}


def _cpu_as_json(row: np.void) -> dict[str, Any]:
    """null in place of a count that there is not, and of what was not returned."""
    first, answers = int(row["epoch_stolen_ns"]), {call: int(row[call]) for call in CALLS}
    return {
        "cpu": int(row["cpu"]),
        **{name: int(row[name]) for name in _NUMBERS},
        "stolen_ns": int(row["stolen_ns"]) if row["valid"] else None,
        "epoch_stolen_ns": first if first != NO_COUNT else None,
        "answers": {
            call: answer if answer != NOT_CALLED else None for call, answer in answers.items()
        },
    }


def parse(text: bytes) -> Record:
    """What `as_json` gave, once it was written. Names that are not known are let be.

    Raises FormatError if it is anything else.
    """
    try:
        record = json.loads(text)
        if not isinstance(record, dict) or "schema" not in record:
            raise ValueError("it is no JSON object with a schema")
        if record["schema"] != SCHEMA:
            raise ValueError(f"its schema is {record['schema']!r:.60}, and not {SCHEMA!r}")
        return _record(record)
    except RecursionError:
        why = "it is nested too deeply"
    except KeyError as error:
        why = f"{error.args[0]} is missing"
    except ValueError as error:  # json's own errors are, too
        why = str(error)
    raise FormatError(
        "No record of guestpv validate",
        f"It is not as --record writes it ({why})",
        "make another one: guestpv validate --record FILE",
    )


def _record(record: Mapping[str, Any]) -> Record:
    cpus = _list(record, "cpus")
    array = np.zeros(len(cpus), CPU)
    for row, cpu in zip(array, cpus, strict=True):
        _enter_cpu(row, cpu)
    possible = _integer(record, "possible", _U32)
    numbers = array["cpu"].tolist()
    if numbers != sorted(set(numbers)) or (numbers and numbers[-1] >= possible):
        raise ValueError(f"its CPUs are not of the {possible} that are possible, each once")
    instance = _text(record, "instance")
    if not instance.startswith("0x"):
        raise ValueError(f"instance is {instance!r:.60}")
    return Record(
        source=_text(record, "source"),
        guestpv=_text(record, "guestpv"),
        kernel=_text(record, "kernel"),
        machine=None if record["machine"] is None else _text(record, "machine"),
        boot_id=_text(record, "boot_id"),
        generation=_optional(record, "generation", _U64),
        began=_moment(record, "began"),
        ended=_moment(record, "ended"),
        instance=_within("instance", int(instance, 16), _U64),
        sequence=_integer(record, "sequence", _U32),
        smccc_version=_integer(record, "smccc_version", _U32),
        conduit=_integer(record, "conduit", _U32),
        possible=possible,
        cpus=array,
    )


def _moment(record: Mapping[str, Any], name: str) -> Moment:
    moment = _object(record[name], name)
    clocks = {clock: _integer(moment, clock, _U64) for clock in _CLOCKS}
    return Moment(**clocks, rtc_s=_optional(moment, "rtc_s", np.dtype("i8")))


def _enter_cpu(row: np.void, cpu: Any) -> None:
    cpu = _object(cpu, "a CPU")
    for name in "cpu", *_NUMBERS:
        row[name] = _integer(cpu, name, CPU[name])
    count = _optional(cpu, "stolen_ns", _U64)
    row["valid"], row["stolen_ns"] = count is not None, count or 0
    if row["valid"] and (row["revision"] or row["attributes"]):
        raise ValueError("a count whose revision or attributes are not 0 has been interpreted")
    first = _optional(cpu, "epoch_stolen_ns", _U64)
    row["epoch_stolen_ns"] = NO_COUNT if first is None else first
    answers = _object(cpu["answers"], "answers")
    for call in CALLS:  # one that an older guestpv did not make is missing
        answer = _optional(answers, call, CPU[call]) if call in answers else None
        row[call] = NOT_CALLED if answer is None else answer


def _object(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {value!r:.60}, and no object")
    return value


def _list(record: Mapping[str, Any], name: str) -> list[Any]:
    value = record[name]
    if not isinstance(value, list):
        raise ValueError(f"{name} is {value!r:.60}, and no list")
    return value


def _text(record: Mapping[str, Any], name: str) -> str:
    value = record[name]
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError(f"{name} is {value!r:.60}")
    return value


def _optional(record: Mapping[str, Any], name: str, dtype: np.dtype[Any]) -> int | None:
    return None if record[name] is None else _integer(record, name, dtype)


def _integer(record: Mapping[str, Any], name: str, dtype: np.dtype[Any]) -> int:
    """A number, or a decimal string: what a double might round is written as one."""
    value = record[name]
    if isinstance(value, str) and value.isascii() and value.removeprefix("-").isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} is {value!r:.60}, and no integer")
    return _within(name, value, dtype)


def _within(name: str, value: int, dtype: np.dtype[Any]) -> int:
    limits = np.iinfo(dtype)
    if not limits.min <= value <= limits.max:
        raise ValueError(f"{name} is {value!s:.60}, which can't be")
    return value
