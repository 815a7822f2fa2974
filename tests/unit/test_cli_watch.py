# SPDX-License-Identifier: MIT
"""guestpv watch: on a terminal, which it leaves as it was, and where there is none."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import statistics
import struct
import subprocess
import sys
import termios
import time

import pytest

from guestpv.page.abi import State

SECOND = 1_000_000_000
DEADLINE_S = 20

_LEAVE = b"\x1b[?1049l"
_SHOW_CURSOR = b"\x1b[?25h"
_HOME = b"\x1b[H"
_CODE = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")

CPU = {
    "cpu",
    "state",
    "origin",
    "fault",
    "valid",
    "epoch",
    "reason",
    "epoch_stolen_ns",
    "revision",
    "attributes",
    "stolen_ns",
}
FIGURES = {
    "stolen_ns",
    "interval_stolen_ns",
    "stolen_percent",
    "demand_stolen_percent",
    "worst_percent",
    "restarts",
    "total_ns",
    "unknown_ns",
    "interval_run_ns",
    "interval_procstat_ns",
    "procstat_percent",
    "procstat_differs",
}


class Terminal:
    """A terminal in which guestpv watch runs: its pages, its size and its keys."""

    def __init__(self, machine, *args, columns=80, lines=24):
        command = ["guestpv", "watch", "--source", machine.path, "--interval=0.05", *args]
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            time.sleep(0.1)  # until the parent has given the terminal its size
            # The readline library that pytest loads puts LINES and COLUMNS behind os.environ, and
            # the workers of pytest-xdist have them in it.
            environment = os.environ | {"TERM": "xterm-256color"}
            for size in "LINES", "COLUMNS":
                environment.pop(size, None)
            os.execve(sys.executable, [sys.executable, "-m", *command], environment)
        self.modes = termios.tcgetattr(self.fd)
        self.output = b""
        self.status = None
        self.resize(columns, lines)

    def resize(self, columns, lines):
        self.size = (columns, lines)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def press(self, keys):
        os.write(self.fd, keys.encode())

    def kill(self, number):
        os.kill(self.pid, number)

    def until(self, seen):
        """The first page, from now on, of which *seen* is true, as lines."""
        deadline = time.monotonic() + DEADLINE_S
        self.output = b""
        while time.monotonic() < deadline:
            self._receive()
            for page in self._pages():
                if seen(page):
                    return page
        raise AssertionError(f"never seen; the last: {self.output[-4000:]!r}")

    def end(self):
        """The exit status, and everything that was still put out."""
        while self._receive():
            pass
        _, status = os.waitpid(self.pid, 0)
        self.status = os.waitstatus_to_exitcode(status)
        return self.status

    def close(self):
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)

    def _receive(self):
        if not select.select([self.fd], [], [], DEADLINE_S)[0]:
            raise AssertionError("it says nothing any more")
        try:
            received = os.read(self.fd, 65536)
        except OSError:  # nobody has the other side open
            return False
        self.output += received
        return bool(received)

    def _pages(self):
        """What was drawn whole: a page begins at home and ends with the line of the keys."""
        for page in self.output.split(_HOME)[1:]:
            text = _CODE.sub(b"", page).decode(errors="replace")
            lines = text.split("\r\n")
            if lines[-1].startswith(" q quit") and len(lines[-1]) == len(lines[0]):
                yield lines


@pytest.fixture
def terminal(machine):
    terminal = Terminal(machine)
    yield terminal
    terminal.close()


@pytest.fixture
def terminal_of(request):
    def open_terminal(machine, *args, **size):
        terminal = Terminal(machine, *args, **size)
        request.addfinalizer(terminal.close)
        return terminal

    return open_terminal


def rows(page):
    """The lines of CPUs."""
    return [line for line in page if re.match(r" *\d+ ", line)]


def cpus(page):
    return [int(line.split()[0]) for line in rows(page)]


def is_measured(page):
    return any(" stolen, " in line for line in page)


# On a terminal


@pytest.mark.parametrize("size", [(80, 24), (40, 10), (200, 50), (20, 5), (300, 12)])
def test_page_fits_the_terminal(terminal_of, machine, size):
    terminal = terminal_of(machine, columns=size[0], lines=size[1])
    page = terminal.until(lambda page: len(rows(page)) > 0)
    assert len(page) == size[1]
    assert all(len(line) == size[0] for line in page)
    assert "q quit" in page[-1]


def test_page_says_how_much_and_where(terminal, machine):
    terminal.until(is_measured)
    machine.steal(2, 4 * SECOND)
    page = terminal.until(lambda page: any("where   cpu2 100 %" in line for line in page))
    assert machine.path[:20] in page[0]
    terminal.until(lambda page: any("at worst" in line and "cpu2" in line for line in page))


def test_resize_is_followed_at_once(terminal_of, machine):
    terminal = terminal_of(machine, "--interval=3600")
    terminal.until(lambda page: len(page) == 24)
    for columns, lines in ((60, 15), (120, 40), (30, 7)):
        terminal.resize(columns, lines)
        page = terminal.until(lambda page, lines=lines: len(page) == lines)
        assert all(len(line) == columns for line in page)


def test_worst_are_shown_where_not_all_fit(terminal_of, large_machine):
    terminal = terminal_of(large_machine)
    terminal.until(is_measured)
    large_machine.steal(50, 3600 * SECOND)
    page = terminal.until(lambda page: cpus(page)[:1] == [50])
    hidden = 64 - len(rows(page))
    assert f"{hidden} of 64 vCPUs hidden" in page[-1]


def test_order_follows_the_key(terminal_of, machine):
    terminal = terminal_of(machine)
    terminal.until(lambda page: cpus(page) == [0, 1, 2, 3])
    terminal.press("s")
    terminal.until(lambda page: cpus(page) == [3, 2, 1, 0] and "by stolen" in page[-1])
    terminal.press("ss")
    terminal.until(lambda page: cpus(page) == [0, 1, 2, 3])


def test_only_chosen_cpus(terminal_of, machine):
    terminal = terminal_of(machine, "--cpu=1,3", "--sort=stolen")
    assert cpus(terminal.until(is_measured)) == [3, 1]


def test_cpus_that_go_and_come_are_told(terminal, machine):
    terminal.until(is_measured)
    machine.offline(1)
    terminal.until(lambda page: any("cpu1 went offline" in line for line in page))
    machine.online(1)
    page = terminal.until(lambda page: any("restarted its count" in line for line in page))
    assert any("cpu1 came online" in line for line in page)


def test_refused_structure_has_its_reason_beside_it(terminal, machine):
    machine.refuse(0)
    terminal.until(lambda page: any("the address is in System RAM" in row for row in rows(page)))


def test_a_state_of_any_length_leaves_the_columns_in_line(terminal_of, machine):
    terminal = terminal_of(machine, columns=120)
    for state in State:
        machine.enter(1, state=state)
        name = state.name.lower()
        page = terminal.until(lambda page, name=name: any(name in row for row in rows(page)[1:2]))
        assert len(rows(page)) == 4
        states = [re.search(r"^ *\d+ +(\w+)", row) for row in rows(page)]
        assert len({state and state.end() for state in states}) == 1


@pytest.mark.parametrize(
    "leave",
    [
        lambda terminal: terminal.press("q"),
        lambda terminal: terminal.press("\x03"),
        lambda terminal: terminal.kill(signal.SIGTERM),
        lambda terminal: terminal.kill(signal.SIGINT),
    ],
    ids=["q", "ctrl-c", "SIGTERM", "SIGINT"],
)
def test_it_ends_well_and_gives_the_terminal_back(terminal, leave):
    terminal.until(is_measured)
    assert termios.tcgetattr(terminal.fd) != terminal.modes
    leave(terminal)
    assert terminal.end() == 0
    assert _LEAVE in terminal.output
    assert _SHOW_CURSOR in terminal.output
    assert termios.tcgetattr(terminal.fd) == terminal.modes


def test_suspended_it_gives_the_terminal_back_and_takes_it_again(terminal):
    terminal.until(is_measured)
    terminal.press("\x1a")
    _, status = os.waitpid(terminal.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    assert termios.tcgetattr(terminal.fd) == terminal.modes
    terminal.kill(signal.SIGCONT)
    terminal.until(is_measured)
    terminal.press("q")
    assert terminal.end() == 0


def test_error_gives_the_terminal_back_and_stands_behind(terminal, machine):
    terminal.until(is_measured)
    os.truncate(machine.path, 100)
    assert terminal.end() == 5
    behind = terminal.output[terminal.output.rindex(_LEAVE) :]
    assert b"guestpv: " in behind
    assert b"Traceback" not in behind
    assert termios.tcgetattr(terminal.fd) == terminal.modes


def test_count_ends_it(terminal_of, machine):
    terminal = terminal_of(machine, "--count=2")
    assert terminal.end() == 0


# Where there is none


def watch(machine, *args, **options):
    return subprocess.run(
        [sys.executable, "-m", "guestpv", "watch", "--source", machine.path, *args],
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )


def test_lines(machine):
    done = watch(machine, "--interval=0.05", "--count=3")
    assert (done.returncode, done.stderr) == (0, "")
    header, *lines = done.stdout.splitlines()
    assert header.split()[:3] == ["TIME", "CPU", "STATE"]
    assert [line.split()[1] for line in lines] == ["0", "1", "2", "3", "all"] * 3
    assert "\x1b" not in done.stdout


def test_lines_tell_of_changes(machine):
    watching = subprocess.Popen(
        [sys.executable, "-m", "guestpv", "watch", "--source", machine.path, "--interval=0.05"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout.readline().startswith("TIME")  # from now on it would notice
    machine.offline(2)
    while "cpu2 went offline" not in (line := watching.stdout.readline()):
        assert line
    machine.online(2)
    said = "cpu2 restarted its count (epoch 2): lower when the CPU came online"
    while said not in (line := watching.stdout.readline()):
        assert line
    watching.terminate()
    watching.stdout.read()
    assert watching.wait(60) == 0


def test_only_what_happens_to_chosen_cpus_is_told(machine):
    watching = subprocess.Popen(
        [
            *(sys.executable, "-m", "guestpv", "watch", "--cpu=1-2"),
            *("--source", machine.path, "--interval=0.05"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout.readline().startswith("TIME")
    machine.offline(3)
    machine.offline(2)
    while not (line := watching.stdout.readline()).startswith("#"):
        assert line
    assert "cpu2 went offline" in line
    watching.terminate()
    assert "#" not in watching.stdout.read()
    assert watching.wait(60) == 0


def test_json_is_an_object_for_each_interval(machine):
    done = watch(machine, "--json", "--interval=0.05", "--count=3")
    assert (done.returncode, done.stderr) == (0, "")
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(records) == 3
    for record in records:
        assert set(record) == {
            "schema",
            "time_s",
            "source",
            "instance",
            "interval_ns",
            "watched_ns",
            "cpus",
            "total",
            "events",
        }
        assert record["schema"] == "guestpv.watch/1"
        assert all(set(cpu) == CPU | FIGURES for cpu in record["cpus"])
        assert set(record["total"]) == FIGURES
    assert records[2]["watched_ns"] == sum(record["interval_ns"] for record in records)


def test_json_has_what_happened(machine):
    watching = subprocess.Popen(
        [
            *(sys.executable, "-m", "guestpv", "watch", "--json"),
            *("--source", machine.path, "--interval=0.05"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    watching.stdout.readline()
    machine.offline(2)
    while not (events := json.loads(watching.stdout.readline())["events"]):
        pass
    (event,) = events
    assert set(event) == {"time_s", "kind", "cpu", "text", "epoch", "reason"}
    assert (event["kind"], event["cpu"]) == ("offline", 2)
    watching.terminate()
    watching.stdout.read()
    assert watching.wait(60) == 0


def test_intervals_do_not_drift(machine):
    """Each ends a whole number of intervals after the beginning, whatever the others cost."""
    done = watch(machine, "--json", "--interval=0.1", "--count=20")
    records = [json.loads(line) for line in done.stdout.splitlines()]
    late_ns = [record["watched_ns"] % (SECOND // 10) for record in records]
    assert statistics.median(late_ns) < SECOND // 50


def test_procfs_is_watched_too(machine):
    machine.path = "procfs"
    done = watch(machine, "--json", "--interval=0.05", "--count=2")
    assert (done.returncode, done.stderr) == (0, "")
    record = json.loads(done.stdout.splitlines()[-1])
    assert record["source"]["kind"] == "procfs"
    assert record["total"]["interval_run_ns"] >= 0
