# SPDX-License-Identifier: MIT
"""guestpv jitter: what is kept of gaps, and the loop, while a test plays the hypervisor."""

import ctypes
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from heapq import nlargest
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestpv import Error, NoSuchCpuError
from guestpv.cli import jitterreport
from guestpv.cli.jitter import _report
from guestpv.latency import jitter, throttling
from guestpv.latency.bounds import Bounds
from guestpv.latency.jitter import (
    BUCKETS,
    GAP,
    NOISE,
    WORST,
    Counter,
    Jitter,
    bucket_edges,
    percentile_ns,
)
from guestpv.source.mapped import MappedReader

NATIVE = Path(__file__).parents[2] / "guestpv/native"
CPUS = sorted(os.sched_getaffinity(0))[:2]
CPU = CPUS[0]
MS = 1_000_000
SHIM = """
#include "tally.h"
/* Gaps as they are, and of no length: the count told so much late. */
void add_all(struct tally *tally, struct noise_gap *gaps, size_t number)
{
	for (size_t at = 0; at < number; at++) {
		if (gaps[at].length_ns)
			tally_add(tally, &gaps[at]);
		else
			tally_add_late(tally, gaps[at].stolen_most_ns);
	}
}
unsigned int bucket(uint64_t ns) { return tally_bucket(ns); }
"""


class Tally(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("noise", "histogram", "worst")),
        ("nr_worst", ctypes.c_size_t),
        *((name, ctypes.c_uint64) for name in ("owed_ns", "owed_since")),
    )


@pytest.fixture(scope="module")
def tally_c(tmp_path_factory):
    """tally.c alone, as the loop calls it."""
    directory = tmp_path_factory.mktemp("tally")
    (directory / "shim.c").write_text(SHIM)
    library = directory / "tally.so"
    flags = ["-shared", "-fPIC", "-O1", "-fsanitize=undefined", "-fno-sanitize-recover"]
    command = ["cc", *flags, f"-I{NATIVE}", directory / "shim.c", NATIVE / "tally.c"]
    subprocess.run([*command, "-o", library], check=True)
    return ctypes.CDLL(library)


def gap_rows(gaps):
    rows = np.zeros(len(gaps), GAP)
    for row, gap in zip(rows, gaps, strict=True):
        for name, value in gap.items():
            row[name] = value
    return rows


def tallied(tally_c, gaps, kept=WORST):
    """The sums, the histogram, the worst, and the gaps as they were divided."""
    noise, histogram = np.zeros(1, NOISE), np.zeros(BUCKETS, np.uint64)
    worst, rows = np.zeros(kept, GAP), gap_rows(gaps)
    tally = Tally(noise.ctypes.data, histogram.ctypes.data, worst.ctypes.data, kept)
    tally_c.add_all(ctypes.byref(tally), ctypes.c_void_p(rows.ctypes.data), len(rows))
    return noise[0], histogram, worst, rows


@st.composite
def gap(draw, longest=1 << 50):
    length = draw(st.integers(1, longest))
    parts = {"length_ns": length}
    for part in "stolen", "waited":
        low, high = sorted(draw(st.tuples(st.integers(0, length), st.integers(0, length))))
        parts |= {f"{part}_least_ns": low, f"{part}_most_ns": high}
    return parts | {"voluntary": draw(st.integers(0, 2)), "involuntary": draw(st.integers(0, 2))}


@given(st.lists(gap(), max_size=80))
def test_no_gap_is_dropped_and_the_worst_are_kept(tally_c, gaps):
    noise, histogram, worst, rows = tallied(tally_c, gaps)
    lengths = [gap["length_ns"] for gap in gaps]
    assert noise["gaps"] == histogram.sum() == len(gaps)
    assert noise["gaps_ns"] == sum(lengths)
    assert noise["longest_ns"] == max(lengths, default=0)
    kept = worst["length_ns"][worst["length_ns"] > 0].tolist()
    assert kept == nlargest(WORST, lengths)
    for gap in worst[worst["length_ns"] > 0]:
        assert gap == rows[int(gap["number"])]  # as it was, and each once
    for name in "voluntary", "involuntary", "stolen_least_ns", "queue_most_ns", "other_least_ns":
        assert noise[name] == rows[name].sum()


