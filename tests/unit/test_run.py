# SPDX-License-Identifier: MIT
"""guestpv run: exit codes, signals and arithmetic. The kernel's own clocks stand in for the PMU."""

import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestpv import Bounds, NoSourceError, PermissionDeniedError, UnsupportedError
from guestpv.cli.run import _lines, _spread, _why_no_more
from guestpv.latency import command as module
from guestpv.latency.command import CommandTimes, lost
from guestpv.latency.counter import Counter

MS = 1_000_000
RUN = [sys.executable, "-m", "guestpv", "run"]
SPIN = "import time; end = time.process_time() + {}\nwhile time.process_time() < end: pass"


def status(*command, options=()):
    return subprocess.run([*RUN, *options, "--", *command], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("script", "returncode"),
    [("exit 0", 0), ("exit 3", 3), ("kill -TERM $$", -15), ("kill -KILL $$", -9)],
)
def test_it_ends_as_the_command_did(script, returncode):
    done = status("sh", "-c", script)
    assert done.returncode == returncode
    assert "wall" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(("name", "code"), [("no-such-command", 127), ("/etc/passwd", 126)])
def test_a_command_that_can_not_be_executed_is_an_error(name, code):
    done = status(name)
    assert done.returncode == code
    assert done.stderr.startswith(f"guestpv: {name}: ")
    assert len(done.stderr.splitlines()) == 1


def test_the_commands_own_json_is_not_that_of_an_error():
    said = status("no-such-command", "--json").stderr
    assert said.startswith("guestpv: no-such-command: ")
    said = status("no-such-command", options=["--json"]).stderr
    assert json.loads(said)["exit_code"] == 127


@pytest.mark.parametrize(
    ("content", "code", "why"),
    [("#!/no/such/interpreter\n", 127, "interpret it"), ("echo\n", 126, "run -- sh ")],
)
def test_why_a_script_can_not_be_executed(tmp_path, content, code, why):
    script = tmp_path / "script"
    script.write_text(content)
    script.chmod(0o755)
    done = status(str(script))
    assert done.returncode == code
    assert why in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_option_that_there_is_not_is_no_command():
    done = status("true", options=["--repat", "3"])
    assert done.returncode == 2
    assert "No such option: --repat" in done.stderr


def test_input_output_and_options_are_the_commands():
    done = subprocess.run(
        [*RUN, "sh", "-c", 'cat; echo "$1"', "sh", "--json"],
        input="in\n",
        capture_output=True,
        text=True,
    )
    assert done.stdout == "in\n--json\n"


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_are_passed_on(sent):
    script = f"trap 'echo got; exit 7' {sent.value}; echo ready; while :; do sleep 0.05; done"
    with subprocess.Popen([*RUN, "--", "sh", "-c", script], stdout=subprocess.PIPE, text=True) as p:
        assert p.stdout.readline() == "ready\n"
        p.send_signal(sent)
        assert p.stdout.read() == "got\n"
    assert p.returncode == 7


def test_the_command_has_the_signals_that_it_would_have_without():
    masks = ["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"]
    alone = subprocess.run(masks, capture_output=True, text=True)

    def signals(done):
        # Numbers 32 and 33 are the C library's own, of threads: its posix_spawn(3) ignores them.
        return [int(line.split()[1], 16) & 0x7FFFFFFF for line in done.stdout.splitlines()]

    assert len(signals(alone)) == 2
    assert signals(status(*masks)) == signals(alone)


def test_who_was_left_behind_is_not_waited_for():
    begin = time.monotonic()
    done = status("sh", "-c", "sleep 20 >/dev/null 2>&1 & echo $!")
    os.kill(int(done.stdout), signal.SIGKILL)
    assert done.returncode == 0
    assert time.monotonic() - begin < 15


def test_repeats_end_with_the_first_that_fails(tmp_path):
    report = tmp_path / "report"
    script = f"echo >>{shlex.quote(str(tmp_path))}/runs; exit $(($(wc -l <{tmp_path}/runs) / 3))"
    options = ["--repeat", "5", "--json", "--output", str(report)]
    assert status("sh", "-c", script, options=options).returncode == 1
    said = json.loads(report.read_text())
    assert said["schema"] == "guestpv.run/1"
    assert [one["status"] for one in said["runs"]] == [0, 0, 1]
    assert said["command"] == ["sh", "-c", script]
    assert said["finished"] is False


