# SPDX-License-Identifier: MIT
"""The guest that is judged, and the evidence: each piece is gathered when a check first asks."""

import math
import os
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from guestpv.cpulist import CpuList
from guestpv.driver.ask import Calls, ask
from guestpv.errors import Error, NoSourceError
from guestpv.latency.naps import Slept, take_naps
from guestpv.latency.observation import LongGaps, Observations, observe
from guestpv.latency.pinned import allowed_cpus
from guestpv.page.abi import DEVICE, FLAG_PROBE, NOT_CALLED, Conduit, Origin, State
from guestpv.page.names import fault_text
from guestpv.source.mapped import MappedReader
from guestpv.source.reader import Snapshot
from guestpv.validate.comparison import Comparison, Event, compare
from guestpv.validate.disruption import (
    CHECK_MS,
    CPUS,
    Progress,
    Resumed,
    Switched,
    reload,
    suspend,
    switch_cpus,
)
from guestpv.validate.hostaccount import HostAccount, HostView
from guestpv.validate.kernelwatch import KernelWatch, Sample
from guestpv.validate.proportion import Proportions, proportions
from guestpv.validate.record import Record, rtc_s, take
from guestpv.validate.undisturbed import undisturbed

_SETTLED_S = 0.2
"""An idle CPU accounts for steal late. After so long, all that is watched have been busy."""
_NAPPING, _NAPPING_S = 0.6, 20.0
"""For what part of the time for which it is watched each sleeps afterwards, and at most."""
_AGAIN_S = 10.0
"""For how long the vCPUs are watched again at most, if their gaps tell too little."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the user chose."""

    observe_s: float = 20.0
    """How long every vCPU is kept busy and watched."""
    disruptive: bool = False
    """Whether the guest may be changed."""
    wait_s: float = 0.0
    """How long to wait for the VM to be paused or moved."""
    cpus: tuple[int, ...] | None = None
    """The CPUs to judge; None for all."""
    leave_isolated: bool = False
    """Whether to leave isolated CPUs alone."""
    host_account: HostAccount | None = None
    """Where the host's own account can be read."""
    before: Record | None = None
    """The guest as it was before *event*."""
    event: Event | None = None
    """What happened to the VM since then."""
    refusal: str = "the module was loaded with probe=1"
    """Why the module would not load otherwise, where it was loaded to probe only."""


@dataclass(frozen=True, slots=True)
class Watched:
    """Every vCPU, watched from itself over one interval; and the others' word on the same."""

    rows: Observations
    long_gaps: LongGaps
    unwatched: dict[int, str]
    """The CPUs that should have been, and why they were not."""
    before: Snapshot
    after: Snapshot
    samples: tuple[Sample, Sample]
    """From within the interval, near its ends."""
    around: tuple[Sample, Sample]
    """From before the vCPUs were kept busy, and from when they were idle again."""
    interrupts_ns: npt.NDArray[np.int64]
    """Per CPU, what the guest's own interrupts took, by /proc/stat."""
    kernel_backwards_ns: npt.NDArray[np.int64]
    """Per CPU, the most by which /proc/stat's steal was lower than when it was last known."""
    host: tuple[HostView, HostView] | str
    """The host's account at both ends, or why it is not to be had."""
    slept: bool
    """Whether the whole machine was asleep meanwhile: then nothing follows from the rest."""

    @property
    def judged(self) -> Observations:
        """The rows of the vCPUs whose count was watched from themselves, all the time."""
        rows = self.rows
        judged: Observations = rows[(rows["looks"] > 1) & (rows["absent"] == 0)]
        return judged


def missing_ns(watched: Watched) -> npt.NDArray[np.int64]:
    """For each judged row, what is missing and went to no other task and no interrupt of the guest.

    Less than 0 where those are known less exactly.
    """
    rows = watched.judged
    missing: npt.NDArray[np.int64] = rows["gaps_ns"].astype(np.int64)
    missing -= rows["waited_ns"].astype(np.int64)
    missing -= watched.interrupts_ns[rows["cpu"].astype(np.intp)]
    return missing


