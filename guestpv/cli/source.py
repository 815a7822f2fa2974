# SPDX-License-Identifier: MIT
"""Opening what a command reads; where there is nothing to read, saying which step failed."""

from typing import TYPE_CHECKING

import guestpv
from guestpv.errors import MEANWHILE, Error, NoSourceError

if TYPE_CHECKING:
    from guestpv.source.reader import Reader


def open_source(source: str) -> "Reader":
    """As guestpv.open(); but if there is no device, the error says at which step that ended."""
    try:
        return guestpv.open(source)
    except NoSourceError as error:
        raise (_why_not_here(error) if source in ("auto", "device") else error) from None


def unavailable(error: Error) -> Error:
    """The same for a command that needs the module, and for which /proc/stat can't stand in."""
    if isinstance(error, NoSourceError):
        error = _why_not_here(error)
    return type(error)(error.what, error.why, error.fix.replace(f" {MEANWHILE}", ""))


def _why_not_here(error: Error) -> Error:
    from guestpv.driver import module  # takes long to import, and only a failure needs it

    return module.why_not_here() or error
