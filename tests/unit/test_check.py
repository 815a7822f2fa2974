# SPDX-License-Identifier: MIT
"""guestpv check: a verdict is given only if nothing unknown could make it another."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import guestpv
from guestpv.account.share import Shares
from guestpv.cli.check import Status, _status
from guestpv.page.abi import State
from guestpv.simulation.machine import SimulatedMachine

SECOND = 1_000_000_000
OK, WARNING, CRITICAL, UNKNOWN = Status


class Watched:
    """Snapshots of so many CPUs, a second apart, and the shares that they make."""

    def __init__(self, cpus=1, resolution_ns=1):
        self.rows = np.zeros(cpus, guestpv.SNAPSHOT)
        for field, value in {"state": State.ONLINE, "valid": True, "epoch": 1}.items():
            self.rows[field] = value
        self.rows["cpu"] = range(cpus)
        self.shares = Shares(self.rows, resolution_ns)

    def second(self, stolen_s=0.0, cpu=0, **changes):
        self.rows["monotonic_ns"] += SECOND
        self.rows["stolen_ns"][cpu] += np.uint64(stolen_s * SECOND)
        for field, value in changes.items():
            self.rows[field][cpu] = value
        self.shares.update(self.rows)

    def bounds(self, *rows):
        share = self.shares.of(np.array(rows or range(len(self.rows))))
        return round(share.low_percent, 6), round(share.high_percent, 6)

    def status(self, warn, most):
        rows = [self.shares.of(np.array([row])) for row in range(len(self.rows))]
        return _status([share for share in rows if share], (warn, most))


def test_what_is_known_is_one_number():
    watched = Watched()
    watched.second(0.1)
    watched.second(0.3)
    assert watched.bounds() == (20, 20)
    assert watched.status(20, 20) is OK
    assert watched.status(19.9, 50) is WARNING
    assert watched.status(5, 19.9) is CRITICAL


def test_a_restart_leaves_its_interval_open():
    watched = Watched()
    watched.second(0.1)
    watched.second(epoch=2, stolen_ns=SECOND // 10, epoch_stolen_ns=0)
    watched.second(0.1)
    watched.second(0.1)
    assert watched.bounds() == (10, 32.5)
    assert watched.status(40, 50) is OK
    assert watched.status(20, 30) is UNKNOWN
    assert watched.status(2, 5) is CRITICAL, "that much was stolen for certain"


def test_a_revision_that_is_not_known_is_unknown():
    watched = Watched()
    watched.second(0.1)
    watched.second(valid=False, stolen_ns=0)
    assert watched.status(10, 20) is UNKNOWN


def test_a_count_that_ran_backwards_is_unknown():
    watched = Watched()
    watched.second(0.5)
    watched.second(stolen_ns=0)
    assert watched.status(30, 40) is UNKNOWN


def test_offline_cpus_are_not_judged_and_do_not_thin_out_the_others():
    watched = Watched(cpus=2)
    watched.rows["state"][1] = State.OFFLINE
    watched.second()
    watched = Watched(cpus=2)
    watched.rows["state"][1] = State.OFFLINE
    watched.shares = Shares(watched.rows, 1)
    watched.second(0.4)
    assert watched.shares.of(np.array([1])) is None
    assert watched.bounds() == (40, 40)


def test_of_a_cpu_that_went_the_time_it_was_there_is_judged():
    watched = Watched()
    watched.second(0.4)
    watched.second(0.1, state=State.OFFLINE)
    for _ in range(8):
        watched.second()
    assert watched.bounds() == (25, 70)


def test_one_that_was_away_between_two_looks_is_unknown():
    watched = Watched()
    watched.rows["state"] = State.OFFLINE
    watched.shares = Shares(watched.rows, 1)
    watched.second(epoch=2, stolen_ns=0)
    assert watched.bounds() == (0, 100)


def test_one_of_many_decides_unless_all_are_judged_together():
    watched = Watched(cpus=64)
    watched.second(0.5, cpu=7)
    assert watched.status(5, 5) is CRITICAL
    assert watched.bounds() == (0.78125, 0.78125)


def test_certain_steal_of_one_is_not_hidden_by_another_that_is_unknown():
    watched = Watched(cpus=2)
    watched.rows["valid"][1] = False
    watched.second(0.5, cpu=0)
    assert watched.status(5, 5) is CRITICAL


def test_ticks_are_not_taken_for_more_than_they_are():
    watched = Watched(resolution_ns=10_000_000)
    watched.second(0.05)
    assert watched.bounds() == (4, 6)
    assert watched.status(5, 5) is UNKNOWN
    assert watched.status(6, 6) is OK


@given(
    st.lists(
        st.tuples(
            st.floats(0, 1),
            st.sampled_from(["", "restart", "restart", "invalid", "backwards"]),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_the_truth_is_between_the_bounds(seconds):
    """Whatever the page shows of it: counts that restart are of what was really stolen."""
    watched = Watched()
    count = true_ns = 0
    for stolen_s, what in seconds:
        stolen_ns = int(stolen_s * SECOND)
        true_ns += stolen_ns
        count += stolen_ns
        match what:
            case "restart":
                count = stolen_ns // 3  # of which two thirds were before it
                epoch = watched.rows["epoch"][0] + 1
                watched.second(valid=True, epoch=epoch, stolen_ns=count, epoch_stolen_ns=0)
            case "invalid":
                watched.second(valid=False, stolen_ns=0)
            case "backwards" if count > stolen_ns:
                count = (count - stolen_ns) // 2
                watched.second(valid=True, stolen_ns=count)
            case _:
                watched.second(valid=True, stolen_ns=count)
    share = watched.shares.of(np.array([0]))
    low_ns, high_ns = share.stolen_ns, share.stolen_ns + share.unknown_ns
    assert low_ns <= true_ns <= high_ns


@pytest.fixture
def check(tmp_path):
    """What `guestpv check` says of a page, of which so much is stolen meanwhile."""

    def run(*arguments, source=None):
        command = [sys.executable, "-m", "guestpv", "check", *arguments]
        if source:
            command += ["--source", str(source)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert not done.stderr, "monitors read stdout"
        return done.returncode, done.stdout

    return run


def test_a_page_from_which_nothing_is_stolen(check, machine):
    code, line = check("--max=5%", "--warn=3", "--for=50ms", source=machine.path)
    assert code == OK
    assert re.fullmatch(
        r"STEAL OK - cpu0 lost 0\.00 % in 0\.\d+ s; vCPUs online: 4"
        r" \| steal_worst=0\.000%;3;5;0 steal_total=0\.000%;;;0\n",
        line,
    )


def test_all_together(check, machine):
    code, line = check("--max=5", "--for=50ms", "--total", source=machine.path)
    assert (code, line.split("|")[1]) == (OK, " steal_total=0.000%;5;5;0\n")


@pytest.fixture
def stealing(tmp_path):
    """The path of a page of which half is stolen, in real time."""
    path = tmp_path / "page"
    command = [sys.executable, "-m", "guestpv", "sim", path, "--steal=50", "--vcpus=3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield path
        process.kill()


@pytest.mark.parametrize(
    ("limits", "code", "name"),
    [(("--max=10",), CRITICAL, "CRITICAL"), (("--max=100", "--warn=10"), WARNING, "WARNING")],
)
def test_too_much(check, stealing, limits, code, name):
    got, line = check(*limits, "--for=0.5s", source=stealing)
    assert got == code, line
    assert line.startswith(f"STEAL {name} - SIMULATED: cpu")


def test_json(check, machine):
    machine.offline(3)
    code, line = check("--max=5", "--for=50ms", "--json", source=machine.path)
    record = json.loads(line)
    assert code == OK
    assert record["schema"] == "guestpv.check/1"
    assert record["status"] == "OK"
    assert record["judged"] == "worst"
    assert [cpu["percent"] for cpu in record["cpus"]] == [0, 0, 0, None]
    assert record["total"]["online_ns"] == 3 * record["watched_ns"]


def test_an_unknown_revision_is_no_number(check, machine):
    machine.revise(2, 1)
    code, line = check("--max=5%", "--for=50ms", source=machine.path)
    assert code == UNKNOWN
    assert "cpu2 lost 0.00 to 100.00 %" in line
    assert "| steal_worst=U;5;5;0 steal_total=U;;;0" in line
    assert check("--max=5%", "--for=50ms", "--cpu=0,1", source=machine.path)[0] == OK


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "'--max'"),
        (("--max=five",), "five is no percentage, as in 5%"),
        (("--max=nan",), "nan is no percentage"),
        (("--max=101%",), "101% is no percentage"),
        (("--max=5", "--for=1y"), "1y is no time"),
        (("--max=5", "--for=0s"), "0s is no time"),
        (("--max=5", "--warn=6"), "--warn 6 is more than --max 5"),
        (("--max=5", "--for=24h", "--cpu=9"), "cpu9: no such CPU"),
        (("--max=5", "--source=/no|where\nelse"), "/no!where else: no such file"),
        (("--max=5", "--source=/proc/version"), "no page image"),
        (("--max=5", "--frobnicate"), "--frobnicate"),
    ],
)
def test_what_goes_wrong_is_unknown_in_one_line_on_stdout(check, machine, arguments, said):
    source = None if any("source" in one for one in arguments) else machine.path
    code, line = check(*arguments, source=source)
    assert code == UNKNOWN
    assert line.startswith("STEAL UNKNOWN - ")
    assert line.count("\n") == 1
    assert "|" not in line
    assert said in line
    assert "mistake" not in line
    code, line = check(*arguments, "--json", source=source)
    assert code == UNKNOWN
    assert json.loads(line)["status"] == "UNKNOWN"


def test_no_vcpu_is_online(check, tmp_path):
    SimulatedMachine(tmp_path / "page", 2, seed=0).close()
    code, line = check("--max=5", "--for=20ms", source=tmp_path / "page")
    assert (code, line) == (UNKNOWN, "STEAL UNKNOWN - no vCPU that is judged was online\n")


@pytest.mark.parametrize("arguments", [("--max=99",), ("--max=99", "--json"), ("--max=five",)])
@pytest.mark.parametrize("stderr", [subprocess.PIPE, subprocess.STDOUT])
def test_a_verdict_that_can_not_be_written_is_unknown(machine, arguments, stderr):
    """1 would be a warning."""
    command = [sys.executable, "-m", "guestpv", "check", "--for=10ms", "--source", machine.path]
    with open("/dev/full", "w") as full:
        done = subprocess.run([*command, *arguments], stdout=full, stderr=stderr, timeout=60)
    assert done.returncode == UNKNOWN
    assert b"Traceback" not in (done.stderr or b"")