class Guest:
    """What a check may look at, and do."""

    def __init__(
        self,
        path: str = DEVICE,
        options: Options = Options(),
        progress: Progress = lambda _: None,
    ) -> None:
        """*path* is that of the device, or of a page image. Raises as `MappedReader` does."""
        self._path = path
        self.open()
        self.options = options
        self.progress = progress
        self.first = self.reader.snapshot()
        """As it was when the run began."""
        self.first_ipas = self.entries["ipa"]
        self._clocks = Clocks.now()
        self._stood_still_s: float | None = None

    @cached_property
    def wait_until_s(self) -> float:
        """Until when, by CLOCK_MONOTONIC, to wait for the VM to be stopped: it begins now."""
        return time.monotonic() + self.options.wait_s

    @property
    def live(self) -> bool:
        """Whether there is a hypervisor behind it."""
        return self.reader.source.kind == "device"

    @property
    def probed(self) -> bool:
        """Whether the module only asked, and mapped no structure."""
        return bool(self.reader.header["flags"] & FLAG_PROBE)

    @cached_property
    def answers(self) -> Calls | str:
        """What the hypervisor answers now, or why it can't be asked."""
        if not self.live:
            return "needs a live hypervisor, not a page image"
        if os.geteuid():
            return "only root may load the module guestpv_ask, which asks"
        if self.reader.header["conduit"] == Conduit.NONE:
            return "there is no conduit to ask by"
        try:
            with undisturbed():
                return ask()
        except Error as error:
            return str(error)

    @property
    def entries(self) -> npt.NDArray[np.void]:
        """The index as it is now."""
        return self.reader.entries.copy()

    @cached_property
    def asked(self) -> list[int]:
        """The CPUs whose hypervisor was asked: those that were online once."""
        return self._chosen(self.entries["arch_features"] != NOT_CALLED)

    @property
    def adopted(self) -> bool:
        """Whether the kernel owns the structures, and so accounts for steal itself."""
        return bool((self.entries["origin"] == Origin.ADOPTED).any())

    @property
    def watchable(self) -> list[int]:
        """The CPUs that are online, that this process may run on, and that are to be watched."""
        return [cpu for cpu, why in self._watchable.items() if not why]

    def _chosen(self, of: npt.NDArray[np.bool_]) -> list[int]:
        """The CPUs for which *of* is true, and that the user did not leave out."""
        cpus: list[int] = np.flatnonzero(of).tolist()
        chosen = self.options.cpus
        return cpus if chosen is None else [cpu for cpu in cpus if cpu in chosen]

    @cached_property
    def _watchable(self) -> dict[int, str]:
        """The CPUs that are online and chosen, and why each is not watched; empty if it is."""
        online = self._chosen(self.reader.snapshot()["state"] == State.ONLINE)
        allowed = allowed_cpus(self.reader.cpus)
        isolated = _isolated() if self.options.leave_isolated else frozenset()

        def why_not(cpu: int) -> str:
            if cpu in isolated:
                return "it is isolated, and left alone"
            if cpu not in allowed:
                return "this process may not run there (see cpuset(7))"
            return ""

        return {cpu: why_not(cpu) for cpu in online}

    @property
    def seen(self) -> Watched | None:
        """What was watched; None if no check has asked for that so far."""
        seen: Watched | None = self.__dict__.get("watched")
        return seen

    @property
    def unjudged(self) -> dict[int, str]:
        """The CPUs that were chosen and of which checks that watch say nothing, each with the
        reason, as far as it is known by now: this asks for no evidence.

        Those that never came online are not among them.
        """
        reasons: dict[int, str] = {}
        entries = self.entries
        for cpu in self._chosen(entries["state"] != State.ABSENT):
            if entries["state"][cpu] == State.REFUSED:
                reasons[cpu] = f"it has no structure: {fault_text(entries['fault'][cpu])}"
            elif entries["state"][cpu] != State.ONLINE:
                reasons[cpu] = "it is offline"
        if self.live:
            reasons |= self._watchable
        if self.seen:
            reasons |= self.seen.unwatched
            for row in self.seen.rows:
                if row["looks"] <= 1:
                    reasons[int(row["cpu"])] = "its count could not be interpreted"
                elif row["absent"]:
                    reasons[int(row["cpu"])] = "it went offline while it was watched"
                elif self.seen.slept:
                    reasons[int(row["cpu"])] = "the machine slept while it was watched"
        return {cpu: why for cpu, why in sorted(reasons.items()) if why}

    @cached_property
    def naps(self) -> dict[int, Slept]:
        """What the count of each vCPU that is judged does while that sleeps."""
        cpus = self.watched.judged["cpu"].tolist()
        seconds = min(_NAPPING * self.options.observe_s, _NAPPING_S)
        self.progress(f"letting {len(cpus)} vCPUs sleep, again and again, for {seconds:.0f} s")
        return take_naps(self.reader, cpus, seconds)

    @cached_property
    def watched(self) -> Watched:
        """Watch every vCPU; again if the machine slept meanwhile."""
        watched = self._watch()
        return self._watch() if watched.slept else watched

    @cached_property
    def proportions(self) -> Proportions:
        """Of the long gaps of the vCPUs that are judged; if they tell too little, of those of twice
        as long again, too.

        They do where each gap has something else in it, too, and where some may be lost.
        """
        gaps, cpus = self.watched.long_gaps, self.watched.judged["cpu"].tolist()
        found = proportions(gaps[np.isin(gaps["cpu"], cpus)], cpus)
        if not found.whole.tells_too_little:
            return found
        seconds = min(2 * self.options.observe_s, _AGAIN_S)
        saying = f"watching {len(cpus)} vCPUs for {seconds:g} s more"
        more = observe(self.reader, cpus, seconds, lambda: self.progress(saying))
        return proportions(np.concatenate([found.gaps, more.long_gaps]), cpus)

    @property
    def unwatched(self) -> str | None:
        """Why nothing follows from what was watched; None if something does."""
        if not len(self.watched.rows):
            return "there is no vCPU with a structure that this process may run on"
        if self.watched.slept:
            return "the machine slept while it was watched, twice"
        if not len(self.watched.judged):
            return "no count could be interpreted, and watched from its own CPU all the time"
        return None

    def _watch(self) -> Watched:
        clocks = Clocks.now()
        account = self.options.host_account
        host_before = account.view(self.reader) if account else None
        kernel = KernelWatch(self.reader)
        seconds, began = self.options.observe_s, math.inf

        def progress() -> None:
            nonlocal began
            now = time.monotonic()
            began = min(began, now)
            kernel.update(settled=now - began > _SETTLED_S)
            passed_s = min(seconds, now - began)
            self.progress(f"watching {len(self.watchable)} vCPUs: {passed_s:.0f} of {seconds:g} s")

        before = self.reader.snapshot()
        observed = observe(self.reader, self.watchable, seconds, progress)
        after = self.reader.snapshot()
        return Watched(
            rows=observed.rows,
            long_gaps=observed.long_gaps,
            unwatched=observed.unwatched,
            before=before,
            after=after,
            samples=(kernel.first, kernel.last),
            around=(kernel.began, kernel.afterwards()),
            interrupts_ns=kernel.interrupts_ns,
            kernel_backwards_ns=kernel.backwards_ns,
            host=self._host_views(host_before),
            slept=Clocks.now().slept(clocks),
        )

    def _host_views(self, before: HostView | None) -> tuple[HostView, HostView] | str:
        """The host's account *before* and now, or why it is not to be had."""
        account = self.options.host_account
        if account is None or before is None:
            return "the host's account is not to be had here: see --host-account"
        try:
            return before, account.view(self.reader)
        except NoSourceError as error:  # what else was watched is worth its time
            return str(error)

    @cached_property
    def hotplug(self) -> list[Switched] | str:
        """CPUs that were taken offline and back, or why none was."""
        if not self.options.disruptive:
            return "it takes CPUs offline: see --disruptive"
        return switch_cpus(self.reader, self.watchable[1:], self.progress)

    @cached_property
    def suspended(self) -> Resumed | str:
        """What sleep did, or why there was none."""
        if not self.options.disruptive:
            return "the guest would sleep: see --disruptive"
        return suspend(self.reader, self.progress)

    @cached_property
    def reloaded(self) -> Resumed | str:
        """What loading the module again did, or why that was not done."""
        if not self.options.disruptive:
            return "it removes the module for a moment: see --disruptive"
        return reload(self.reader, self.open, self.progress)

    @cached_property
    def compared(self) -> Comparison | str:
        """The guest as it is now beside *before*, or why there is nothing to compare.

        Raises MismatchError if *before* is of another guest, or *event* can't have happened.
        """
        before, event = self.options.before, self.options.event
        if before is None or event is None:
            return "it takes a record and an event: see --record, --compare and --event"
        chosen = self._chosen(np.ones(len(self.reader.cpus), np.bool_))
        until_s = time.monotonic() + _looked_within_s()
        while True:
            comparison = compare(before.of(chosen), take(self.reader).of(chosen), event)
            if not comparison.unannounced() or time.monotonic() > until_s:
                return comparison
            self.progress("waiting for the module to look at counts that are lower")
            time.sleep(0.1)

    def stood_still_s(self) -> float | None:
        """For how long the VM has been stopped since the run began; None if that can't be known.

        Up to a second too much. Asked for a second, it is no less than that.
        """
        now_s = Clocks.now().stood_still_s(self._clocks)
        if now_s is not None:
            self._stood_still_s = max(now_s, self._stood_still_s or 0.0)
        return self._stood_still_s

    def open(self) -> MappedReader:
        """Open the source again."""
        self.reader = MappedReader(self._path)
        return self.reader