@given(st.integers(0, 2**64 - 1))
def test_a_length_is_in_its_bucket(tally_c, ns):
    least, most = bucket_edges()
    at = tally_c.bucket(ctypes.c_uint64(ns))
    assert least[at] <= ns <= most[at]
    assert int(most[at]) - int(least[at]) <= ns / 32


def test_buckets_leave_nothing_out():
    least, most = bucket_edges()
    assert (least[1:] == most[:-1] + np.uint64(1)).all()
    assert (least[0], most[-1]) == (0, 2**64 - 1)


@given(
    st.lists(st.integers(1, 1 << 50), min_size=1),
    st.floats(0, 100, exclude_min=True, allow_subnormal=False),
)
def test_percentiles_are_those_of_numpy_but_for_the_bucket(tally_c, lengths, percent):
    _, histogram, _, _ = tallied(tally_c, [{"length_ns": ns} for ns in lengths])
    true = int(np.percentile(np.array(lengths), percent, method="inverted_cdf"))
    said = percentile_ns(histogram, percent, max(lengths))
    assert true <= said <= true * (1 + 1 / 32)


@given(gap(longest=9))
def test_parts_are_all_that_can_be_and_no_more(tally_c, gap):
    """Who waits while the vCPU is stolen waits, too: tried for each overlap that there may be."""
    *_, (row,) = tallied(tally_c, [gap])
    length = gap["length_ns"]
    possible = [
        (waited - both, length - stolen - waited + both)
        for stolen, waited in product(
            *(
                range(gap[f"{part}_least_ns"], gap[f"{part}_most_ns"] + 1)
                for part in ("stolen", "waited")
            )
        )
        for both in range(max(0, stolen + waited - length), min(stolen, waited) + 1)
    ]
    queue, other = zip(*possible, strict=True)
    assert (row["queue_least_ns"], row["queue_most_ns"]) == (min(queue), max(queue))
    assert (row["other_least_ns"], row["other_most_ns"]) == (min(other), max(other))


def counted(length_ns, stolen_ns):
    return {
        "length_ns": length_ns,
        "stolen_least_ns": stolen_ns,
        "stolen_most_ns": stolen_ns,
    }


def late(ns):
    return {"stolen_most_ns": ns}


def test_what_is_told_late_may_be_of_the_gaps_since_one_was_counted(tally_c):
    noise, _, worst, _ = tallied(
        tally_c,
        [
            *(counted(7 * MS, 0), counted(30 * MS, 29 * MS)),  # which shows that nothing is owed
            *(counted(20 * MS, 0), late(20 * MS)),
        ],
    )
    assert (noise["stolen_least_ns"], noise["stolen_most_ns"]) == (29 * MS, 49 * MS)
    assert (noise["other_least_ns"], noise["other_most_ns"]) == (8 * MS, 28 * MS)
    assert (noise["late"], noise["late_ns"]) == (1, 20 * MS)
    by_length = {int(gap["length_ns"]): gap for gap in worst}
    assert by_length[20 * MS]["stolen_most_ns"] == 20 * MS
    assert by_length[20 * MS]["other_least_ns"] == 0
    assert by_length[7 * MS]["stolen_most_ns"] == 0


def test_what_nobody_misses_is_told_late_and_makes_nothing_stolen(tally_c):
    noise, *_ = tallied(tally_c, [counted(30 * MS, 29 * MS), late(20 * MS)])
    assert noise["stolen_most_ns"] == 29 * MS
    assert noise["late_ns"] == 20 * MS


