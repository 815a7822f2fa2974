# SPDX-License-Identifier: MIT
"""The file of validate --record, which --compare reads: its options, writing and reading it."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guestpv.cli.records import dumps
from guestpv.cli.source import open_source
from guestpv.cpulist import listed
from guestpv.errors import Error, FormatError, NoSourceError, PermissionDeniedError
from guestpv.source.mapped import MappedReader

if TYPE_CHECKING:
    from guestpv.validate import Event, Record

_LARGEST = 1 << 26
"""Bytes; a record of 4096 CPUs has three millions."""
_MAKE_ONE = "make one before the event: guestpv validate --record FILE"


def _event(text: str) -> Event:
    from guestpv.validate import Event

    try:
        return Event(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is none of {', '.join(Event)}") from None


RecordOption = Annotated[
    Path | None,
    typer.Option(
        "--record",
        metavar="FILE",
        help="Write down how the guest is before something happens to its VM, and run no check.",
    ),
]
CompareOption = Annotated[
    Path | None,
    typer.Option(
        "--compare",
        metavar="FILE",
        help="Judge what became of the guest since --record FILE. Takes an --event, and no time.",
    ),
]
EventOption = Annotated[
    Any,
    typer.Option(
        "--event",
        parser=_event,
        metavar="EVENT",
        help="What happened: migrated, host-upgraded, restored, cloned, hotplug, rebooted, kexec.",
    ),
]


def record_guest(path: Path, source: str, as_json: bool = False) -> None:
    """Write a record of *source* to *path*, and say so. It is there whole, or as it was before."""
    from guestpv.validate.record import SCHEMA, take
    from guestpv.validate.record import as_json as record_as_json

    with open_source(source) as reader:
        if not isinstance(reader, MappedReader):
            raise NoSourceError(
                f"{reader.source.path}: nothing to record",
                "It is the kernel's own account, and not the hypervisor's",
                "record the device: 'sudo guestpv validate --record FILE'",
            )
        record = take(reader)
    line = dumps(SCHEMA, record_as_json(record))
    try:
        _write(path, f"{line}\n".encode())
    except (OSError, ValueError) as error:
        raise Error(
            f"{path}: the record can't be written",
            getattr(error, "strerror", None) or str(error),
            "give another path to --record",
        ) from error
    if as_json:
        typer.echo(line)
        return
    counted = record.cpus["cpu"][record.cpus["valid"]].tolist()
    what = f"the counts of cpu{listed(counted)}" if counted else "that no CPU has a count"
    typer.echo(
        f"guestpv: recorded {what}; afterwards: guestpv validate --compare {path} --event EVENT",
        err=True,
    )


def read_record(path: Path) -> Record:
    """The record at *path*. Raises what is wrong with it."""
    from guestpv.validate.record import parse

    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except PermissionError as error:
        raise PermissionDeniedError(
            f"{path}: permission denied", "A record is its owner's", "run as who recorded"
        ) from error
    except (OSError, ValueError) as error:
        raise NoSourceError(
            f"{path}: no record",
            getattr(error, "strerror", None) or str(error),
            _MAKE_ONE,
        ) from error
    if len(content) > _LARGEST:
        raise FormatError(f"{path}: no record", f"It has more than {_LARGEST} bytes", _MAKE_ONE)
    try:
        return parse(content)
    except FormatError as error:
        raise FormatError(f"{path}: no record", error.why, error.fix) from error


def _write(path: Path, content: bytes) -> None:
    """In one step, so that a record that is there is not lost to a full disk."""
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe, as /dev/stdout may be
            path.write_bytes(content)
            return
    path = Path(os.path.realpath(path))
    # Only for its owner, as the device is.
    file, name = tempfile.mkstemp(".partial", f"{path.name}.", path.parent)
    try:
        with open(file, "wb") as partial:
            partial.write(content)
            partial.flush()
            os.fsync(file)
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
