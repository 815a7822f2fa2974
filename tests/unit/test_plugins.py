# SPDX-License-Identifier: MIT
"""The plug-ins of pytest and pytest-benchmark, on a vCPU of which a test plays the host."""

import json
import os
import subprocess
import sys
import time
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

# What pytester does not find imported it imports anew in each run inside, without what was patched.
from guestpv.latency import clock, perf
from guestpv.plugins import benchmark, marker
from guestpv.source import open as source

assert all((benchmark, clock, marker))
pytest_plugins = "pytester"

CHECKOUT = Path(__file__).parents[2]
MS = 1_000_000
PLUGINS = ("-p", "guestpv.plugins.benchmark", "-p", "guestpv.plugins.marker")


class Host:
    """What the tests inside have of it: a fixture `host`."""

    def __init__(self, machine, cpu):
        self._machine = machine
        self._cpu = cpu
        self.calls = 0

    @pytest.fixture
    def host(self):
        return self

    @pytest.hookimpl(optionalhook=True)
    def pytest_benchmark_generate_machine_info(self):
        return {}  # which takes a second

    def take(self, ms):
        time.sleep(ms / 1e3)
        self._machine.steal(self._cpu, ms * MS)

    def restart(self):
        self._machine.restart(self._cpu)

    def work(self, happens=()):
        """A benchmark of 1 ms, or more. *happens*: what the host does in which call."""
        self.calls += 1
        time.sleep(0.001)
        for call, what, *args in happens:
            if call in (self.calls, "always"):
                getattr(self, what)(*args)


@pytest.fixture
def cpu():
    """The CPU to which this thread, and so the tests inside, are pinned."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    yield min(allowed)
    os.sched_setaffinity(0, allowed)


@pytest.fixture
def machine(machine_of, monkeypatch, tmp_path):
    """A page image in the device's place, and no perf events."""
    machine = machine_of(os.cpu_count())
    monkeypatch.setattr(source, "DEVICE", machine.path)
    monkeypatch.setattr(perf, "PMU", tmp_path / "no pmu")
    # pytest-benchmark does nothing in a worker of xdist, as which the tests inside must not pass.
    for name in filter(lambda name: name.startswith("PYTEST_XDIST"), list(os.environ)):
        monkeypatch.delenv(name)
    return machine


@pytest.fixture
def run(pytester, machine, cpu):
    """Run tests inside, with these arguments."""

    def run(tests, *args):
        pytester.makepyfile(tests)
        arguments = (*PLUGINS, "-p", "no:cacheprovider", "-rs", *args)
        return pytester.runpytest_inprocess(*arguments, plugins=[Host(machine, cpu)])

    return run


@pytest.fixture
def bench(run, pytester):
    """Run one benchmark of ten rounds; what pytest printed, and what it saved of it."""

    def bench(happens, *args):
        source = f"""
            def test_it(benchmark, host):
                benchmark.pedantic(host.work, args=[{happens!r}], rounds=10)
        """
        done = run(source, "--benchmark-json=saved.json", *args)
        done.assert_outcomes(passed=1)
        (saved,) = json.loads((pytester.path / "saved.json").read_text())["benchmarks"]
        return done.stdout.str(), saved

    return bench


TAKEN = [(3, "take", 20), (7, "take", 30)]


