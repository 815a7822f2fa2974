# SPDX-License-Identifier: MIT
"""A thread on each vCPU that sleeps on a timer, again and again: a halted vCPU is not stolen from.

Only what it came late by may have been. Sometimes something else wakes the vCPU meanwhile, and has
to wait for the host, too: so the undisturbed sleep is looked at, and not the sum.
"""

import threading
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from guestpv._native import pin
from guestpv.errors import StructureError
from guestpv.source.mapped import MappedReader

NAP_NS = 10_000_000
NAP = np.dtype([("late_ns", np.int64), ("grown_ns", np.int64)])
"""One sleep: by how much it was longer than `NAP_NS`, and what the count grew by."""

_NAPS = 50
_ENOUGH = 20
_USUAL = 0.25
"""Three of four naps may be disturbed."""
_PATIENCE_S = 10
_IMPOSSIBLE_NS = 1 << 62


Naps = npt.NDArray[np.void]
"""An array of `NAP` rows."""


def counted_share(naps: Naps) -> float | None:
    """What part of undisturbed sleep was counted as stolen; None if there was too little."""
    if len(naps) < _ENOUGH:
        return None
    return float(np.quantile((naps["grown_ns"] - naps["late_ns"]) / NAP_NS, _USUAL))


def take_naps(reader: MappedReader, cpus: Sequence[int]) -> dict[int, Naps]:
    """Let a thread on each of *cpus* sleep some dozens of times, all at the same time: 1 s or so.

    Returns an array of `NAP` for each CPU; it is empty where that can't be done, or its structure
    can't be interpreted. Else raises as `Reader.read` does.
    """
    naps = {cpu: np.zeros(0, NAP) for cpu in cpus}
    errors: list[BaseException] = []
    stop = threading.Event()

    def sleep(cpu: int) -> None:
        try:
            pin(cpu)
            naps[cpu] = _naps(reader, cpu, stop)
        except (OSError, StructureError):
            pass  # it went offline, or what it has is not known: others say so
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=sleep, args=(cpu,), daemon=True) for cpu in cpus]
    try:
        for thread in threads:
            thread.start()
        until = time.monotonic() + _PATIENCE_S
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
    finally:
        stop.set()
    if errors:
        raise errors[0]
    return dict(naps)


def _naps(reader: MappedReader, cpu: int, stop: threading.Event) -> Naps:
    naps = np.zeros(_NAPS, NAP)
    taken = 0
    for _ in range(_NAPS):
        if stop.is_set():
            break
        before, began_ns = reader.read(cpu), time.monotonic_ns()
        time.sleep(NAP_NS / 1e9)
        passed_ns, after = time.monotonic_ns() - began_ns, reader.read(cpu)
        grown_ns = after.stolen_ns - before.stolen_ns
        if before.epoch == after.epoch and abs(grown_ns) < _IMPOSSIBLE_NS:  # else others judge it
            naps[taken] = (passed_ns - NAP_NS, grown_ns)
            taken += 1
    return naps[:taken]