@given(st.integers(1, 10**9), st.integers(1, 64), st.floats(1e-3, 1e9))
def test_a_threshold_is_in_whole_steps_and_not_below_what_is_asked_for(hz, step_ticks, ns):
    counter = Counter(hz, step_ticks)
    ticks = counter.whole_steps(ns)
    assert ticks % step_ticks == 0
    assert counter.ns(ticks) >= ns - 1e-5 * counter.step_ns
    assert counter.ns(ticks - step_ticks) < ns


# The loop.


@pytest.fixture
def machine(machine_of):
    return machine_of(CPUS[-1] + 1)


def found(machine, act=lambda: None, cpus=(CPU,), seconds=0.5, **options):
    """What a thread on each finds while the hypervisor does something, once."""
    todo = [act]
    with MappedReader(machine.path) as reader:
        ticks = Counter.here().whole_steps(options.pop("threshold_ns", 5_000))
        measured = Jitter(reader, cpus, threshold=ticks, **options)
        measured.run(seconds, lambda: todo and todo.pop()())
        return measured


def test_all_gaps_are_in_sums_and_histogram(machine):
    (vcpu,) = found(machine, threshold_ns=1_000).vcpus()
    least, most = (edges.astype(object) for edges in bucket_edges())
    assert vcpu.gaps == vcpu.histogram.sum() > 0  # timer interrupts alone are some
    assert (vcpu.histogram * least).sum() <= vcpu.noise_ns <= (vcpu.histogram * most).sum()
    assert vcpu.worst[0].length_ns == vcpu.longest_ns
    assert sorted(vcpu.worst, key=lambda gap: -gap.length_ns) == list(vcpu.worst)
    assert 0 < vcpu.shortest_ns < 100_000
    # What is neither gap nor measuring was looked through.
    quiet_ns = vcpu.wall_ns - vcpu.noise_ns - vcpu.measuring_ns
    assert vcpu.looks * vcpu.shortest_ns < 1.05 * quiet_ns
    assert vcpu.stolen == Bounds(0, 0)


def test_a_count_that_creeps_is_no_gap(machine):
    def creep():
        until = time.monotonic() + 0.2
        while time.monotonic() < until:
            machine.steal(CPU, 900)

    assert any(found(machine, creep).vcpus()[0].short_stolen_ns > 900 for _ in range(20))


def test_a_count_that_grows_by_more_than_the_time_that_passed_is_not_believed(machine):
    (vcpu,) = found(machine, lambda: machine.steal(CPU, 3600 * 1000 * MS)).vcpus()
    assert vcpu.late == 1
    assert vcpu.stolen.least_ns == 0
    assert vcpu.stolen.most_ns <= vcpu.noise_ns


def test_a_structure_that_is_refused_leaves_gaps_unknown(machine):
    machine.revise(CPU, 1)
    (vcpu,) = found(machine).vcpus()
    assert vcpu.unknown == vcpu.gaps > 0
    assert vcpu.stolen == Bounds(0, vcpu.noise_ns)


@pytest.mark.skipif(len(CPUS) < 2, reason="this machine has one CPU")
def test_a_thread_that_is_moved_away_ends_and_the_rest_goes_on(machine):
    main = {thread.native_id for thread in threading.enumerate()}

    def move():
        for thread in threading.enumerate():
            if thread.native_id not in main and os.sched_getaffinity(thread.native_id) == {CPU}:
                os.sched_setaffinity(thread.native_id, {CPUS[1]})

    moved, other = found(machine, move, cpus=CPUS, seconds=1.0).vcpus()
    assert moved.left_ns
    assert other.left_ns is None
    assert moved.wall_ns < 0.8 * other.wall_ns


def test_the_first_gap_of_that_length_ends_all(machine):
    measured = found(machine, cpus=CPUS, seconds=60, until_gap_ns=6_000)
    outlier = measured.outlier()
    assert outlier.length_ns >= 6_000
    assert all(vcpu.wall_ns < 30e9 for vcpu in measured.vcpus())


