# SPDX-License-Identifier: MIT
"""guestpv.events and `guestpv events`: what happens is told, once, and in its order."""

import asyncio
import json
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import guestpv
from guestpv.page.abi import Reason
from guestpv.simulation.machine import SimulatedMachine
from guestpv.simulation.script import parse

PATIENCE_S = 60
ALWAYS_S = 1e-9  # so that each read() is a look


def simulated(path, *events, vcpus=4):
    """A machine to which these happen, one a second, as a line of a script says them."""
    tables = [f"[[event]]\nat_s = {at}.25\n{event}" for at, event in enumerate(events)]
    return SimulatedMachine(path, vcpus, seed=1, percent=50, script=parse("\n".join(tables)))


@pytest.fixture
def told(tmp_path):
    """What is told of a machine to which these happen: kinds and CPUs, second by second."""

    def run(*script, seconds=None):
        with simulated(tmp_path / "page", *script) as machine, events_of(machine) as events:
            happened = []
            for _ in range(seconds or len(script) + 2):
                machine.advance(1)
                happened.append([(one.kind, one.cpu) for one in events.read()])
            return [each for each in happened if each]

    return run


def events_of(machine):
    return guestpv.events(machine.path, interval_s=ALWAYS_S)


def test_what_a_script_does_is_told_in_its_order(told):
    assert told(
        'what = "offline"\ncpus = "2-3"',
        'what = "online"\ncpus = "3"',
        'what = "restart"\ncpus = "0"',
        'what = "revision"\ncpus = "1"\nrevision = 7',
        'what = "contention"\npercent = 10',
        'what = "migrate"\nseconds = 0.5\nkeeps_counts = false',
    ) == [
        [("offline", 2), ("offline", 3)],
        [("online", 3), ("restart", 3)],
        [("restart", 0)],
        [("revision", 1)],
        [("restart", cpu) for cpu in (0, 2, 3)],  # of cpu1 no count is to be had
    ]


def test_a_module_that_comes_back_is_another_instance_and_no_restart(told):
    assert told('what = "reload"\nseconds = 3', seconds=6) == [
        [("module_gone", None)],
        [("module_loaded", None)],
    ]


def test_a_module_that_came_back_between_two_looks(told):
    assert told('what = "reload"\nseconds = 0.5', seconds=4) == [[("module_loaded", None)]]


def test_who_was_offline_before_a_reload_does_not_go_offline_by_it(told):
    assert told('what = "offline"\ncpus = "1"', 'what = "reload"\nseconds = 0.5') == [
        [("offline", 1)],
        [("module_loaded", None)],
    ]


def test_restarts_that_are_faster_than_looks_are_counted(machine):
    with events_of(machine) as events:
        for _ in range(5):
            machine.restart(1)
        (restart,) = events.read()
        assert (restart.kind, restart.cpu, restart.epoch) == ("restart", 1, 6)
        assert restart.reason == "found_lower"
        assert restart.text == (
            f"cpu1 restarted its count 5 times (epoch 6): {Reason.FOUND_LOWER.text}"
        )
        assert events.read() == []


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.integers(0, 2), max_size=4), max_size=8))
def test_no_restart_is_lost_or_told_twice(machine_of, restarts):
    """However many there are between two looks, the epochs that are told add up."""
    machine = machine_of(3)
    epochs = [1, 1, 1]
    with events_of(machine) as events:
        for between in restarts:
            for cpu in between:
                machine.restart(cpu)
            for one in events.read():
                assert one.kind == "restart"
                often = re.search(r"(\d+) times", one.text)
                epochs[one.cpu] += int(often[1]) if often else 1
                assert one.epoch == epochs[one.cpu]
    every = [cpu for between in restarts for cpu in between]
    assert epochs == [1 + every.count(cpu) for cpu in range(3)]