@pytest.mark.parametrize(
    ("statuses", "repeat", "said"),
    [
        ([0, 0], 2, None),
        ([3], 1, None),
        ([0, 3], 5, "of 5 ended with run 2, which exited with 3,"),
        ([0, 3], 2, "of 2 ended with run 2, which exited with 3,"),
        ([-15], 5, "of 5 ended with run 1, which was ended by signal 15,"),
        ([0, 0], 5, "of 5 was interrupted in run 2, or after it"),
    ],
)
def test_why_a_series_is_shorter_than_it_was_to_be(statuses, repeat, said):
    runs = [CommandTimes(status, 50, 50, None, None, 0, None) for status in statuses]
    lines = "\n".join(_why_no_more(runs, repeat))
    assert said in lines if said else not lines


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_who_ends_a_series_gets_what_there_is(sent, tmp_path):
    """Also if the command ends well when it is asked to."""
    script = f"trap 'exit 0' {sent.value}; echo ready; while :; do sleep 0.05; done"
    report = tmp_path / "report"
    options = ["--repeat", "5", "--json", "--output", str(report)]
    command = [*RUN, *options, "--", "sh", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as p:
        assert p.stdout.readline() == "ready\n"
        p.send_signal(sent)
        assert p.stdout.read() == ""
    assert p.returncode == -sent
    assert [one["status"] for one in json.loads(report.read_text())["runs"]] == [0]


def test_a_signal_between_two_runs_is_not_lost():
    with module.Signals() as signals:
        assert module.run(["true"], counted=False, signals=signals).status == 0
        assert not signals.asked_to_end()
        signal.raise_signal(signal.SIGINT)
        assert signals.asked_to_end()
    assert signals.ending == signal.SIGINT
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_name_of_any_bytes_is_reported(tmp_path):
    for options in [], ["--json"]:
        report = tmp_path / "report"
        done = status("true", b"\xff", options=["--output", str(report), *options])
        assert (done.returncode, done.stderr) == (0, "")
        assert "udcff" in report.read_text()


def test_a_report_that_can_not_be_written_costs_no_run(tmp_path):
    report, ran = tmp_path / "none/report", tmp_path / "ran"
    done = status("touch", str(ran), options=["--output", str(report)])
    assert (done.returncode, ran.exists()) == (1, False)
    assert done.stderr == (
        f"guestpv: {report}: no report can be written. No such file or directory:"
        " give another path to --output.\n"
    )


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
@pytest.mark.parametrize("contained", [True, False, None])
def test_what_a_user_may_not_count_is_not_called_0(pmu, monkeypatch, contained):
    """Of a program that may not be read, as of one that is set-user-ID, events end at execve(2)."""
    monkeypatch.setattr(module.cputime, "contains_stolen", lambda: contained)
    shell = shutil.copy("/bin/sh", pmu.parent / "sh")
    for directory in [pmu, *pmu.parents][:-2]:
        directory.chmod(0o755)
    os.chmod(shell, 0o711)
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        said = None
        try:
            os.setresuid(65534, 65534, 65534)
            script = "i=0; while [ $i -lt 300000 ]; do i=$((i + 1)); done"
            times = module.run([shell, "-c", script])
            said = (times.cpu_ns, times.uncounted_ns, times.stolen.least_ns, times.stolen.most_ns)
            said += (times.ran.least_ns, times.ran.most_ns)
        finally:
            os.write(writing, json.dumps(said).encode())
            os._exit(0)
    os.waitpid(pid, 0)
    cpu_ns, uncounted_ns, stolen_least, stolen_most, ran_least, ran_most = json.loads(
        os.read(reading, 1000)
    )
    assert 50 * MS < uncounted_ns <= cpu_ns
    assert stolen_most - stolen_least >= uncounted_ns or contained is False
    assert ran_most >= uncounted_ns
    assert (ran_least >= uncounted_ns) == (contained is False)


def test_of_a_tree_all_is_counted_and_nothing_of_this_process(pmu):
    script = shlex.join([sys.executable, "-c", SPIN.format(0.1)])
    times = module.run(["sh", "-c", f"{script} & {script}; wait"])
    assert times.alone
    assert times.cpu_ns >= 200 * MS
    assert times.stolen.least_ns >= 200 * MS
    again = module.run(["true"])  # and nothing of the run before
    assert again.cpu_ns < 100 * MS


def test_what_was_left_behind_is_counted_as_long_as_it_is_watched(pmu):
    leave = "import os, time\nif not os.fork():\n    " + SPIN.format(5).replace("\n", "\n    ")
    script = f"{leave}\nelse: time.sleep(0.4); print(os.getpgid(0))"
    times = module.run(["setsid", "-w", sys.executable, "-c", script])
    assert times.cpu_ns > 100 * MS


def test_without_perf_events_nothing_is_made_up(monkeypatch):
    def forbidden():
        raise PermissionDeniedError("perf events", "A filter forbids them")

    monkeypatch.setattr(module, "open_counter", forbidden)
    assert isinstance(module.why_unknown(), PermissionDeniedError)
    times = module.run(["true"], counted=False)
    assert (times.stolen, times.ran, times.idle, times.slower_percent) == (None,) * 4
    assert times.wall_ns > 0


@pytest.mark.parametrize("contained", [True, False, None])
def test_the_counts_of_all_cpus_are_bounds(monkeypatch, contained):
    class Cpus(Counter):
        def read(self):
            return Bounds(0, 30 * MS)

        def close(self):
            pass

    monkeypatch.setattr(module, "open_counter", Cpus)
    monkeypatch.setattr(module.cputime, "contains_stolen", lambda: contained)
    times = module.run([sys.executable, "-c", SPIN.format(0.1)])
    assert not times.alone
    said = "\n".join(_lines(["spin"], [times], None))
    assert "at most what all vCPUs lost" in said
    assert "as the kernel counts it" in said
    assert times.stolen == Bounds(0, 30 * MS)
    low = times.cpu_ns - (0 if contained is False else 30 * MS)
    assert times.ran == Bounds(low, times.cpu_ns)
    assert times.idle == Bounds(times.wall_ns - 30 * MS, times.wall_ns)


def test_a_limit_needs_something_that_is_known():
    if isinstance(module.why_unknown(), NoSourceError):
        done = status("touch", "/nonexistent/x", options=["--fail-above", "5"])
        missing = NoSourceError if platform.machine() == "aarch64" else UnsupportedError
        assert done.returncode == missing.exit_code
        assert "touch" not in done.stderr
        assert "procfs" not in done.stderr  # which is no source for it


def test_one_thread_is_exact_and_several_lie_between():
    stolen = Bounds(400, 400)
    assert lost(stolen, 1000, 1000, 1100, 4) == Bounds(400, 400)
    assert lost(stolen, 10, 1600, 1100, 4) == Bounds(0, 400)
    assert lost(stolen, 900, 1000, 1100, 4) == Bounds(300, 400)
    assert lost(stolen, None, 1000, 1100, 4) == Bounds(0, 400)
    assert lost(stolen, None, 1000, 1100, 1) == Bounds(400, 400)
    assert lost(stolen, None, 1000, 300, 1) == Bounds(300, 300)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=1, max_size=8))
