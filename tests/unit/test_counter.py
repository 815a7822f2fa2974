# SPDX-License-Identifier: MIT
"""Counters of threads and trees. The kernel's own clocks stand in for the PMU: the same calls."""

import errno
import fcntl
import os
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestpv import (
    Bounds,
    BusyError,
    Error,
    NoSourceError,
    PermissionDeniedError,
    StructureError,
)
from guestpv.latency import counter as module
from guestpv.latency import perf
from guestpv.latency.counter import CpuCounter, counter, counter_on_exec
from guestpv.source.open import open as open_source

pytestmark = pytest.mark.usefixtures("pmu")

MS = 1_000_000
SECOND = 1000 * MS
PERF_EVENT_IOC_DISABLE = 0x2401  # linux/perf_event.h


def spin(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_it_counts_the_thread_that_made_it_and_no_other():
    with counter() as mine:
        other = threading.Thread(target=spin, args=(0.2,))
        other.start()
        other.join()
        idle = mine.read()
        spin(0.05)
        busy = mine.read()
    assert idle.most_ns < 150 * MS
    since = busy.since(idle)
    # perf's clock is not that of thread_time(), and may be a little slower.
    assert since.least_ns >= 49 * MS
    # cpu-clock is what is known here and task-clock what is not: the upper bound has both.
    assert since.most_ns >= since.least_ns + 49 * MS


@pytest.mark.parametrize("tree", [True, False])
def test_a_tree_has_those_that_ended(tree):
    with counter(tree=tree) as counted:
        pid = os.fork()
        if not pid:
            spin(0.1)
            os._exit(0)
        os.waitpid(pid, 0)
        assert (counted.read().least_ns > 100 * MS) == tree


@pytest.mark.parametrize("refusals", [3, None])
def test_a_tree_is_read_while_tasks_of_it_end(monkeypatch, refusals):
    """Linux 6.6 and later refuse that while one does: seldom, and for a moment. Or without end."""
    read, asked = os.read, []

    def refuse(*args):
        asked.append(args)
        if refusals is None or len(asked) <= refusals:
            raise ChildProcessError
        return read(*args)

    monkeypatch.setattr(perf, "_PATIENCE_S", SECOND if refusals else 0.01)
    with counter(tree=True) as counted, monkeypatch.context() as patched:
        spin(0.01)
        patched.setattr(os, "read", refuse)
        if refusals:
            assert counted.read().least_ns >= 9 * MS
        else:
            with pytest.raises(BusyError, match="about to end"):
                counted.read()


def test_on_exec_it_begins_with_the_command():
    gate, opened = os.pipe()
    pid = os.fork()
    if not pid:
        os.read(gate, 1)
        spin(0.1)
        os.execv("/bin/true", ["true"])
    with counter_on_exec(pid) as counted:
        os.write(opened, b"!")
        os.waitpid(pid, 0)
        assert 0 < counted.read().least_ns < 100 * MS


def test_closed_is_closed():
    counted = counter()
    before = len(os.listdir("/proc/self/fd"))
    counted.close()
    counted.close()
    assert len(os.listdir("/proc/self/fd")) == before - 2
    with pytest.raises(ValueError):
        counted.read()


def test_what_is_forgotten_is_closed():
    before = len(os.listdir("/proc/self/fd"))
    counter()
    assert len(os.listdir("/proc/self/fd")) == before


def test_no_such_thread():
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    with pytest.raises(NoSourceError, match=f"of thread {pid}: no such process"):
        counter(pid)


LEVELS = {
    "3": "kernel.perf_event_paranoid is 3.*sudo sysctl kernel.perf_event_paranoid=2",
    "2": "security module",
    "": "kernel forbids it",
}


@pytest.mark.parametrize("level", LEVELS)
def test_who_may_not_is_told_what_to_set(level, monkeypatch, tmp_path):
    (tmp_path / "paranoid").write_text(level)
    monkeypatch.setattr(perf, "PARANOID", tmp_path / "paranoid")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(perf, "perf_event_open", refuse)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(PermissionDeniedError, match=LEVELS[level]):
        counter()
    assert len(os.listdir("/proc/self/fd")) == before


def test_of_others_it_is_said_that_they_are(monkeypatch, tmp_path):
    (tmp_path / "paranoid").write_text("2")
    monkeypatch.setattr(perf, "PARANOID", tmp_path / "paranoid")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(perf, "perf_event_open", refuse)
    with pytest.raises(PermissionDeniedError, match=r"another user's.*CAP_PERFMON"):
        counter(1)


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS])
def test_a_filter_of_system_calls_is_not_taken_for_the_kernels_rule(error, monkeypatch, tmp_path):
    (tmp_path / "paranoid").write_text("3")
    monkeypatch.setattr(perf, "PARANOID", tmp_path / "paranoid")

    def refuse(*_):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(perf, "perf_event_open", refuse)
    with pytest.raises(PermissionDeniedError, match=r"filter of system calls.*seccomp profile"):
        counter()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_a_user_may_not_count_another(pmu):
    for directory in [pmu, *pmu.parents][:-2]:
        directory.chmod(0o755)
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        said = "allowed"
        try:
            os.setresuid(65534, 65534, 65534)
            counter(1)
        except Exception as error:
            said = type(error).__name__
        finally:
            os.write(writing, said.encode())
            os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reading, 100) == b"PermissionDeniedError"


