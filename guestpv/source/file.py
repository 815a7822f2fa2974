# SPDX-License-Identifier: MIT
"""The file of a source: is it there, and may it be opened?"""

import os
import stat

from guestpv.errors import (
    EXHAUSTED,
    MEANWHILE,
    Error,
    FormatError,
    NoSourceError,
    PermissionDeniedError,
)
from guestpv.page.abi import DEVICE


def open_file(name: str) -> int:
    """A descriptor of the device, or of a page image. Raises as `guestpv.open` does."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        if name == DEVICE:
            raise NoSourceError(
                f"{DEVICE}: no such device",
                "The module is not loaded",
                f"run 'sudo guestpv load' {MEANWHILE}",
            ) from error
        raise NoSourceError(
            f"{name}: no such file",
            "A source is auto, device, procfs or a path of a page image",
            "check the path",
        ) from error
    except PermissionError as error:
        fix = "run as root, or give the device a group with a udev rule"
        raise PermissionDeniedError(
            f"{name}: permission denied",
            "Only its owner and group may read it",
            f"{fix} {MEANWHILE}" if name == DEVICE else "ask its owner",
        ) from error
    except OSError as error:
        kind = Error if error.errno in EXHAUSTED else NoSourceError
        raise kind(f"{name}: not opened", os.strerror(error.errno or 0)) from error
    except ValueError as error:  # a NUL, or half a surrogate pair
        raise NoSourceError(f"{name!r}: not opened", "It is no name of a file") from error
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode) or stat.S_ISCHR(mode):
        return fd
    os.close(fd)
    raise FormatError(
        f"{name}: no page image", "It is neither a file nor a device", "check the path"
    )