def test_what_was_lost_lies_within_its_bounds(threads):
    """Threads that run side by side, each on its vCPU: the last to end is the command's end."""
    ran_stolen = threads
    wall = max(ran + stolen for ran, stolen in ran_stolen)
    idle = max(ran for ran, _ in ran_stolen)
    stolen = sum(stolen for _, stolen in ran_stolen)
    cpu = sum(map(sum, ran_stolen))
    bounds = lost(Bounds(stolen, stolen), sum(ran_stolen[0]), cpu, wall, len(threads))
    assert bounds.least_ns <= wall - idle <= bounds.most_ns


def test_what_has_no_upper_bound_is_so_much_or_more():
    times = CommandTimes(0, 50, 50, Bounds(0, 50), Bounds(0, 50), 0, Bounds(0, 50))
    assert "slower     0.0 % or more" in "\n".join(_lines(["x"], [times], None))


def test_slower_is_against_the_idle_host():
    times = CommandTimes(0, 150, 150, Bounds(50, 50), Bounds(100, 100), 0, Bounds(100, 120))
    assert times.slower_percent == (25.0, 50.0)


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 10), st.floats(0, 1)), min_size=1))
def test_a_spread_holds_whatever_the_values_are(values):
    ranges = [(low, low + width) for low, width, _ in values]
    actual = [low + width * at for low, width, at in values]
    least, most = _spread(ranges)
    assert least <= max(actual) - min(actual) + 1e-9
    assert max(actual) - min(actual) <= most + 1e-9
