# SPDX-License-Identifier: MIT
"""Metrics as a file for node_exporter's textfile collector: whole at any time, or not there."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Self

from guestpv.agent.wholefile import write_whole
from guestpv.errors import BusyError, Error, NoSourceError, PermissionDeniedError

NAME = "guestpv.prom"


class Textfile:
    """Has a directory's `guestpv.prom` for itself. A context manager; in the end it takes the file
    away, since counters that stand still would say that nothing is stolen."""

    def __init__(self, directory: Path) -> None:
        """Raises NoSourceError without a *directory*, PermissionDeniedError if it can't be written
        to, BusyError if another exporter does."""
        self._path = directory / NAME
        may = os.access(directory, os.R_OK | os.W_OK | os.X_OK, effective_ids=True)
        if os.path.isdir(directory) and not may:
            raise PermissionDeniedError(
                f"{directory}: no metrics can be written",
                "It is another user's, or read-only",
                "let this user write to it",
            )
        try:
            self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise NoSourceError(
                f"{directory}: no metrics can be written",
                error.strerror or str(error),
                "give --textfile the directory that node_exporter has as"
                " --collector.textfile.directory",
            ) from error
        try:
            fcntl.flock(self._directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._directory)
            raise BusyError(
                f"{directory}: no metrics can be written",
                "Another exporter writes there",
                "end that one first",
            ) from error

    def write(self, metrics: bytes) -> None:
        """Raises Error if they can't be written; the file is then what it was."""
        try:
            write_whole(self._path, metrics)  # beside: with a suffix that is not collected
        except OSError as error:
            raise Error(
                f"{self._path}: not written", error.strerror or str(error), "it is tried again"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._path.unlink()
        os.close(self._directory)
