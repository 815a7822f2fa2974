# SPDX-License-Identifier: MIT
"""What `--json` writes. Names carry their units, and null is unknown; a name that is there stays.

Every object has "schema", its name and version: a new version may take names away, the same one
only adds some. "time_s" is Unix time, "monotonic_ns" is CLOCK_MONOTONIC.

An integer beyond ±(2**53 - 1), which many parsers would round, is a decimal string (RFC 7493, 2.2):
"9007199254740993". That may be any that is documented as a number.

"instance", which read, info, validate and watch have, is 16 hexadecimal digits behind 0x: another
one each time the module is loaded (for procfs: at each boot). Only within one instance are epochs
and counts to be compared.

guestpv.read/1, one object:
    source          kind (device, image or procfs), path, resolution_ns, simulated (whether a
                    simulation wrote the counts, so that nothing was stolen)
    monotonic_ns    when the counts were read
    cpus            of each: cpu, state (absent, online, offline, refused, starting), origin (none,
                    adopted, claimed), fault, valid, epoch, reason (why the epoch began: none,
                    first_seen, hotplug, found_lower, restored, relearned), epoch_stolen_ns (the
                    count when the module first saw it in this epoch; null where it saw none),
                    revision, attributes, stolen_ns, and procstat_steal_ns, which is what the kernel
                    counted
    total           stolen_ns, procstat_steal_ns: the sums; CPUs that have null are left out

guestpv.info/1, one object; null for what is not there, or was not called:
    source, smccc_version (as in "1.1"), conduit (none, smc, hvc)
    cpus            of each: cpu, state, origin, fault, epoch, reason, epoch_stolen_ns, ipa,
                    st_call; revision and attributes as the module last saw them,
                    unknown_since_s (Unix time, if one is not 0); and what the calls returned, as
                    signed numbers: arch_features, features_self, features_st, features_st_draft,
                    features_undefined, features_st_smc32, features_smc32, st_return

guestpv.check/1, one object, also where something went wrong (then with status and text alone):
    status          OK, WARNING, CRITICAL, UNKNOWN, and text: what is said in the line
    source, max_percent, warn_percent, watched_ns; judged: worst or total, which share is of
    share, total    percent of the time online_ns (null where some is not known), and the bounds
                    low_percent and high_percent; cpus: the same of each cpu

guestpv.sim/1, one object when it begins: path, instance, vcpus, seed; and then
guestpv.sim-event/1, one for each event of the script when it has happened: at_s (seconds of the
simulation), what, and what else the script says of it: cpus, percent, seconds, ...

guestpv.load/1, guestpv.unload/1, one object:
    changed         whether anything was to be done; load has also module, built, adopt_offset

guestpv.validate/1, one object:
    source, kernel (uname -r), duration_s; instance is that of the beginning
    passed, warned, failed, skipped: how many checks
    checks          of each: id, group, promise, clause, effect (nothing, load, hotplug, suspend,
                    reload), verdict (pass, warn, fail, skip), text, advice, figures, duration_s
    figures         by check, {} where it has none; what fails names the first cpu that broke it
      discovery.st           st_call: the numbers of PV_TIME_ST that are vouched for
      structure.revision     looks: how often it was seen; where it failed, how often it was not 0,
      structure.attributes   with cpu, and revision or attributes: what was seen then
      counter.monotonic      failed: cpu, decreases: how often it went back
      counter.passed         errors: cpu and error_ns of each, the time that a look takes;
                             failed: cpu, leaps: how often, excess_ns: by how much at worst
      counter.idle           counted_shares: of each cpu's undisturbed sleep, what part was counted
      counter.whole          failed: cpu
      gaps.bound             failed: cpu, reported_ns as stolen, missing_ns: no more can be
      gaps.proportion        gaps, long ones that are judged, and switched: in which the guest ran
                             something else; interrupts_ns of the guest, by cpu; factor, with
                             factor_low and factor_high: what is counted of what is missing, of all
                             vCPUs together, and constant_ns, what is missing of each gap beside
                             that; factors by cpu (null: too few gaps); long_gaps: of each, cpu,
                             began_ns, length_ns, stolen_ns, switches, as
                             guestpv.latency.observation.LONG_GAP says, to be judged again
      gaps.lost              gaps, uncounted: those that were not counted at all, like_counted: what
                             part of these is as long as the counted ones, longer_than_counted: how
                             many were counted and are longer than that explains
      gaps.share             of all vCPUs together: gaps, missing_ns in them, stolen_ns of it,
                             waited_in_guest_ns for other tasks, longest_ns of all gaps
      kernel.agrees          procstat_steal_ns and stolen_ns over the same interval
      host.agrees            errors: of each cpu, host_ns, error_ns: how much more the count grew,
                             uncertainty_ns of that
      life.paused            warned: stood_still_s, give or take a second
      life.continues         failed: cpus, lost_ns of each
      life.announced         warned or failed: cpus
      life.grew              grown_ns, the most of a CPU, and passed_ns; failed: cpus
      life.stayed            warned or failed: cpus
      life.interface         failed: cpus

guestpv.validate-record/1, one object, which validate --record writes and --compare reads; the
numbers of states, reasons and the like are those of kmod/uapi/guestpv.h:
    source          device or image; guestpv (its version), kernel (uname -r)
    machine         a hash of /etc/machine-id, of guestpv's own; null where there is none
    boot_id         as in /proc/sys/kernel/random/boot_id; generation: of the VM by /dev/vmclock0,
                    or null
    began, ended    clocks before the counts were read, and after it: monotonic_raw_ns, boottime_ns,
                    realtime_ns, and rtc_s (null where there is no RTC)
    instance, sequence, smccc_version, conduit: of the header; possible: how many CPUs there can be
    cpus            of each that is not absent: cpu, state, origin, fault, reason, epoch, revision,
                    attributes, stolen_ns (null: not to be had, or not to be interpreted),
                    epoch_stolen_ns (null: none was seen), ipa, st_call, and answers: what each call
                    returned, null where it was not made

guestpv.checks/1, one object, for validate --list:
    checks          of each: id, group, promise, clause, effect, live (whether it needs a
                    hypervisor, and not only the index of a page image)

guestpv.watch/1, an object a line, one for each interval:
    interval_ns     how long it was; watched_ns: all intervals together
    cpus            as in guestpv.read/1 without procstat_steal_ns, and the fields of
                    guestpv.account.history.Figures: among them total_ns, which never falls, and
                    unknown_ns
    total           the fields of guestpv.account.history.Figures, of all CPUs together
    events          what happened in the interval: time_s, kind, cpu (or null), text; kinds are
                    online, offline, refused, restart, backwards (the count, within its
                    epoch), revision, procstat_backwards, restored (the whole VM was), moved (to
                    another host, or its clock was disrupted otherwise) and no_events (the
                    kernel's can't be received)
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from guestpv.account.history import Change, History, Rows
from guestpv.cli.view import View
from guestpv.page.abi import NO_COUNT, Fault, Origin, Reason, State
from guestpv.page.names import name_of
from guestpv.source.reader import Source

MOST_EXACT = 2**53 - 1
"""The integers up to which a double has each."""


def write(schema: str, record: dict[str, Any]) -> None:
    """Write one object as a line."""
    print(dumps(schema, record), flush=True)


def dumps(schema: str, record: dict[str, Any]) -> str:
    """As one line. Integers that a double might round become decimal strings."""
    record = {"schema": schema, "time_s": round(time.time(), 6), **record}
    return json.dumps(_interoperable(record))


def _interoperable(value: Any) -> Any:
    match value:
        case dict():
            return {name: _interoperable(item) for name, item in value.items()}
        case list() | tuple():
            return [_interoperable(item) for item in value]
        case int() if abs(value) > MOST_EXACT:
            return str(value)
        case _:
            return value


def instance_record(instance: int) -> str:
    return f"{instance:#018x}"


def source_record(source: Source) -> dict[str, Any]:
    return {
        "kind": source.kind,
        "path": source.path,
        "resolution_ns": source.resolution_ns,
        "simulated": source.simulated,
    }


def epoch_stolen_record(row: np.void) -> int | None:
    """Of a row of a snapshot, or an entry of the index."""
    first = int(row["epoch_stolen_ns"])
    return first if row["epoch"] and first != NO_COUNT else None


def cpu_record(row: np.void) -> dict[str, Any]:
    valid = bool(row["valid"])
    return {
        "cpu": int(row["cpu"]),
        "state": name_of(State, row["state"]),
        "origin": name_of(Origin, row["origin"]),
        "fault": name_of(Fault, row["fault"]),
        "valid": valid,
        "epoch": int(row["epoch"]),
        "reason": name_of(Reason, row["reason"]),
        "epoch_stolen_ns": epoch_stolen_record(row),
        "revision": int(row["revision"]),
        "attributes": int(row["attributes"]),
        "stolen_ns": int(row["stolen_ns"]) if valid else None,
    }


class WatchRecords(View):
    """Writes an object for each interval."""

    def __init__(self, source: Source, rows: Rows) -> None:
        self._source = source_record(source)
        self._rows = rows
        self._changes: list[Change] = []

    def show(self, history: History, changes: Sequence[Change], ended: bool) -> None:
        self._changes += changes
        if not ended:
            return
        events = [asdict(change) for change in self._changes]
        self._changes.clear()
        write(
            "guestpv.watch/1",
            {
                "source": self._source,
                "instance": instance_record(int(history.rows["instance"][0])),
                "interval_ns": history.interval_ns,
                "watched_ns": history.watched_ns,
                "cpus": [
                    cpu_record(history.rows[row]) | asdict(history.figures(np.array([row])))
                    for row in self._rows
                ],
                "total": asdict(history.figures(self._rows)),
                "events": events,
            },
        )
