# SPDX-License-Identifier: MIT
"""guestpv info: what was discovered, who owns the structures, how they are reached."""

import os
import stat
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from guestpv.cli.columns import began_anew, objection
from guestpv.cli.options import JsonOption, SourceOption
from guestpv.cli.records import epoch_stolen_record, instance_record, source_record, write
from guestpv.cli.source import open_source
from guestpv.cpulist import listed
from guestpv.page.abi import CALLS, NOT_CALLED, NOT_SUPPORTED, Conduit, Fault, Origin, Reason, State
from guestpv.page.names import name_of, reason_text, version_text
from guestpv.page.since import since_s, since_text
from guestpv.source.mapped import MappedReader
from guestpv.source.reader import Reader

_OWNERS = {
    Origin.NONE: "unknown: no structure was asked for",
    Origin.ADOPTED: "the kernel (CONFIG_PARAVIRT=y): adopted, without a reset",
    Origin.CLAIMED: "guestpv: claimed, as this kernel does not use them",
}


_ONCE = {"device": "load of the module", "image": "page image", "procfs": "boot"}


def info(source: SourceOption = "auto", as_json: JsonOption = False) -> None:
    """Show what was discovered, who owns the structures, and how they are reached.

    What each call returned is shown as it is; where CPUs were answered differently, for each.
    """
    with open_source(source) as reader:
        if as_json:
            write("guestpv.info/1", _record(reader))
        else:
            _print_facts([*_access(reader), *_discovery(reader), *_structures(reader)])


def _record(reader: Reader) -> dict[str, Any]:
    record: dict[str, Any] = {
        "source": source_record(reader.source),
        "instance": instance_record(reader.instance),
    }
    if not isinstance(reader, MappedReader):
        return record | {"smccc_version": None, "conduit": None, "cpus": None}
    live = reader.source.kind == "device"  # an image's times are of another boot
    return record | {
        "smccc_version": _smccc_version(reader.header),
        "conduit": name_of(Conduit, reader.header["conduit"]),
        "cpus": [_cpu_record(cpu, entry, live) for cpu, entry in enumerate(reader.entries)],
    }


def _cpu_record(cpu: int, entry: np.void, live: bool) -> dict[str, Any]:
    """null in place of what was not returned."""
    record = {
        "cpu": cpu,
        "state": name_of(State, entry["state"]),
        "origin": name_of(Origin, entry["origin"]),
        "fault": name_of(Fault, entry["fault"]),
        "epoch": int(entry["epoch"]),
        "reason": name_of(Reason, entry["reason"]),
        "epoch_stolen_ns": epoch_stolen_record(entry),
        "ipa": int(entry["ipa"]),
        "revision": int(entry["revision"]),
        "attributes": int(entry["attributes"]),
        "unknown_since_s": since_s(entry) if live else None,
        "st_call": int(entry["st_call"]) or None,
    }
    for field in CALLS:
        returned = int(entry[field])
        record[field] = returned if returned != NOT_CALLED else None
    return record


def _print_facts(facts: list[tuple[str, str]]) -> None:
    width = max(len(subject) for subject, _ in facts) + 2
    for subject, fact in facts:
        print(subject.ljust(width) + fact.replace("\n", "\n" + " " * width))


def _access(reader: Reader) -> Iterator[tuple[str, str]]:
    source = reader.source
    status = os.stat(source.path)
    mode = f"{stat.filemode(status.st_mode)}, uid {status.st_uid}, gid {status.st_gid}"
    yield "source", f"{source.kind}: {source.description}"
    yield "access", f"{source.path}, {mode}"
    yield "resolution", f"{source.resolution_ns} ns"
    yield (
        "instance",
        f"{instance_record(reader.instance)}, a new one with each {_ONCE[source.kind]}",
    )


def _discovery(reader: Reader) -> Iterator[tuple[str, str]]:
    """What each step gave."""
    if not isinstance(reader, MappedReader):
        return
    entries = reader.entries.copy()
    asked = np.flatnonzero(entries["arch_features"] != NOT_CALLED)
    conduit = name_of(Conduit, reader.header["conduit"]).upper()
    yield "SMCCC", f"version {_smccc_version(reader.header)}, by {conduit}"
    for field, call in CALLS.items():
        yield call, _by_answer(asked, [_returned(entries[cpu], field) for cpu in asked])
    yield "owner", _by_answer(asked, [_OWNERS.get(entries[cpu]["origin"], "?") for cpu in asked])


def _returned(entry: np.void, field: str) -> str:
    value = int(entry[field])
    if value == NOT_CALLED:
        return "not called"
    if field == "st_return" and value == entry["ipa"]:
        return f"the addresses below, when called as {entry['st_call']:#x}"
    meaning = " NOT_SUPPORTED" if value in NOT_SUPPORTED else ""
    return f"{value} ({value & 0xFFFFFFFFFFFFFFFF:#x}){meaning}"


def _by_answer(cpus: npt.NDArray[np.intp], answers: list[str]) -> str:
    """The answer if all CPUs got the same, else who got which."""
    groups: dict[str, list[int]] = {}
    for cpu, answer in zip(cpus.tolist(), answers, strict=True):
        groups.setdefault(answer, []).append(cpu)
    if len(groups) == 1:
        return answers[0]
    return "\n".join(f"{answer} on cpu{listed(group)}" for answer, group in groups.items())


def _structures(reader: Reader) -> Iterator[tuple[str, str]]:
    """Where the structures are: a line for each run of CPUs that are alike."""
    if not isinstance(reader, MappedReader):
        return
    entries, rows = reader.entries.copy(), reader.snapshot()

    def condition(cpu: int) -> str:
        unknown = rows[cpu]["revision"] or rows[cpu]["attributes"]
        since = since_text(entries[cpu]) if unknown and reader.source.kind == "device" else ""
        return (objection(rows[cpu]) or name_of(State, rows[cpu]["state"])) + since + _epoch(cpu)

    def _epoch(cpu: int) -> str:
        """The count's epoch and why it began, if that says anything."""
        row = rows[cpu]
        if not began_anew(row):
            return ""
        return f", count in epoch {row['epoch']}: {reason_text(row['reason'])}"

    for text, group in groupby(range(len(entries)), condition):
        cpus = list(group)
        first, last = (int(entries[cpu]["ipa"]) for cpu in (cpus[0], cpus[-1]))
        place = f"{first:#x}" if len(cpus) == 1 else f"{first:#x} to {last:#x}"
        yield f"cpu{listed(cpus)}", f"{text}, {place}" if first else text


def _smccc_version(header: np.void) -> str:
    return version_text(int(header["smccc_version"]))
