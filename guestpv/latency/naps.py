# SPDX-License-Identifier: MIT
"""A thread on each vCPU that sleeps on a timer, again and again: a halted vCPU is not stolen from.

Only what it came late by may have been. Sometimes something else wakes the vCPU meanwhile, and has
to wait for the host, too: so the undisturbed sleep is looked at, and not the sum. And a vCPU on
which something else of the guest runs does not sleep.

Who wakes in the midst of what the host takes waits for the rest of it: such waits are of all
lengths, even where what a busy vCPU waits for is always the same.
"""

import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from guestpv._native import pin
from guestpv.errors import StructureError
from guestpv.latency.freeing import free
from guestpv.source.mapped import MappedReader
from guestpv.source.procstat import accounts

NAP_NS = 10_000_000
"""On average."""
NAP = np.dtype([("length_ns", np.int64), ("late_ns", np.int64), ("grown_ns", np.int64)])
"""One sleep: how long it was to be, by how much it was longer, and what the count grew by."""

_NAPS = 100
"""Naps that are taken at most, if there is no time for more,"""
_PLENTY = 40
"""and as many from which the vCPU woke on time as are enough."""
_ON_TIME_NS = NAP_NS // 3
"""Who wakes later may have been kept from halting at all, and then that is stolen time."""
_ENOUGH = 20
"""Naps from which the vCPU woke on time, of which one can tell."""
_USUAL = 0.1
"""Nine of ten naps may be disturbed: a host may take a vCPU as long as that is not halted yet (KVM
polls for half a millisecond first), or when something else wakes it. A liar counts all of each."""
_PATIENCE_S = 10
_IMPOSSIBLE_NS = 1 << 62


Naps = npt.NDArray[np.void]
"""An array of `NAP` rows."""


@dataclass(frozen=True, slots=True)
class Slept:
    """What one thread saw of its own CPU."""

    naps: Naps
    others_share: float
    """For what part of the time the CPU ran something else, or nothing is known of that (1)."""


def counted_share(naps: Naps) -> float | None:
    """What part of undisturbed sleep was counted as stolen; None if there was too little."""
    naps = naps[naps["late_ns"] < _ON_TIME_NS]
    if len(naps) < _ENOUGH:
        return None
    return float(np.quantile((naps["grown_ns"] - naps["late_ns"]) / naps["length_ns"], _USUAL))


def lengths_ns(cpu: int) -> Iterator[int]:
    """Of the naps of a CPU, from half to one and a half of `NAP_NS`.

    Were they all alike, each could end where the one before did in what a host does again and
    again: under one that gave turns of 10 ms, 93 of 100 naps of 10 ms ended in somebody else's.
    """
    chosen = random.Random(cpu)
    while True:
        yield chosen.randrange(NAP_NS // 2, 3 * NAP_NS // 2)


def take_naps(reader: MappedReader, cpus: Sequence[int], seconds: float = 0.0) -> dict[int, Slept]:
    """Let a thread on each of *cpus* sleep again and again, all at the same time.

    For so many *seconds*, or for 1 or 2 if those are too few to tell whether sleep is counted.
    Returns what each saw; its naps are empty where it can't run, or its structure can't be
    interpreted. Else raises as `Reader.read` does.
    """
    naps = {cpu: np.zeros(0, NAP) for cpu in cpus}
    ran_ns = dict.fromkeys(cpus, 0)
    errors: list[BaseException] = []
    stop = threading.Event()
    until = time.monotonic() + seconds

    def sleep(cpu: int) -> None:
        try:
            pin(cpu)
            naps[cpu] = _naps(reader, cpu, until, stop)
            ran_ns[cpu] = time.thread_time_ns()
        except (OSError, StructureError):
            pass  # it went offline, or what it has is not known: others say so
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=sleep, args=(cpu,), daemon=True) for cpu in cpus]
    before, began_ns = accounts(cpus), time.monotonic_ns()
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, until + _PATIENCE_S - time.monotonic()))
    finally:
        stop.set()
        free(threads)
    if errors:
        raise errors[0]
    passed_ns = time.monotonic_ns() - began_ns
    own_ns = accounts(cpus)["idle_ns"] - before["idle_ns"] + [ran_ns[cpu] for cpu in cpus]
    others_shares = np.clip(1 - own_ns / passed_ns, 0, 1).tolist()
    return {cpu: Slept(naps[cpu], share) for cpu, share in zip(cpus, others_shares, strict=True)}


def _naps(reader: MappedReader, cpu: int, until: float, stop: threading.Event) -> Naps:
    naps: list[tuple[int, int, int]] = []
    on_time = 0
    for taken, length_ns in enumerate(lengths_ns(cpu)):
        enough = on_time >= _PLENTY or taken >= _NAPS
        if stop.is_set() or (enough and time.monotonic() >= until):
            break
        before, began_ns = reader.read(cpu), time.monotonic_ns()
        time.sleep(length_ns / 1e9)
        passed_ns, after = time.monotonic_ns() - began_ns, reader.read(cpu)
        grown_ns = after.stolen_ns - before.stolen_ns
        if before.epoch == after.epoch and abs(grown_ns) < _IMPOSSIBLE_NS:  # else others judge it
            naps.append((length_ns, passed_ns - length_ns, grown_ns))
            on_time += passed_ns - length_ns < _ON_TIME_NS
    return np.array(naps, NAP)
