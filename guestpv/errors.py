# SPDX-License-Identifier: MIT
"""What can go wrong, as exceptions; each says what happened, why, and what to do next."""

import errno
from typing import ClassVar

from guestpv.page.abi import Fault

MEANWHILE = "(/proc/stat can be read meanwhile: --source procfs)"
"""Ends the advice where the device can't be read."""

EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""What this process or machine has run out of says nothing of a source, which may well be there."""


class Error(Exception):
    """Base of all errors that guestpv raises on purpose.

    ``str(error)`` is one line, ``WHAT. WHY: FIX.``; the command line prints it after
    ``guestpv: `` and exits with :attr:`exit_code`.
    """

    exit_code: ClassVar[int] = 1
    """Exit code of the command line, the same for every command."""

    def __init__(self, what: str, why: str, fix: str = "") -> None:
        super().__init__(what, why, fix)
        self.what = what
        """What happened, beginning with what it happened to."""
        self.why = why
        """Why it happened, as far as guestpv can tell."""
        self.fix = fix
        """What to do next; empty where nothing helps."""

    def __str__(self) -> str:
        return f"{self.what}. {self.why}" + (f": {self.fix}." if self.fix else ".")


class NoSourceError(Error):
    """There is nothing to read from: no device, no such file."""

    exit_code = 3


class PermissionDeniedError(Error):
    """The source is there, but this user may not open it."""

    exit_code = 4


class FormatError(Error):
    """The device or page image is not of the ABI that this guestpv knows."""

    exit_code = 5


class NoSuchCpuError(Error):
    """The CPU number is not one of the source's CPUs."""

    exit_code = 6


class StructureError(Error):
    """The CPU has no structure, or one that must not be interpreted (DEN0057A, 3.2.2)."""

    exit_code = 7

    def __init__(
        self,
        what: str,
        why: str,
        fix: str = "",
        *,
        revision: int = 0,
        attributes: int = 0,
        fault: Fault = Fault.NONE,
    ) -> None:
        super().__init__(what, why, fix)
        self.revision = revision
        """The structure's revision; guestpv knows 0."""
        self.attributes = attributes
        """The structure's attributes; guestpv knows 0."""
        self.fault = fault
        """Why the module refused the structure; NONE if it did not."""


class BusyError(Error):
    """The index or a structure kept changing for too long to be read whole."""

    exit_code = 8


class ModuleError(Error):
    """The kernel module could not be loaded or unloaded."""

    exit_code = 9


class UnsupportedError(Error):
    """A step of discovery failed: this machine has no PV-time."""

    exit_code = 10


class MismatchError(Error):
    """What was recorded is not of this guest, or what is said to have happened to it did not."""

    exit_code = 2


class ScriptError(Error):
    """The script of a simulation is not understood."""

    exit_code = 2


class ConfigError(Error):
    """A web configuration, or a certificate that it names, can't be used."""

    exit_code = 2


class CommandError(Error):
    """A command is there, but can't be executed; the code is a shell's."""

    exit_code = 126


class NoCommandError(Error):
    """There is no such command; the code is a shell's."""

    exit_code = 127
