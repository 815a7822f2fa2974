# SPDX-License-Identifier: MIT
"""Opening what a command reads; where there is nothing to read, saying which step failed."""

import guestpv
from guestpv.errors import NoSourceError
from guestpv.source.reader import Reader


def open_source(source: str) -> Reader:
    """As guestpv.open(); but if there is no device, the error says at which step that ended."""
    try:
        return guestpv.open(source)
    except NoSourceError as error:
        from guestpv.driver import module  # takes long to import, and only a failure needs it

        why = module.why_not_here() if source in ("auto", "device") else None
        raise why or error from None