ERRORS = {61: StructureError, 3: NoSourceError, 2: NoSourceError, 24: Error, 22: Error}


@pytest.mark.parametrize("number", ERRORS)
def test_every_refusal_is_an_error_of_ours(number, monkeypatch):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(perf, "perf_event_open", refuse)
    with pytest.raises(Error) as raised:
        counter(1)
    assert type(raised.value) is ERRORS[number]
    assert str(raised.value).startswith("perf event guestpv/stolen/ of thread 1: ")


def test_without_a_pmu_it_is_the_device_that_is_missing(pmu):
    (pmu / "type").unlink()
    pmu.rmdir()
    with pytest.raises(NoSourceError, match="/dev/guestpv"):
        counter()


def test_without_a_pmu_it_is_at_most_what_all_cpus_lost(machine):
    with CpuCounter(open_source(machine.path)) as counted:
        assert counted.read() == Bounds(0, 0)
        machine.steal(0, 5 * MS)
        machine.steal(3, 7 * MS)
        assert counted.read() == Bounds(0, 12 * MS)


def test_without_a_pmu_a_restart_is_as_much_as_time_has_passed(machine):
    begin = time.monotonic_ns()
    with CpuCounter(open_source(machine.path)) as counted:
        machine.steal(0, 5 * MS)
        machine.restart(1)
        machine.steal(1, 3 * MS)
        time.sleep(0.02)
        most = counted.read().most_ns
        assert 25 * MS <= most <= 5 * MS + time.monotonic_ns() - begin


def test_without_a_pmu_what_was_unknown_stays_so(machine):
    with CpuCounter(open_source(machine.path)) as counted:
        machine.revise(1, 1)
        time.sleep(0.02)
        unknown = counted.read()
        machine.revise(1, 0)
        known = counted.read()
    assert known.most_ns >= unknown.most_ns >= 20 * MS


times = st.integers(0, 2**63)


@given(times, times, times, times)
def test_bounds_hold_what_they_are_of(before, unknown_before, grown, unknown):
    """A truth between the bounds at two times is between the bounds of the difference."""
    first = Bounds(before, before + unknown_before)
    last = Bounds(before + grown, before + unknown_before + grown + unknown)
    since = last.since(first)
    assert since == Bounds(grown, grown + unknown)
    assert since.exact == (unknown == 0)
    whole = grown + unknown // 2
    within = since.within(whole)
    assert 0 <= within.least_ns <= within.most_ns <= whole
    left = within.taken_from(whole)
    assert 0 <= left.least_ns <= left.most_ns
    assert left.most_ns == whole - within.least_ns