def test_what_lasts_is_told_once_and_what_passes_is_not(machine, tmp_path):
    whole = Path(machine.path).read_bytes()

    def replace(content):
        (tmp_path / "new").write_bytes(content)
        (tmp_path / "new").replace(machine.path)

    with events_of(machine) as events:
        replace(b"for a moment")
        assert events.read() == []
        replace(whole)
        assert events.read() == []
        replace(b"for longer")
        kinds = [[one.kind for one in events.read()] for _ in range(4)]
        assert kinds == [[], ["unreadable"], [], []]
        replace(whole)
        assert [one.kind for one in events.read()] == ["readable"]


def test_without_file_descriptors_a_source_is_unreadable_and_not_gone(machine, files_left):
    with events_of(machine) as events:
        with files_left(0):
            kinds = [[one.kind for one in events.read()] for _ in range(3)]
        assert kinds == [[], ["unreadable"], []]
        assert [one.kind for one in events.read()] == ["readable"]


@pytest.mark.parametrize("interval_s", [1e300, float("inf")])
def test_an_interval_without_an_end_is_waited_for_a_day_at_a_time(machine, interval_s):
    with guestpv.events(machine.path, interval_s=interval_s) as events:
        assert events.remaining_s == 24 * 3600
        assert events.read() == []


def test_a_file_that_comes_back_as_it_was_is_no_other_instance(machine):
    path = Path(machine.path)
    with events_of(machine) as events:
        path.rename(path.with_name("away"))
        assert [one.kind for one in events.read()] == ["module_gone"]
        path.with_name("away").rename(path)
        (loaded,) = events.read()
        assert (loaded.kind, loaded.text) == (
            "module_loaded",
            f"{path} is there again: epochs and counts go on",
        )
        machine.restart(1)
        assert [(one.kind, one.epoch) for one in events.read()] == [("restart", 2)]


def test_an_epoch_of_before_is_one_restart(machine):
    """As in a page image over which an earlier one of the same machine is written."""
    machine.restart(1)
    with events_of(machine) as events:
        machine.enter(1, epoch=1)
        (restart,) = events.read()
    assert restart.text.startswith("cpu1 restarted its count (epoch 1)")


def test_an_iteration_waits_for_what_happens_and_ends_with_close(machine):
    with guestpv.events(machine.path, interval_s=0.01) as events:
        timer = threading.Timer(0.1, machine.restart, [2])
        timer.start()
        got = []
        for event in events:
            got.append((event.kind, event.cpu))
            events.close()
        assert got == [("restart", 2)]
    timer.join()


def test_an_asynchronous_iteration_leaves_the_loop_to_others(machine):
    async def run():
        got = []
        with guestpv.events(machine.path, interval_s=0.01) as events:
            asyncio.get_running_loop().call_later(0.1, machine.restart, 3)
            async for event in events:
                got.append((event.kind, event.cpu))
                if len(got) == 2:
                    events.close()
                machine.restart(0)
        return got

    assert asyncio.run(run()) == [("restart", 3), ("restart", 0)]


def test_an_asynchronous_wait_can_be_cancelled(machine):
    async def run():
        with guestpv.events(machine.path) as events:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(events), 0.05)
            return asyncio.get_running_loop().remove_reader(events.fileno())

    assert asyncio.run(run()) is False, "nobody is left waiting"


def test_who_waits_for_what_another_closes_is_at_the_end(machine):
    async def run():
        with guestpv.events(machine.path, interval_s=0.2) as events:
            asyncio.get_running_loop().call_later(0.05, events.close)
            return [event async for event in events]

    assert asyncio.run(run()) == []


def test_an_interval_that_can_not_be(machine):
    for interval_s in 0, -1, float("nan"):
        with pytest.raises(ValueError):
            guestpv.events(machine.path, interval_s=interval_s)


def test_no_source():
    with pytest.raises(guestpv.NoSourceError):
        guestpv.events("/nowhere")


# Of this machine, by the kernel's uevents


@pytest.fixture
def here():
    """Events of this machine that are told at once, or not at all: no look finds any."""
    with guestpv.events("procfs", interval_s=3600) as events:
        yield events


def kinds(events, cpu=0):
    return [one.kind for one in events.read() if one.cpu in (cpu, None)]


def test_a_cpu_that_goes_and_comes_is_told_each_time(here, cpu0):
    for action in "offline", "online", "online", "offline", "change", "online":
        cpu0.write_text(action)
    assert kinds(here) == ["offline", "online", "offline", "online"]


