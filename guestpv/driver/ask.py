# SPDX-License-Identifier: MIT
"""What the hypervisor answers now, with all registers: the module guestpv_ask.

It is loaded, read and removed, which changes nothing in the guest and nothing that the hypervisor
counts. kmod/uapi/guestpv_ask.h documents the layout of what is read.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from guestpv.driver import module
from guestpv.errors import BusyError, FormatError, NoSourceError

NAME = "guestpv_ask"
DEVICE = f"/dev/{NAME}"

MAGIC = 0x004B53412D565047
VERSION = 1
REGISTERS = 18
"""x0 to x17."""
SENTINEL = 0x5CA1AB1E00000000
"""What register n, from x2 on, has before each call: this and n."""
UPPER = 0x5E1EC7ED00000000
"""What the upper half of x0 or x1 has where it must make no difference."""
SVE_HINT = 0x10000
"""From SMCCC 1.3 on, it makes no difference in a function's number."""

HEADER = np.dtype(
    [
        ("magic", "u8"),
        ("version", "u4"),
        ("header_size", "u4"),
        ("call_size", "u4"),
        ("nr_calls", "u4"),
    ]
)
"""struct guestpv_ask_header"""

CALL = np.dtype(
    [
        ("cpu", "u4"),
        ("reserved", "u4"),
        ("function", "u8"),
        ("argument", "u8"),
        ("x", "u8", (REGISTERS,)),
    ]
)
"""struct guestpv_ask_call"""

Calls = npt.NDArray[np.void]
"""A `CALL` for each call of each CPU, the same ones for every CPU."""


def ask(say: Callable[[str], None] = lambda _: None) -> Calls:
    """Ask the hypervisor, on every CPU that is online.

    Raises as `module.load` does, and FormatError for a module of another version.
    """
    ready = module.find(say, NAME)
    try:
        if not module.insert(ready, ""):
            module.remove(NAME)  # whoever had it before was killed, or will be told that it is gone
            if not module.insert(ready, ""):
                raise BusyError(f"{NAME}: not asked", "Somebody else asks, too", "try again")
        try:
            content = Path(DEVICE).read_bytes()
        except FileNotFoundError as error:
            why = "The module is loaded, but the device is not in this file system"
            fix = "ask outside of the container"
            raise NoSourceError(f"{DEVICE}: no such device", why, fix) from error
    finally:
        module.remove(NAME)
    return parse(content)


def parse(content: bytes) -> Calls:
    """The calls in what the device gave. Raises FormatError."""
    if len(content) < HEADER.itemsize:
        raise _malformed(f"{len(content)} bytes are less than a header")
    header = np.frombuffer(content, HEADER, 1)[0]
    if (header["magic"], header["version"]) != (MAGIC, VERSION):
        raise _malformed(f"It is of version {header['version']}, and {VERSION} is known here")
    begin, size, calls = (int(header[name]) for name in ("header_size", "call_size", "nr_calls"))
    if begin < HEADER.itemsize or size < CALL.itemsize or begin + calls * size != len(content):
        raise _malformed(f"{calls} calls of {size} bytes behind {begin} are not {len(content)}")
    return np.ndarray(calls, CALL, content, begin, (size,)).copy()


def _malformed(why: str) -> FormatError:
    return FormatError(f"{DEVICE}: not understood", why, "load the module of this guestpv")
