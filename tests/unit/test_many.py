# SPDX-License-Identifier: MIT
"""Many cgroups and threads, and their metrics. The kernel's own clocks stand in for the PMU."""

import json
import os
import platform
import pty
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from guestpv import NoSourceError
from guestpv.agent.cgroups import CgroupCollector
from guestpv.agent.textformat import render
from guestpv.cli import losers
from guestpv.latency import cgroups as module
from guestpv.latency import perf
from guestpv.latency.cgroups import Cgroups
from guestpv.latency.tasks import Tasks


@pytest.fixture
def said():
    return []


@pytest.fixture
def count(cgroups, said):
    """Counts the cgroups that match."""
    with ExitStack() as stack:
        yield lambda pattern: stack.enter_context(Cgroups([pattern], said.append))


def pattern_of(group):
    return group.name.rpartition("-")[0] + "-*"


def test_each_has_what_it_lost(cgroups, count, spin_in_cgroup):
    busy, idle = cgroups("busy"), cgroups("idle")
    collector = CgroupCollector(count(pattern_of(busy)))

    def samples():
        return {
            (sample.name.removeprefix("guestpv_"), *sample.labels.values()): sample.value
            for family in collector.collect()
            for sample in family.samples
        }

    assert set(samples().values()) == {0}
    spin_in_cgroup(busy, 0.2)
    said = samples()
    assert said["cgroup_stolen_seconds_total", busy.name] >= 0.2
    assert said["cgroup_unknown_seconds_total", busy.name] >= 0.2  # the stand-in's
    assert said["cgroup_stolen_seconds_total", idle.name] == 0
    assert said["cgroups_left_out",] == 0


def test_a_name_that_is_no_utf8_is_a_label_all_the_same(cgroups, count):
    group = cgroups("\udcff")  # how Python says 0xff in the name of a file
    registry = CollectorRegistry()
    registry.register(CgroupCollector(count(pattern_of(group))))
    label = group.name.replace("\udcff", r"\\udcff")
    for openmetrics in False, True:
        text = render(registry, openmetrics).decode()
        assert f'guestpv_cgroup_stolen_seconds_total{{cgroup="{label}"}} 0.0' in text


def test_cgroups_that_come_and_go_are_followed(cgroups, count):
    first = cgroups("first")
    counted = count(pattern_of(first))
    assert counted.read().keys() == {first.name}
    second = cgroups("second")
    first.rmdir()
    files = len(os.listdir("/proc/self/fd"))
    assert counted.read().keys() == {second.name}
    assert len(os.listdir("/proc/self/fd")) == files  # one came, and one went
    counted.close()
    assert len(os.listdir("/proc/self/fd")) < files


def test_one_that_takes_the_place_of_another_is_counted(cgroups, count, spin_in_cgroup):
    """As when a service is restarted: another cgroup, of the same name."""
    group = cgroups("service")
    counted = count(pattern_of(group))
    counted.read()
    files = len(os.listdir("/proc/self/fd"))
    spin_in_cgroup(group, 0.1)
    group.rmdir()
    group.mkdir()
    assert counted.read()[group.name].least_ns >= 100_000_000, "it does not fall"
    spin_in_cgroup(group, 0.1)
    assert counted.read()[group.name].least_ns >= 200_000_000
    assert len(os.listdir("/proc/self/fd")) == files


def test_one_that_goes_between_list_and_read_is_no_error(cgroups, count, said, monkeypatch):
    group = cgroups("there")
    counted = count(pattern_of(group))
    monkeypatch.setattr(counted, "_there", lambda: {group.name, "gone"})
    assert counted.read().keys() == {group.name}
    assert (counted.left_out, said) == (0, [])


def test_one_that_is_there_and_can_not_be_counted_is_said(cgroups, count, said, monkeypatch):
    """As where its parent gave it no controller; which the kernel answers as if it were gone."""
    group = cgroups("bare")

    def refuse(*_):
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(perf, "perf_event_open", refuse)
    counted = count(pattern_of(group))
    assert counted.read() == counted.read() == {}
    assert counted.left_out == 1
    assert len(said) == 1
    assert "gave it no controller" in said[0]


def test_what_is_not_permitted_is_said_once(cgroups, count, said, monkeypatch):
    group = cgroups("others")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(perf, "perf_event_open", refuse)
    counted = count(pattern_of(group))
    assert counted.read() == counted.read() == {}
    assert counted.left_out == 1
    assert len(said) == 1
    assert "permission denied" in said[0]