def test_an_overrun_is_told_and_what_was_lost_with_it_is_found(here, cpu0):
    cpu0.write_text("offline")
    for _ in range(5000):
        cpu0.write_text("change")
    cpu0.write_text("online")  # is lost
    assert kinds(here) == ["offline", "overrun", "online"]
    cpu0.write_text("offline")
    assert kinds(here) == ["offline"]


def test_of_a_page_image_only_what_happens_to_it_is_told(machine, cpu0):
    with events_of(machine) as events:
        cpu0.write_text("offline")
        assert events.read() == []


# The command


@pytest.fixture
def running():
    """`guestpv events`, begun."""
    processes = []

    def begin(*arguments, before=(), **options):
        process = subprocess.Popen(
            [*before, sys.executable, "-m", "guestpv", "events", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        processes.append(process)
        process.begin = process.stdout.readline()
        return process

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def test_a_line_for_each(running, machine):
    process = running("--source", machine.path, "--interval=0.01", "--cpu=1")
    time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}"
    assert re.fullmatch(f"{time} begin {re.escape(machine.path)}\n", process.begin)
    machine.restart(0)
    machine.restart(1)
    restarted = f"restart cpu1 restarted its count (epoch 2): {Reason.FOUND_LOWER.text}"
    assert re.fullmatch(f"{time} {re.escape(restarted)}\n", process.stdout.readline())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_quietly(running, machine, number):
    process = running("--source", machine.path)
    process.send_signal(number)
    assert process.communicate(timeout=PATIENCE_S) == ("", "")
    assert process.returncode == 0


def test_it_ends_when_nobody_reads_any_more_though_nothing_happens(running, machine):
    process = running("--source", machine.path, "--interval=3600")
    process.stdout.close()
    assert process.wait(PATIENCE_S) in (0, -signal.SIGPIPE)
    assert process.stderr.read() == ""


def test_json(running, machine):
    process = running("--source", machine.path, "--json", "--interval=0.01")
    begin = json.loads(process.begin)
    assert (begin["schema"], begin["kind"]) == ("guestpv.event/1", "begin")
    assert begin["source"]["path"] == machine.path
    machine.restart(2)
    event = json.loads(process.stdout.readline())
    assert event.keys() == begin.keys()
    assert {name: event[name] for name in ("kind", "cpu", "epoch", "reason")} == {
        "kind": "restart",
        "cpu": 2,
        "epoch": 2,
        "reason": "found_lower",
    }


def test_simulated_is_said_in_the_first_line(running, tmp_path):
    with simulated(tmp_path / "page") as machine:
        assert "SIMULATED" in running("--source", machine.path).begin
        begin = running("--source", machine.path, "--json").begin
        assert json.loads(begin)["source"]["simulated"]


def test_without_netlink_it_says_what_to_do_and_goes_on(running, forbid_netlink):
    process = running("--source=procfs", "--json", preexec_fn=forbid_netlink)
    event = json.loads(process.stdout.readline())
    assert event["kind"] == "no_events"
    assert "NETLINK_KOBJECT_UEVENT" in event["text"]
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=PATIENCE_S) == ("", "")
    assert process.returncode == 0


def test_where_the_kernel_sends_no_uevents_it_is_said(running):
    """A socket for them can be had there, and would be silent for ever."""
    container = ("unshare", "--user", "--map-root-user", "--net")
    if subprocess.run([*container, "true"], capture_output=True).returncode:
        pytest.skip("no user namespace may be made here")
    process = running("--source=procfs", before=container)
    assert " no_events No events from the kernel." in process.stdout.readline()


def test_what_watch_and_events_say_is_decided_in_one_place():
    """So that they can't come to differ: no other module makes a text of what happened."""
    package = Path(guestpv.__file__).parent
    made_by = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if re.search(r"\bchange\(\s*\"", path.read_text())
    }
    allowed = {"account/changes.py", "account/events.py", "cli/announcements.py", "cli/events.py"}
    assert made_by <= allowed
