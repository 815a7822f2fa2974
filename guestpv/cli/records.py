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

guestpv.run/1, one object; each time is a pair, at least and at most, which are the same where it is
known exactly, and null where nothing is known of it:
    command         with its arguments
    runs            of each: status (the exit code, or -N if signal N ended it); wall_ns; cpu_ns, on
                    vCPUs; stolen_ns; ran_ns, cpu_ns without it; waited_ns, of its first thread, or
                    with all_waits of all its tasks that ended, for a vCPU on which this guest ran
                    something else; idle_ns, the wall time on a host that takes nothing;
                    slower_percent, than there; uncounted_ns (one number), of cpu_ns that in which
                    only root can count what is stolen
    median          of each of these; spread: of wall_ns and idle_ns, from the least to the greatest
    alone           whether what was stolen was counted of the command alone; else it is at most
                    what all vCPUs lost meanwhile; null where nothing is known of it
    unknown         why nothing is known of what was stolen, or null
    finished        whether there were as many runs as were asked for; if not, the last of them may
                    be a part of one, and is in median and spread

guestpv.bench/1, one object; the fields of costs and cpus are those of the classes Cost and
Behaviour of guestpv.latency.bench, which say what each is:
    source, instance, kernel, machine (uname -m), python (its version), seconds
    costs           by call: median_ns, q1_ns, q3_ns, steady
    cpus            of each: cpu, wall_ns, stolen_ns, round_percent, moves, step_ns, worst_ns,
                    missing_ns, counted_ns, late, late_ns, explained_percent, waited_ns
    left_out        by cpu, why nothing is said of it
    unsteady        why figures of this run should not be quoted; empty if they may be
    finished        whether it was not interrupted

guestpv.jitter/1, one object; threads and histograms as oslat's, all times in nanoseconds:
    source, instance, kernel, machine: as above; source and instance are null where there is no
                    count, with the reason in unknown (else null)
    threshold_ns    from which length on it is a gap; step_ns, of the counter; until_gap_ns (null
                    if no gap was to end it); priority, throttling (what that does; else null)
    finished        whether the time was over, and not a gap or the user ended it
    num_threads     and thread, by number from "0" on; of each: cpu, duration_ns, min_ns (the
                    shortest time between two looks), max_ns (the longest gap); noise_ns, all gaps
                    together, and noise_percent; gaps; of all gaps stolen_ns (null where there is no
                    count), queue_ns and other_ns, each at least and at most; percentiles_ns of the
                    gaps by percent (null without one); histogram_ns, how many gaps there were from
                    this length to the next of a row of 32 to each power of two; left_ns (null, or
                    when its vCPU went: CLOCK_MONOTONIC); and the fields of
                    guestpv.latency.jitter.NOISE that are left: looks, measuring_ns, voluntary,
                    involuntary, unknown, restarts, late, late_ns, short_stolen_ns
    worst           of a thread, the longest gaps: cpu, began_ns (CLOCK_MONOTONIC), time_s,
                    length_ns, stolen_ns, queue_ns, other_ns, voluntary, involuntary
    outlier         the gap that ended it, as one of these, or null
    left_out        by cpu, why nothing is said of it

guestpv.sim/1, one object when it begins: path, instance, vcpus, seed; and then
guestpv.sim-event/1, one for each event of the script when it has happened: at_s (seconds of the
simulation), what, and what else the script says of it: cpus, percent, seconds, ...

guestpv.load/1, guestpv.unload/1, one object:
    changed         whether anything was to be done; load has also module, built, adopt_offset

guestpv.validate/1, one object; its JSON Schema is guestpv/cli/reports/validate.schema.json, which
`guestpv validate --schema` writes, and says what each field is. null for what could not be opened:
    source, instance (that of the beginning), contention, unjudged, left_out, kernel, versions,
    options, duration_s, exit_code
    passed, warned, failed, errors, skipped: how many checks
    levels          of each level the worst verdict
    conclusion      what follows: verdict, text, checks; and conditions, of the run itself
    checks          of each: id, group, promise, clause, level, severity, effect, verdict (pass,
                    warn, fail, error, skip), text, advice, figures, cpus (all that break the
                    promise), unjudged, duration_s
    figures         by check, what was measured, {} where nothing was; the schema has them all
    long_gaps       of gaps.proportion: the fields of guestpv.latency.observation.LONG_GAP, by which
                    a run can be judged again
    long_waits      of gaps.waking: a CPU, and the fields of guestpv.latency.naps.NAP

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
    checks          of each: id, group, promise, clause, level, severity, effect, live (whether it
                    needs a hypervisor, and not only the index of a page image), advice (where a
                    finding has none of its own)

guestpv.watch/1, an object a line, one for each interval:
    interval_ns     how long it was; watched_ns: all intervals together
    cpus            as in guestpv.read/1 without procstat_steal_ns, and the fields of
                    guestpv.account.history.Figures: among them total_ns, which never falls, and
                    unknown_ns
    total           the fields of guestpv.account.history.Figures, of all CPUs together
    events          what happened in the interval: time_s, kind, cpu (or null), text; of a restart
                    epoch (the new one) and reason, as in guestpv.read/1. Kinds are those of
                    guestpv.event/1, without those of the module

guestpv.tasks/1 and guestpv.cgroups/1, an object a line, of watch --tasks and --cgroup:
    interval_ns     how long it was; left_out: how many more there are, and are not counted
    tasks, cgroups  of each, the worst first: task (number and name) or cgroup (its path);
                    stolen_ns in the interval, total_ns since it is counted: at least and at most

guestpv.event/1, an object a line, one for each event:
    source, time_s, kind, cpu, text, epoch, reason: as above; kinds are begin, which is the first,
                    and those that guestpv.events documents: online, offline, restart, revision,
                    refused, backwards, restored, moved, module_gone, module_loaded, unreadable,
                    readable, procstat_backwards, overrun, no_events
"""

from __future__ import annotations

import json
import math
import time
from typing import TYPE_CHECKING, Any

from guestpv.page.abi import NO_COUNT, Fault, Origin, Reason, State
from guestpv.page.names import name_of

if TYPE_CHECKING:  # not all commands that write JSON need NumPy, which takes long to import
    import numpy as np

    from guestpv.latency.bounds import Bounds
    from guestpv.source.reader import Source

MOST_EXACT = 2**53 - 1
"""The integers up to which a double has each."""


def write(schema: str, record: dict[str, Any]) -> None:
    """Write one object as a line."""
    print(dumps(schema, record), flush=True)


def dumps(schema: str, record: dict[str, Any]) -> str:
    """As one line. Integers that a double might round become decimal strings."""
    record = {"schema": schema, "time_s": round(time.time(), 6), **record}
    return json.dumps(plain(record), allow_nan=False)


def plain(value: Any) -> Any:
    """*value* as dicts, lists and scalars that any parser reads as they are meant.

    An integer that a double might round is a decimal string, a float that JSON does not have null.
    """
    match value:
        case dict():
            return {str(name): plain(item) for name, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case _ if hasattr(value, "tolist"):  # NumPy's arrays and scalars
            return plain(value.tolist())
        case bool() | None:
            return value
        case int():
            return int(value) if abs(value) <= MOST_EXACT else str(int(value))
        case float():
            return value if math.isfinite(value) else None
        case _:
            return str(value)


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


def bounds_record(bounds: Bounds | None) -> list[int] | None:
    """At least and at most; null where there is nothing to say."""
    return None if bounds is None else [bounds.least_ns, bounds.most_ns]