def _looked_within_s() -> float:
    """How long the module may take to see that a count is lower; on an idle CPU it is late."""
    check_ms = _content(str(CHECK_MS))
    return 3 * int(check_ms) / 1000 if check_ms else 0.0


def _isolated() -> frozenset[int]:
    """The CPUs that the scheduler leaves alone (isolcpus=), or the tick (nohz_full=)."""
    cpus: set[int] = set()
    for name in "isolated", "nohz_full":
        try:
            cpus.update(CpuList.parse((CPUS / name).read_text()).cpus)
        except (OSError, ValueError):  # empty, or "(null)" on a kernel that has no such thing
            continue
    return frozenset(cpus)


@dataclass(frozen=True, slots=True)
class Clocks:
    """Clocks that run on when others stand still, all at about the same time."""

    monotonic_s: float
    boot_s: float
    """Goes on while the machine sleeps."""
    rtc_s: int | None
    """Goes on while the VM is stopped, too; None where there is no RTC."""
    suspends: str
    """How often the machine has slept, where the kernel says so: the clocks may go on in a sleep
    to idle."""

    @classmethod
    def now(cls) -> "Clocks":
        return cls(
            time.monotonic(),
            time.clock_gettime(time.CLOCK_BOOTTIME),
            rtc_s(),
            _content("/sys/power/suspend_stats/success"),
        )

    def slept(self, earlier: "Clocks") -> bool:
        """Whether the machine has slept since *earlier*."""
        slept_s = (self.boot_s - earlier.boot_s) - (self.monotonic_s - earlier.monotonic_s)
        # The two are not read at the very same time, and between them time may be stolen.
        return slept_s > 0.5 or self.suspends != earlier.suspends

    def stood_still_s(self, earlier: "Clocks") -> float | None:
        """For how long the VM was stopped since *earlier*, give or take a second; None: unknown.

        The RTC counts whole seconds.
        """
        if self.rtc_s is None or earlier.rtc_s is None:
            return None
        return (self.rtc_s - earlier.rtc_s) - (self.boot_s - earlier.boot_s)


def _content(path: str) -> str:
    """What a file holds; empty if it can't be read."""
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