def test_no_more_are_counted_than_was_decided(cgroups, count, monkeypatch):
    monkeypatch.setattr(Cgroups, "most", 2)
    groups = [cgroups(name) for name in ("a", "c", "d")]
    names = [group.name for group in groups]
    counted = count(pattern_of(groups[0]))
    assert counted.read().keys() == set(names[:2])
    cgroups("b")
    assert counted.read().keys() == set(names[:2])  # those that are counted stay
    assert counted.left_out == 2


def test_of_4096_cgroups_no_more_take_descriptors_than_was_decided(cgroups, count):
    first = cgroups("0000")
    others = [first.with_name(first.name[:-4] + f"{number:04}") for number in range(1, 4096)]
    counted = count(pattern_of(first))
    files = len(os.listdir("/proc/self/fd"))
    try:
        for group in others:
            group.mkdir()
        for _ in range(2):
            assert counted.read().keys() == {first.name, *(group.name for group in others[:511])}
            assert counted.left_out == 4096 - 512
            each = 1 + 4 * os.sysconf("SC_NPROCESSORS_ONLN")
            assert len(os.listdir("/proc/self/fd")) - files <= 512 * each
    finally:
        for group in others:
            with suppress(FileNotFoundError):
                group.rmdir()
    assert counted.read().keys() == {first.name}
    assert len(os.listdir("/proc/self/fd")) - files == each


def test_where_the_module_is_not_loaded_none_is_counted_and_it_goes_on(cgroups, count, pmu):
    counted = count(pattern_of(cgroups("there")))
    (pmu / "type").rename(pmu.parent / "type")
    pmu.rmdir()
    assert counted.read() == {}
    assert counted.left_out == 1
    pmu.mkdir()
    (pmu.parent / "type").rename(pmu / "type")
    assert len(counted.read()) == 1
    assert counted.left_out == 0


def test_nothing_matches(count):
    counted = count("no-such-slice/*")
    assert counted.read() == {}
    assert counted.left_out == 0


def test_where_there_is_no_cgroup_v2(monkeypatch, tmp_path):
    (tmp_path / "mounts").write_text("proc /proc proc rw 0 0\n")
    monkeypatch.setattr(module, "MOUNTS", tmp_path / "mounts")
    with pytest.raises(NoSourceError, match="No cgroup v2"):
        Cgroups(["*"], print)


def test_threads_are_counted_by_number_and_named(pmu):
    pid = os.fork()
    if not pid:
        Path("/proc/self/comm").write_text("spins")
        end = time.monotonic() + 60
        while time.monotonic() < end:
            pass
    try:
        with Tasks(print) as tasks:
            before = tasks.read()
            assert {pid, os.getpid()} <= before.keys()
            time.sleep(0.3)
            after = tasks.read()
            assert after[pid].since(before[pid]).least_ns > 20_000_000
            assert tasks.name(pid) == "spins"
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            assert pid not in tasks.read()
            assert tasks.name(pid) == ""
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("pattern", ["", "/system.slice", "../*", "a/../../*"])
def test_patterns_stay_below_the_root(guestpv, pattern):
    done = guestpv("exporter", "--cgroup", pattern)
    assert done.returncode == 2
    assert "below the root" in " ".join(done.stderr.split())


def test_the_service_may_not(guestpv):
    done = guestpv("exporter", "--install", "--root", "/nowhere", "--cgroup", "*")
    assert done.returncode == 2
    assert "as root" in " ".join(done.stderr.split())
    assert not Path("/nowhere").exists()


# ---- guestpv watch --tasks and --cgroup ----

WATCH = """
import sys
from pathlib import Path
from guestpv.cli import main
from guestpv.latency import perf
perf.PMU = Path(sys.argv.pop(1))
main()
"""


