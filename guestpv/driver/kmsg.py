# SPDX-License-Identifier: MIT
"""What the module said in the kernel log: that it loaded, or why not, is one line there."""

import os
import re
from typing import Self

_REFUSAL = b"guestpv: not loaded: "
_LOADED = re.compile(rb"guestpv: \d+ stolen-time structures ")
_KERNEL = 0  # the facility of what is not written by a process
_RECORD_BYTES = 8192  # the longest record that the kernel writes


def last_refusal() -> str | None:
    """Why the module last refused to load, as far as the log goes back and may be read.

    None if it did not, or was loaded since. The line names the step of discovery that failed and
    the value it returned.
    """
    with KernelLog() as log:
        return log.last_refusal()


class KernelLog:
    """The records of /dev/kmsg from the oldest on, or from now on; none where it is forbidden."""

    def __init__(self, *, from_now: bool = False) -> None:
        self._fd = -1
        try:
            self._fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(self._fd, 0, os.SEEK_END if from_now else os.SEEK_SET)
        except OSError:
            pass  # the log explains; without it there is less to say, and no other harm

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def last_refusal(self) -> str | None:
        """The newest refusal among the records that were not read yet; None if it loaded since."""
        refusal = None
        while record := self._record():
            # "priority,sequence,microseconds,flags;text", then a line for each key of a device
            prefix, _, text = record.partition(b"\n")[0].partition(b";")
            facility = int(prefix.partition(b",")[0]) >> 3
            if facility != _KERNEL:
                continue
            if text.startswith(_REFUSAL):
                refusal = text.removeprefix(_REFUSAL).decode(errors="replace")
            elif _LOADED.match(text):
                refusal = None
        return refusal

    def _record(self) -> bytes | None:
        while True:
            try:
                return os.read(self._fd, _RECORD_BYTES)
            except BrokenPipeError:
                continue  # overwritten meanwhile; the next read gives the oldest there is
            except OSError:
                return None
