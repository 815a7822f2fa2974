# SPDX-License-Identifier: MIT
"""Spans: where the time of a block went. The kernel's own clocks stand in for the PMU."""

import gzip
import os
import threading
import time

import pytest

import guestpv
from guestpv import Bounds, Error
from guestpv.latency import cputime, span

MS = 1_000_000
RELEASE = "6.1.0-test"


@pytest.fixture(autouse=True)
def of_its_own(pmu, monkeypatch):
    """Nothing is kept from test to test, and CPU time has stolen time in it."""
    monkeypatch.setattr(span, "_local", threading.local())
    monkeypatch.setattr(cputime, "contains_stolen", lambda: True)


def spin(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_a_thread_that_runs_and_sleeps():
    with guestpv.span() as s:
        spin(0.05)
        for _ in range(3):
            time.sleep(0.01)
    assert s.wall_ns >= 80 * MS
    assert 50 * MS <= s.cpu_ns <= s.wall_ns
    assert s.switches >= 3
    assert s.preemptions >= 0
    assert s.stolen.least_ns >= 50 * MS
    # It can't be more than the time in which it was on a CPU.
    assert s.stolen.least_ns <= s.stolen.most_ns <= s.cpu_ns
    assert s.ran.most_ns == s.cpu_ns - s.stolen.least_ns
    assert all(type(value) is int for value in (s.wall_ns, s.cpu_ns, s.switches, s.stolen.most_ns))


def test_what_waits_for_a_cpu_is_told_from_what_sleeps():
    allowed = os.sched_getaffinity(0)
    cpu = min(allowed)
    pid = os.fork()
    if not pid:
        os.sched_setaffinity(0, {cpu})
        spin(5)
        os._exit(0)
    os.sched_setaffinity(0, {cpu})
    try:
        with guestpv.span() as s:
            spin(0.1)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.sched_setaffinity(0, allowed)
    if s.waited_ns is None:
        pytest.skip("this kernel has no schedstat")
    assert s.waited_ns >= 10 * MS
    assert s.preemptions >= 1
    assert s.cpu_ns + s.waited_ns <= s.wall_ns + MS


@pytest.mark.parametrize(
    ("contained", "stolen", "ran"),
    [
        (True, Bounds(30, 80), Bounds(20, 70)),
        (False, Bounds(30, 80), Bounds(100, 100)),
        (None, Bounds(30, 80), Bounds(20, 100)),
    ],
)
def test_what_cpu_time_contains_is_not_assumed(monkeypatch, contained, stolen, ran):
    monkeypatch.setattr(cputime, "contains_stolen", lambda: contained)
    none = span._Reading(0, 0, 0, 0, None, None, Bounds(0, 0))
    some = span._Reading(1000, 100, 0, 0, 7, None, stolen)
    monkeypatch.setattr(span.Span, "_read_first", lambda self: none)
    monkeypatch.setattr(span.Span, "_read_last", lambda self: some)
    with guestpv.span() as s:
        pass
    assert (s.stolen, s.ran) == (stolen, ran)
    assert s.waited_ns is None
    assert s.migrations is None


def test_spans_can_be_nested():
    with guestpv.span() as outer:
        spin(0.01)
        with guestpv.span() as inner:
            spin(0.01)
    assert 10 * MS <= inner.cpu_ns <= outer.cpu_ns - 10 * MS
    assert inner.stolen.least_ns <= outer.stolen.least_ns


def test_a_span_is_of_one_block_at_a_time():
    again = guestpv.span()
    with again:
        spin(0.02)
        with pytest.raises(guestpv.Error, match="begun twice"), again:
            pass
    outer_ns = again.cpu_ns
    assert outer_ns >= 20 * MS
    with again:  # but may be used again
        pass
    assert again.cpu_ns < outer_ns


def test_a_span_ends_where_it_began():
    s = guestpv.span()
    s.__enter__()
    failed = []

    def end():
        try:
            s.__exit__()
        except Error as error:
            failed.append(str(error))

    thread = threading.Thread(target=end)
    thread.start()
    thread.join()
    assert "another thread" in failed[0]
    s.__exit__()


def test_a_child_has_spans_of_its_own():
    """What was opened for the parent goes on to count the parent."""
    with guestpv.span():
        pass
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        with guestpv.span() as s:
            spin(0.05)
        os.write(writing, str(s.stolen.least_ns).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    assert int(os.read(reading, 100)) >= 50 * MS


def test_threads_leave_nothing_open():
    def run():
        with guestpv.span():
            pass

    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_error_in_the_block_is_its_own():
    with pytest.raises(KeyError), guestpv.span() as s:
        raise KeyError
    assert s.wall_ns > 0


YES = b"CONFIG_A=y\nCONFIG_PARAVIRT_TIME_ACCOUNTING=y\n"
NO = b"CONFIG_A=y\n# CONFIG_PARAVIRT_TIME_ACCOUNTING is not set\n"
SAYS = {
    f"boot/config-{RELEASE}": (YES, NO),
    "proc/config.gz": (gzip.compress(YES), gzip.compress(NO)),
    "sys/kernel/btf/vmlinux": (b"\0rq\0prev_steal_time_rq\0", b"\0rq\0prev_steal_time\0"),
}


@pytest.mark.parametrize("name", SAYS)
def test_how_the_kernel_was_built(tmp_path, name):
    assert cputime.is_accounting(tmp_path, RELEASE) is None
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    for content, accounting in zip(SAYS[name], (True, False), strict=True):
        path.write_bytes(content)
        assert cputime.is_accounting(tmp_path, RELEASE) is accounting


def test_a_broken_configuration_says_nothing(tmp_path):
    (tmp_path / "proc").mkdir()
    for content in b"", b"no gzip", gzip.compress(YES)[:-9], gzip.compress(YES)[:12] + b"\xff" * 40:
        (tmp_path / "proc/config.gz").write_bytes(content)
        assert cputime.is_accounting(tmp_path, RELEASE) is None