def watch(pmu, *options, before=()):
    command = [*before, sys.executable, "-c", WATCH, pmu, "watch", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_worst_comes_first(pmu):
    with subprocess.Popen(["sh", "-c", "while :; do :; done"]) as spinning:
        done = watch(pmu, "--tasks", "--json", "--count", "2", "--interval", "0.5")
        lines = watch(pmu, "--tasks", "--count", "1", "--interval", "0.5").stdout.splitlines()
        spinning.kill()
    assert done.stderr == ""
    first, second = map(json.loads, done.stdout.splitlines())
    assert first["schema"] == "guestpv.tasks/1"
    losses = [task["stolen_ns"][0] for task in second["tasks"]]
    assert losses == sorted(losses, reverse=True)
    (loser,) = (task for task in second["tasks"] if task["task"] == f"{spinning.pid} sh")
    assert 0 < loser["stolen_ns"][0] <= loser["total_ns"][0]
    assert lines[0].split() == ["TIME", "STOLEN", "%", "TOTAL", "s", "TASK"]
    assert any(line.endswith(f" {spinning.pid} sh") for line in lines)


def test_who_is_not_counted_is_not_kept_quiet(capsys):
    show = losers._lines("task")
    for left_out in 3, 3, 0:
        show([], 1, left_out)
    said = [line.split(maxsplit=2)[2] for line in capsys.readouterr().out.splitlines()[1:]]
    assert said == ["3 left out: those are not counted", "0 left out: those are not counted"]


NAMED = """
import sys, time
from pathlib import Path
Path("/proc/self/comm").write_bytes(bytes.fromhex(sys.argv[1]))
print(flush=True)
while True:
    pass
"""
NAMES = {
    b"\xffab": r"\xffab",
    b"[/x] :bug:": "[/x] :bug:",
    b"a\x1b[31m\nb": r"a\x1b[31m\nb",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("on_terminal", [True, False])
def test_a_thread_may_call_itself_anything(pmu, name, on_terminal):
    command = [sys.executable, "-c", NAMED, name.hex()]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as named:
        named.stdout.readline()
        command = [sys.executable, "-c", WATCH, pmu, "watch", "--tasks", "--interval", "0.5"]
        environment = {**os.environ, "COLUMNS": "100", "LINES": "500", "TERM": "xterm"}
        reading, writing = pty.openpty() if on_terminal else os.pipe()
        with subprocess.Popen(
            [*command, "--count", "1"], stdout=writing, stderr=subprocess.PIPE, env=environment
        ) as watching:
            os.close(writing)
            printed = b""
            with suppress(OSError):  # as a terminal says that nobody writes to it any more
                while said := os.read(reading, 65536):
                    printed += said
            os.close(reading)
            assert watching.stderr.read() == b""
        named.kill()
    assert watching.returncode == 0
    assert f"{named.pid} {NAMES[name]}".encode() in printed


def test_cgroups_are_watched_by_their_paths(cgroups, pmu):
    group = cgroups("watched")
    done = watch(pmu, "--cgroup", pattern_of(group), "--json", "--count", "1", "--interval", "0.1")
    (said,) = json.loads(done.stdout)["cgroups"]
    assert said == {"cgroup": group.name, "stolen_ns": [0, 0], "total_ns": [0, 0]}


def test_descriptors_are_left_to_others(cgroups, pmu):
    groups = [cgroups(str(number)) for number in range(3)]
    each = 1 + 4 * os.sysconf("SC_NPROCESSORS_CONF")
    limit = 2 * (2 * each)  # half of them are for counters, which is two of those
    done = watch(
        *(pmu, "--cgroup", pattern_of(groups[0]), "--json", "--count", "1", "--interval", "0.1"),
        before=["prlimit", f"--nofile={limit}:{limit}"],
    )
    (said,) = map(json.loads, done.stdout.splitlines())
    assert [one["cgroup"] for one in said["cgroups"]] == [group.name for group in groups[:2]]
    assert said["left_out"] == 1
    assert f"2 are counted, and no more. Each takes {each} file descriptors" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("options", [["--tasks"], ["--cgroup", "*"]])
def test_nobody_is_watched_without_the_module(tmp_path, options):
    done = watch(tmp_path / "none", *options)
    here = platform.machine() == "aarch64"
    assert (done.returncode, done.stdout) == (3 if here else 10, "")
    assert ("sudo guestpv load" if here else "use an arm64 guest") in done.stderr


REFUSED = f"""
import guestpv.latency.perf

def refuse(*_):
    raise PermissionError(13, "Permission denied")

guestpv.latency.perf.perf_event_open = refuse
{WATCH}"""


@pytest.mark.parametrize("options", [["--tasks"], ["--cgroup", "*"]])
def test_who_may_watch_nobody_is_told_so(cgroups, pmu, options):
    cgroups("there")
    command = [sys.executable, "-c", REFUSED, pmu, "watch", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.count("permission denied") == 1


@pytest.mark.parametrize(
    "options", [["--tasks", "--cgroup=*"], ["--tasks", "--cpu=0"], ["--tasks", "--source=procfs"]]
)
def test_what_does_not_go_together_is_refused(pmu, options):
    assert watch(pmu, *options).returncode == 2