def test_a_disturbed_benchmark_is_marked_and_stays_as_it_is(bench):
    printed, saved = bench(TAKEN)
    said = saved["extra_info"]["guestpv"]
    assert [ns // MS for ns in said["stolen_ns"]] == [0, 0, 20, 0, 0, 0, 30, 0, 0, 0]
    assert (said["disturbed"], said["dropped"], said["unknown_ns"]) == (2, [], {})
    least, most = said["stolen_percent"]
    assert 0 < least == most < 100
    data = saved["stats"]["data"]
    assert sum(data) * 1e9 == pytest.approx(said["wall_ns"])
    assert data[6] >= 0.031
    assert f"test_it (stolen: {least:.1f} %)" in printed
    assert "not corrected" in printed


def test_disturbed_rounds_are_dropped(bench):
    printed, saved = bench(TAKEN, "--guestpv=drop")
    said = saved["extra_info"]["guestpv"]
    assert said["dropped"] == [2, 6]
    assert len(said["stolen_ns"]) == 10
    assert saved["stats"]["rounds"] == len(saved["stats"]["data"]) == 8
    assert "(stolen:" not in printed


def test_what_is_disturbed_is_for_the_user_to_say(bench):
    _, saved = bench(TAKEN, "--guestpv=drop", "--guestpv-max=100")
    assert saved["extra_info"]["guestpv"]["disturbed"] == 0
    assert saved["stats"]["rounds"] == 10


def test_if_every_round_was_disturbed_none_is_dropped(bench):
    printed, saved = bench([("always", "take", 10)], "--guestpv=drop")
    said = saved["extra_info"]["guestpv"]
    assert (said["disturbed"], said["dropped"]) == (10, [])
    assert "every round was disturbed: all are corrected instead" in printed
    assert_corrected(saved)


def assert_corrected(saved):
    """Timings are what the rounds took without what was stolen."""
    said, data = saved["extra_info"]["guestpv"], saved["stats"]["data"]
    assert len(data) == 10 - len(said["dropped"])
    if not said["dropped"]:
        whole_ns = said["wall_ns"] - sum(said["stolen_ns"])
        assert sum(data) * 1e9 == pytest.approx(whole_ns)
    assert min(data) >= 0.001
    assert sum(data) * 1e9 < said["wall_ns"] - sum(said["stolen_ns"]) + MS


def test_what_was_stolen_is_taken_off(bench):
    printed, saved = bench(TAKEN, "--guestpv=correct")
    assert saved["stats"]["rounds"] == 10
    assert saved["options"]["timer"] == "unstolen_clock"
    assert_corrected(saved)
    assert "(stolen:" not in printed


def test_a_round_in_which_the_count_restarted_is_left_out(bench):
    happens = [(4, "restart"), *TAKEN]
    printed, saved = bench(happens, "--guestpv=correct")
    said = saved["extra_info"]["guestpv"]
    assert list(said["unknown_ns"]) == ["3"]
    assert said["dropped"] == [3]
    assert said["stolen_percent"][0] < said["stolen_percent"][1]
    assert "of one round it is not known what was stolen" in printed
    assert_corrected(saved)


def test_if_nothing_is_known_of_any_round_none_is_left_out(bench):
    printed, saved = bench([("always", "restart")], "--guestpv=drop")
    assert saved["stats"]["rounds"] == 10
    assert "what was stolen from it is not known" in printed


def test_calibration_is_not_fooled(run, pytester):
    """Of each call nearly everything is stolen, so that many are needed for a round."""
    source = """
        import time

        def test_it(benchmark, host):
            benchmark(lambda: host.take(10))
    """
    options = ("--benchmark-min-time=0.005", "--benchmark-max-time=0.001")
    iterations = {}
    for mode in "mark", "correct":
        run(source, f"--guestpv={mode}", "--benchmark-json=saved.json", *options)
        (saved,) = json.loads((pytester.path / "saved.json").read_text())["benchmarks"]
        iterations[mode] = saved["stats"]["iterations"]
    assert iterations["mark"] == 1
    assert iterations["correct"] > 1


def test_figures_that_a_test_has_looked_at_are_worked_out_anew(run, pytester):
    source = """
        def test_it(benchmark, host):
            benchmark.pedantic(host.work, args=[[(3, "take", 50)]], rounds=5)
            assert benchmark.stats.stats.rounds == 5
            assert benchmark.stats.stats.mean > 0
    """
    run(source, "--guestpv=drop", "--benchmark-json=saved.json").assert_outcomes(passed=1)
    (saved,) = json.loads((pytester.path / "saved.json").read_text())["benchmarks"]
    stats = saved["stats"]
    assert stats["rounds"] == 4
    assert stats["mean"] == pytest.approx(sum(stats["data"]) / 4)


def test_a_timer_of_its_own_is_left_alone(run, pytester):
    source = """
        import time, pytest

        @pytest.mark.benchmark(timer=time.process_time, group="mine")
        def test_it(benchmark, host):
            benchmark.pedantic(host.work, rounds=2)

        @pytest.mark.benchmark(group="mine")
        def test_other(benchmark, host):
            benchmark.pedantic(host.work, rounds=2)
    """
    run(source, "--guestpv=correct", "--benchmark-json=saved.json").assert_outcomes(passed=2)
    first, second = json.loads((pytester.path / "saved.json").read_text())["benchmarks"]
    assert (first["options"]["timer"], first["extra_info"]) == ("process_time", {})
    assert second["options"]["timer"] == "unstolen_clock"
    assert first["group"] == second["group"] == "mine"


def test_a_benchmark_may_run_in_another_thread(run):
    source = """
        import threading

        def test_it(benchmark, host):
            bench = lambda: benchmark.pedantic(host.work, rounds=2)
            thread = threading.Thread(target=bench)
            thread.start()
            thread.join()
            assert benchmark.stats.stats.rounds == 2
    """
    done = run(source, "--guestpv=correct")
    done.assert_outcomes(passed=1)
    assert "guestpv: stolen time, correct" in done.stdout.str()


@pytest.mark.parametrize(("ends", "reads"), [("begin", 3), ("end", 1)])
def test_what_is_stolen_at_the_border_of_a_round_is_on_one_side_of_it(
    machine, cpu, monkeypatch, ends, reads
):
    """Between the time of the round's end and the count that is read for it."""
    host, timer, now = Host(machine, cpu), benchmark.Timer(corrects=True), time.monotonic_ns
    times = 0

    def read_time():
        nonlocal times
        times += 1
        if times != reads:
            return now()
        if reads == 3:
            host.take(20)
        early = now()
        if reads == 1:
            host.take(20)
        return early

    timer()
    calls = {}
    for end in "begin", "end":
        if end == ends:
            monkeypatch.setattr(time, "monotonic_ns", read_time)
        calls[end] = timer()
        monkeypatch.setattr(time, "monotonic_ns", now)
        host.work()
    (told,) = timer.rounds(1)
    assert calls["end"] - calls["begin"] == (told.wall_ns - told.stolen_ns) / 1e9 >= 0.001
    assert told.stolen_ns == (20 * MS if ends == "end" else 0)


def test_without_pytest_benchmark_a_fixture_of_that_name_is_the_users(run):
    source = """
        import pytest

        @pytest.fixture
        def benchmark():
            return len

        def test_it(benchmark):
            assert benchmark("guestpv") == 7
    """
    run(source, "--strict-markers", "-p", "no:benchmark").assert_outcomes(passed=1)


def test_the_table_has_names_as_they_are(run):
    done = run(
        """
        import pytest

        @pytest.mark.parametrize("what", ["/x", "red", ":bug:"])
        def test_it(benchmark, what):
            benchmark.pedantic(sum, args=[()], rounds=3)
        """
    )
    done.assert_outcomes(passed=3)
    table = done.stdout.str().partition("guestpv: stolen time")[2]
    assert all(f"\ntest_it[{what}] " in table for what in ("/x", "red", ":bug:"))


def test_off_is_off(bench):
    printed, saved = bench(TAKEN, "--guestpv=off")
    assert "guestpv" not in saved["extra_info"]
    assert saved["options"]["timer"] == "perf_counter"
    assert "guestpv: stolen time" not in printed


def test_without_pv_time_nothing_happens_in_one_line(bench, monkeypatch):
    monkeypatch.setattr(source, "DEVICE", "/dev/none")
    printed, saved = bench([], "--guestpv=correct")
    assert saved["options"]["timer"] == "perf_counter"
    assert saved["extra_info"] == {}
    (line,) = [line for line in printed.splitlines() if line.startswith("guestpv:")]
    assert "guestpv load" in line


# The marker.

LATE = "import pytest\nattempts = []\n@pytest.mark.stolen(max_percent=1)\n"
FAILS_DISTURBED = (
    f"{LATE}def test_it(host):\n    host.work([('always', 'take', 20)])\n    assert 0, 'too late'"
)
FAILS_UNDISTURBED = (
    f"{LATE}def test_it(host):\n    attempts.append(1)\n    assert 0, f'attempt {{len(attempts)}}'"
)
FAILS_ONCE_DISTURBED = (
    f"{LATE}def test_it(host):\n    host.work([(1, 'take', 20)])\n    assert host.calls > 1"
)
PASSES_DISTURBED = f"{LATE}def test_it(host):\n    host.take(20)"
ALONE = ("-p", "no:rerunfailures")


def test_who_fails_disturbed_is_skipped_with_the_reason(run):
    done = run(FAILS_DISTURBED, *ALONE)
    done.assert_outcomes(skipped=1)
    done.stdout.re_match_lines(
        [
            r"SKIPPED \[1\] test_\w+.py:\d+: the hypervisor took \d+\.\d % of its time, more than"
            r" 1 %: AssertionError: too late"
        ]
    )


def test_who_fails_undisturbed_fails(run):
    run(FAILS_UNDISTURBED, *ALONE).assert_outcomes(failed=1)


def test_who_passes_disturbed_passes(run):
    run(PASSES_DISTURBED, *ALONE).assert_outcomes(passed=1)


def test_a_test_without_the_marker_is_not_excused(run):
    run(FAILS_DISTURBED.replace("@pytest.mark.stolen(max_percent=1)\n", "")).assert_outcomes(
        failed=1
    )


def test_a_count_that_restarted_is_no_excuse(run):
    source = FAILS_DISTURBED.replace("'take', 20", "'restart'")
    run(source, *ALONE).assert_outcomes(failed=1)


def reruns(done):
    return done.parseoutcomes().get("rerun", 0)


def test_who_fails_disturbed_is_run_again(run):
    done = run(FAILS_ONCE_DISTURBED)
    done.assert_outcomes(passed=1)
    assert reruns(done) == 1


def test_who_fails_disturbed_again_and_again_is_skipped(run):
    done = run(FAILS_DISTURBED)
    done.assert_outcomes(skipped=1)
    assert reruns(done) == 2
    assert "the hypervisor took" in done.stdout.str()


def test_how_often_it_is_run_again_is_for_the_marker_to_say(run):
    done = run(FAILS_DISTURBED.replace("max_percent=1", "max_percent=1, reruns=0"))
    done.assert_outcomes(skipped=1)
    assert reruns(done) == 0


def test_who_fails_undisturbed_is_not_run_again(run):
    done = run(FAILS_UNDISTURBED)
    done.assert_outcomes(failed=1)
    assert reruns(done) == 0
    assert "attempt 1" in done.stdout.str()


def test_without_pv_time_no_test_is_excused(run, monkeypatch):
    monkeypatch.setattr(source, "DEVICE", "/dev/none")
    done = run(FAILS_DISTURBED)
    done.assert_outcomes(failed=1)
    (line,) = [line for line in done.stdout.lines if line.startswith("guestpv:")]
    assert "no test is excused" in line


NONSENSE = {
    "percent=10": "unexpected keyword argument 'percent'",
    "max_percent='1'": "not supported between instances",
    "max_percent=float('nan')": "nan is no percentage",
    "max_percent=-1": "-1 is no percentage",
    "reruns='2'": "'2' no number of reruns",
    "reruns=-1": "-1 no number of reruns",
}


@pytest.mark.parametrize("options", NONSENSE)
def test_a_marker_that_makes_no_sense_is_an_error(run, options):
    done = run(PASSES_DISTURBED.replace("max_percent=1", options))
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    said = done.stdout.str() + done.stderr.str()
    assert NONSENSE[options] in said
    assert "test_it: marker stolen: " in said
    assert "INTERNALERROR" not in said


@pytest.mark.parametrize("limit", ["nan", "-1", "101", "much"])
def test_a_limit_that_makes_no_sense_is_an_error(run, limit):
    done = run("def test_it(): pass", f"--guestpv-max={limit}")
    assert done.ret == pytest.ExitCode.USAGE_ERROR


# In processes of their own.

CONFTEST = """
import os, time
import numpy as np, pytest
import guestpv.source.open
from guestpv.page.image import structures

guestpv.source.open.DEVICE = {path!r}
# Each worker has a vCPU of its own: what one loses is nobody else's.
cpu = {cpus}[int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])]
os.sched_setaffinity(0, {{cpu}})
stolen_ns = structures(np.memmap({path!r}, np.uint8, "r+"))["stolen_time"]

@pytest.fixture
def take():
    def take(ms):
        time.sleep(ms / 1e3)
        stolen_ns[cpu] += ms * 1_000_000
    return take
"""

DISTRIBUTED = """
import pytest

@pytest.mark.stolen(max_percent=1)
@pytest.mark.parametrize("n", range(4))
def test_late(take, n):
    take(20)
    assert n % 2

def test_benchmark(benchmark, take):
    benchmark(take, 1)
"""


def test_it_works_under_xdist(pytester, machine):
    """Where pytest-benchmark disables benchmarks, by itself."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) == 1:
        pytest.skip("there is one CPU")
    pytester.makeconftest(CONFTEST.format(path=machine.path, cpus=cpus))
    pytester.makepyfile(DISTRIBUTED)
    done = pytester.runpytest_subprocess(*PLUGINS, "-n2", "-rs", "--guestpv=correct")
    done.assert_outcomes(passed=3, skipped=2)
    assert "the hypervisor took" in done.stdout.str()
    assert "guestpv: stolen time" not in done.stdout.str()


def test_what_pip_is_told_of_is_there():
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    groups = project["entry-points"]
    assert set(groups) == {"pytest11", "pyperf.hook"}
    for group, plugins in groups.items():
        for name, place in plugins.items():
            EntryPoint(name, place, group).load()


def test_the_readme_names_what_there_is():
    readme = (CHECKOUT / "README.md").read_text()
    for word in (*benchmark.MODES, "--guestpv-max", "--hook guestpv", "pytest.mark.stolen"):
        assert word in readme


def test_they_load_nothing_heavy():
    program = (
        "import sys\n"
        "import guestpv.plugins.benchmark, guestpv.plugins.marker, guestpv.plugins.pyperf\n"
        "print(*{'numpy', 'rich', 'pyroute2', 'typer', 'guestpv._native'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("\n", "")