def test_without_a_count_nothing_is_said_of_what_is_stolen():
    measured = Jitter(None, (CPU,), threshold=Counter.here().whole_steps(1_000))
    measured.run(0.3)
    (vcpu,) = measured.vcpus()
    assert vcpu.gaps > 0
    assert vcpu.stolen is None
    assert vcpu.worst[0].stolen is None


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """One whose settings for real-time tasks are these; without fair servers it has no debugfs."""

    def be(release, runtime_us, server_ns=None):
        for name, value in ("RUNTIME", runtime_us), ("PERIOD", 1_000_000):
            (tmp_path / name).write_text(f"{value}\n")
            monkeypatch.setattr(throttling, f"RT_{name}", tmp_path / name)
        monkeypatch.setattr(throttling, "FAIR_SERVERS", tmp_path)
        monkeypatch.setattr(throttling, "_kernel", lambda: release)
        for cpu in os.sched_getaffinity(0) if server_ns is not None else ():
            (tmp_path / f"cpu{cpu}").mkdir()
            (tmp_path / f"cpu{cpu}/runtime").write_text(f"{server_ns}\n")
            (tmp_path / f"cpu{cpu}/period").write_text("1000000000\n")

    return be


@pytest.mark.parametrize(
    ("settings", "kept_ms", "end_it"),
    [
        (((6, 1), 950_000), 50, "sched_rt_runtime_us"),
        (((6, 1), -1), None, None),
        (((6, 1), 1_000_000), None, None),
        (((6, 12), 950_000, 20_000_000), 20, "runtime"),
        (((7, 2), 1_000_000, 50_000_000), 50, "runtime"),  # where the sysctl is no limit
        (((7, 2), 1_000_000, 0), None, None),
        (((7, 2), 1_000_000), 50, "runtime"),  # of what can't be looked up, the default
    ],
)
def test_what_is_kept_from_real_time_is_what_this_kernel_keeps(kernel, settings, kept_ms, end_it):
    kernel(*settings)
    kept = throttling.kept_for_others(CPU)
    assert (kept and kept.ms) == kept_ms
    assert kept is None or end_it in kept.end_it


def test_where_all_fair_servers_are_off_not_all_cpus_are_taken(machine, kernel):
    kernel((7, 2), 1_000_000, 0)
    measured = Jitter(None, sorted(os.sched_getaffinity(0)), threshold=1_000, priority=1)
    with pytest.raises(Error, match="leave a CPU out"):
        measured.run(1)


def test_no_priority_with_which_nothing_could_end_it(machine, tmp_path, monkeypatch):
    (tmp_path / "runtime").write_text("-1\n")
    monkeypatch.setattr(throttling, "RT_RUNTIME", tmp_path / "runtime")
    cpus = sorted(os.sched_getaffinity(0))
    measured = Jitter(None, cpus, threshold=1_000, priority=1)
    with pytest.raises(Error, match="leave a CPU out"):
        measured.run(1)


FINDER = """
import json, sys
from guestpv.latency.jitter import Counter, Jitter
from guestpv.source.mapped import MappedReader
with MappedReader(sys.argv[1]) as reader:
    measured = Jitter(reader, [int(sys.argv[2])], threshold=Counter.here().whole_steps(50_000))
    print("began", flush=True)
    measured.run(1.0)
    (vcpu,) = measured.vcpus()
    gap = vcpu.worst[0]
    parts = {part: str(getattr(gap, part)) for part in ("stolen", "queue", "other")}
    print(json.dumps({
        "length_ns": gap.length_ns, "began_ns": gap.began_ns, "voluntary": gap.voluntary,
        "late": vcpu.late, "restarts": vcpu.restarts, "unknown": vcpu.unknown,
        "stolen": [gap.stolen.least_ns, gap.stolen.most_ns],
        "other": [gap.other.least_ns, gap.other.most_ns],
    }))
"""