# ---- cgroups ----


def test_a_cgroup_has_what_runs_in_it_and_below(cgroups, spin_in_cgroup):
    busy, idle = cgroups("busy"), cgroups("idle")
    below = busy / "below"
    below.mkdir()
    with counter(cgroup=busy) as of_busy, counter(cgroup=idle) as of_idle:
        spin_in_cgroup(busy, 0.2)
        spin_in_cgroup(below, 0.1)
        spin(0.1)
        lost = of_busy.read().least_ns
        assert lost > 250 * MS
        assert of_idle.read().least_ns < 50 * MS
        below.rmdir()
        busy.rmdir()
        assert of_busy.read().least_ns >= lost  # what a cgroup lost stays when it is gone


def test_what_is_stolen_while_a_cpu_comes_is_unknown(cgroups, monkeypatch):
    """In simulation: a CPU is left out of those online, and its events are ended."""
    group = cgroups("moving")
    cpus = set(module._online())
    gone = max(cpus)
    with counter(cgroup=group) as counted:
        monkeypatch.setattr(module, "_online", lambda: cpus - {gone})
        counted._groups.pop(gone).close()
        without = counted.read()
        time.sleep(0.1)
        monkeypatch.setattr(module, "_online", lambda: cpus)
        came = counted.read()
        stayed = counted.read()
    assert without == Bounds(0, 0)
    assert came.most_ns - came.least_ns >= 100 * MS
    assert stayed.most_ns - stayed.least_ns == came.most_ns - came.least_ns


def test_a_cpu_that_went_and_came_back_between_two_reads_is_noticed(cgroups):
    """In simulation: an event that is disabled does not count, as one whose CPU went offline."""
    with counter(cgroup=cgroups("back")) as counted:
        old = counted._groups[0]
        fcntl.ioctl(old._cpu._fds[0], PERF_EVENT_IOC_DISABLE)
        bounds = counted.read()
        assert counted._groups[0] is not old
    assert bounds.most_ns > bounds.least_ns


V1 = "#subsys_name\thierarchy\tnum_cgroups\tenabled\nperf_event\t{}\t5\t1\n"


@pytest.mark.parametrize(("number", "why"), [("0", "no controller"), ("7", "with cgroup v1 here")])
def test_a_cgroup_that_has_no_events_is_not_taken_for_gone(
    cgroups, number, why, monkeypatch, tmp_path
):
    (tmp_path / "controllers").write_text(V1.format(number))
    monkeypatch.setattr(perf, "CONTROLLERS", tmp_path / "controllers")
    group = cgroups("without")

    def refuse(*_):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(perf, "perf_event_open", refuse)
    with pytest.raises(Error, match=why) as raised:
        counter(cgroup=group)
    assert not isinstance(raised.value, NoSourceError)


@pytest.mark.parametrize("path", ["/nowhere", "/etc/passwd", "a\0b", "/proc"])
def test_what_is_no_cgroup(path):
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(NoSourceError, match="cgroup"):
        counter(cgroup=path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_closed_counter_of_a_cgroup_stays_closed(cgroups):
    group = cgroups("closed")
    before = len(os.listdir("/proc/self/fd"))
    counted = counter(cgroup=group)
    counted.close()
    counted.close()
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ValueError, match="closed"):
        counted.read()


def test_a_cgroup_is_counted_whole():
    with pytest.raises(ValueError, match="neither pid nor tree"):
        counter(1, cgroup="/sys/fs/cgroup")


def test_a_user_may_not_count_a_cgroup(cgroups, monkeypatch, tmp_path):
    group = cgroups("others")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(perf, "perf_event_open", refuse)
    (tmp_path / "paranoid").write_text("2")
    monkeypatch.setattr(perf, "PARANOID", tmp_path / "paranoid")
    with pytest.raises(PermissionDeniedError, match=r"whole CPUs and of cgroups.*CAP_PERFMON"):
        counter(cgroup=group)
