# SPDX-License-Identifier: MIT
"""Telling a user what went wrong, the same way for every command."""

import json
import os
import sys

from guestpv.errors import Error

_as_json = False


def tell_as_json(wanted: bool) -> bool:
    """How errors are told from now on; the callback of --json."""
    global _as_json
    _as_json = wanted
    return wanted


def tell(error: Error) -> None:
    """On stderr, as a line, or with --json as an object; nothing is written to stdout after it."""
    try:
        _tell(error)
    except OSError:  # the terminal is gone, and nobody there to be told
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _tell(error: Error) -> None:
    # What is still in stdout's buffer can't be written if that is what failed; don't try again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if _as_json:
        print(
            json.dumps(
                {
                    "schema": "guestpv.error/1",
                    "exit_code": error.exit_code,
                    "what": error.what,
                    "why": error.why,
                    "fix": error.fix,
                }
            ),
            file=sys.stderr,
        )
    else:
        print(f"guestpv: {error}", file=sys.stderr)


def as_error(error: Exception) -> Error:
    """*error* itself if it is one of guestpv's own, else what is to be said of it."""
    if isinstance(error, Error):
        return error
    if isinstance(error, OSError) and error.strerror:
        return Error(f"{error.filename or 'output'}: input or output failed", error.strerror)
    return Error(
        f"Unexpected {type(error).__name__}: {error}",
        "This is a mistake in guestpv",
        "please report it with what GUESTPV_DEBUG=1 in the environment shows",
    )