@pytest.fixture
def stopped(machine):
    """What is found by a process that is stopped for 0.2 s, of which the hypervisor tells."""

    def run(tell_before, tell_after=lambda: None):
        finder = [sys.executable, "-c", FINDER, machine.path, str(CPU)]
        with subprocess.Popen(finder, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "began\n"
            time.sleep(0.3)
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.2)
            stopped_ns = time.monotonic_ns()
            tell_before()
            process.send_signal(signal.SIGCONT)
            tell_after()
            said = json.loads(process.stdout.read())
            assert said["began_ns"] < stopped_ns < said["began_ns"] + said["length_ns"]
            return said

    return run


def test_what_is_stolen_in_a_gap_is_its_exactly(machine, stopped):
    said = stopped(lambda: machine.steal(CPU, 150 * MS))
    assert said["stolen"] == [150 * MS, 150 * MS]
    assert said["length_ns"] >= 190 * MS
    assert said["voluntary"] >= 1  # it was stopped: that is how the kernel counts it
    assert said["other"][1] == said["length_ns"] - 150 * MS
    assert said["late"] == 0


def test_what_is_told_late_makes_it_an_interval(machine, stopped):
    def tell():
        time.sleep(0.1)
        machine.steal(CPU, 150 * MS)

    said = stopped(lambda: None, tell)
    assert said["late"] == 1
    assert said["stolen"][0] < 50 * MS
    assert said["stolen"][1] >= 150 * MS


@pytest.mark.parametrize("happens", ["restart", "take_back", "restart, and soon higher"])
def test_where_the_count_restarts_nothing_is_known(machine, stopped, happens):
    def restart_higher():
        machine.enter(CPU, epoch=2)
        machine.steal(CPU, 50 * MS)

    acts = {
        "restart": lambda: machine.restart(CPU),
        "take_back": lambda: machine.take_back(CPU, 7),
        "restart, and soon higher": restart_higher,
    }
    said = stopped(acts[happens])
    assert said["stolen"] == [0, said["length_ns"]]
    assert (said["restarts"], said["unknown"]) == (1, 1)


# The command.


def test_json_has_threads_and_histograms_as_oslat(guestpv, machine):
    done = guestpv(
        *("jitter", "--source", machine.path, "--duration", "300ms", "--cpu", str(CPU), "--json"),
        *("--threshold", "1us"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    record = json.loads(done.stdout)
    assert record["schema"] == "guestpv.jitter/1"
    assert record["finished"] is True
    assert record["num_threads"] == len(record["thread"]) == 1
    assert record["threshold_ns"] >= 1000 >= record["step_ns"] > 0
    thread = record["thread"]["0"]
    assert thread["cpu"] == CPU
    assert sum(thread["histogram_ns"].values()) == thread["gaps"] > 0
    lengths = [int(ns) for ns in thread["histogram_ns"]]
    assert lengths == sorted(lengths)
    assert lengths[-1] <= thread["max_ns"] == thread["worst"][0]["length_ns"]
    assert thread["percentiles_ns"]["50"] <= thread["percentiles_ns"]["99.9"] <= thread["max_ns"]
    assert thread["stolen_ns"] == [0, 0]
    assert abs(thread["worst"][0]["time_s"] - time.time()) < 60


def test_the_report_has_the_columns_of_osnoise(guestpv, machine):
    done = guestpv(
        *("jitter", "--source", machine.path, "--duration", "300ms", "--cpu", str(CPU)),
        *("--threshold", "1us"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    for column in "RUNTIME", "NOISE", "% CPU AVAIL", "MAX", "STOLEN", "QUEUE", "OTHER", "P99.9":
        assert column in done.stdout
    assert "█" in done.stdout


def test_a_gap_is_taken_apart_with_its_time(guestpv, machine):
    done = guestpv(
        *("jitter", "--source", machine.path, "--duration", "1h", "--until-gap", "6us"),
    )
    assert done.returncode == 17
    assert "a gap of" in done.stdout
    assert "CLOCK_MONOTONIC" in done.stdout


def test_if_no_vcpu_was_measured_it_says_why():
    measured = Jitter(None, (CPU,), threshold=1_000)
    measured.left_out = {CPU: "it is offline"}
    with pytest.raises(NoSuchCpuError, match=r"not measured\. It is offline: choose"):
        _report(measured, None, {}, as_json=True)


@pytest.mark.parametrize(("switches", "said"), [(0, "0 times"), (1, "once"), (2, "2 times")])
def test_how_often_is_said_as_people_do(capsys, switches, said):
    part = Bounds(0, 10 * MS)
    gap = jitter.Gap(0, 0, 10 * MS, part, part, part, voluntary=0, involuntary=switches)
    jitterreport.report([], gap, {}, {"threshold_ns": 5000})
    assert f"was switched out {said} by this guest" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("ns", "said"),
    [(5008, "5.01"), (99_960, "100"), (999_500, "1000"), (999_999, "1000"), (38_041_400, "38041")],
)
def test_microseconds_have_no_exponents(ns, said):
    assert jitterreport.us(ns) == said


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (("--threshold", "0.0001ns"), 2, "a step of the counter"),
        (("--threshold", "soon"), 2, "is no time"),
        (("--threshold", "2s"), 2, "is no time"),
        (("--duration", "0"), 2, "is no time"),
        (("--until-gap", "-1us"), 2, "is no time"),
        (("--until-gap", "4us"), 2, "shorter than --threshold"),
        (("--priority", "100"), 2, "100"),
        (("--cpu", "100000"), 6, "no such CPU"),
        (("--cpu", "x"), 2, "no CPU number"),
        (("--source", "procfs"), 3, "gaps are shorter"),
        (("--source", "/nowhere"), 3, "no such file"),
        (("--source", "device"), None, "WHY"),
    ],
)
def test_bad_input_is_explained(guestpv, options, code, says):
    done = guestpv("jitter", "--duration", "10ms", *options)
    if says == "WHY":
        if done.returncode == 0:
            pytest.skip("this machine has a device")
        assert done.returncode in (3, 4, 10)
    else:
        assert done.returncode == code
        assert says in " ".join(done.stderr.replace("│", " ").split())
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_a_threshold_that_no_look_is_below_is_refused(guestpv, machine):
    done = guestpv("jitter", "--source", machine.path, "--threshold", "2ns")
    assert done.returncode == 2
    assert "a look at the counter takes" in " ".join(done.stderr.split())


@pytest.fixture
def cpuset():
    """The file that moves a process to where it may run on the first CPU alone."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    root = next(
        (Path(where) for _, where, _, how, *_ in mounts if "cpuset" in how.split(",")), None
    )
    if not root or os.getuid() or len(CPUS) < 2:
        pytest.skip("only root can make a cpuset, here of cgroup v1, and of fewer CPUs than two")
    group = root / f"guestpv-test-{os.getpid()}"
    group.mkdir()
    (group / "cpuset.mems").write_text((root / "cpuset.mems").read_text())
    (group / "cpuset.cpus").write_text(str(CPU))
    yield group / "cgroup.procs"
    group.rmdir()


def test_a_cpu_that_is_not_allowed_is_named(machine, cpuset):
    script = f'echo $$ >{cpuset}; exec "$@"'
    command = ["sh", "-c", script, "sh", sys.executable, "-m", "guestpv", "jitter"]
    options = ["--source", machine.path, "--cpu", f"{CPUS[0]},{CPUS[1]}"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60)
    assert done.returncode == 4
    assert f"cpu{CPUS[1]}: this process may not run on it" in done.stderr


@pytest.mark.skipif(len(CPUS) < 2, reason="this machine has one CPU")
def test_a_cpu_that_it_was_not_started_on_can_be_named(machine):
    """As is an isolated one, on which the scheduler starts nothing."""
    command = ["taskset", "-c", str(CPUS[0]), sys.executable, "-m", "guestpv", "jitter", "--json"]
    options = ["--source", machine.path, "--cpu", str(CPUS[1]), "--duration", "100ms"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["thread"]["0"]["cpu"] == CPUS[1]


def test_without_permission_for_a_priority_it_says_what_to_do(machine):
    drop = ["setpriv", "--bounding-set=-sys_nice", "--inh-caps=-sys_nice"]
    command = [*(drop if not os.getuid() else []), "prlimit", "--rtprio=0", sys.executable]
    options = ["-m", "guestpv", "jitter", "--source", machine.path, "--priority", "1"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60)
    assert done.returncode == 4
    assert "ulimit -r 1" in done.stderr.splitlines()[-1]
    assert done.stdout == ""


def is_pinned(pid):
    """Whether a thread of a process is where the gaps of the first CPU are looked for."""
    for tid in os.listdir(f"/proc/{pid}/task"):
        with suppress(ProcessLookupError):
            if os.sched_getaffinity(int(tid)) == {CPU}:
                return True
    return False


def test_an_interrupt_ends_it_with_the_report_so_far(machine):
    command = [sys.executable, "-m", "guestpv", "jitter", "--source", machine.path]
    with subprocess.Popen(
        [*command, "--duration", "1h", "--cpu", str(CPU), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        time.sleep(2)
        while not is_pinned(process.pid):  # on a busy machine
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")
    record = json.loads(said)
    assert record["finished"] is False
    assert 0 < record["thread"]["0"]["duration_ns"] < 20e9


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_without_a_reader_it_does_not_go_on(machine, options):
    command = [sys.executable, "-m", "guestpv", "jitter", "--source", machine.path]
    command += ["--duration", "1h", "--cpu", str(CPU), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        try:
            assert process.wait(timeout=20) == -signal.SIGPIPE
        finally:
            process.kill()
        assert process.stderr.read() == b""


def on_terminal(machine, errors, ignored=()):
    """jitter on a terminal of its own: the process, and the terminal's other side."""
    pid, fd = pty.fork()
    if pid == 0:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
        os.environ["TERM"] = "xterm-256color"
        command = [sys.executable, "-m", "guestpv", "jitter", "--source", machine.path]
        os.execv(sys.executable, [*command, "--duration", "60s", "--cpu", str(CPU)])
    return pid, fd


def read_until(fd, text):
    seen = b""
    while text not in seen:
        seen += os.read(fd, 65536)
    return seen


def test_on_a_terminal_it_shows_what_it_finds_until_a_key(machine, tmp_path):
    pid, fd = on_terminal(machine, tmp_path / "errors")
    read_until(fd, b"OTHER")
    os.write(fd, b"q")
    after = b""
    with suppress(OSError):  # nobody has the other side open any more
        while received := os.read(fd, 65536):
            after += received
    _, status = os.waitpid(pid, 0)
    os.close(fd)
    assert os.waitstatus_to_exitcode(status) == 0
    report = after.split(b"\x1b[?1049l")[1]  # it leaves the terminal as it was
    assert b"P99.9" in report
    assert (tmp_path / "errors").read_text() == ""


@pytest.mark.parametrize("ignored", [(), (signal.SIGHUP,)], ids=["SIGHUP", "EIO"])
def test_a_terminal_that_is_gone_ends_it_quietly(machine, tmp_path, ignored):
    pid, fd = on_terminal(machine, tmp_path / "errors", ignored)
    read_until(fd, b"OTHER")
    os.close(fd)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) in (-signal.SIGHUP, 1)
    said = (tmp_path / "errors").read_text()
    assert said in ("", "guestpv: output: input or output failed. Input/output error.\n")
