# SPDX-License-Identifier: MIT
"""What a history says of a machine that loses time, loses CPUs, and contradicts its kernel."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import guestpv
from guestpv.account.history import History
from guestpv.cli.summary import summary
from guestpv.page.abi import Fault, Reason, State
from guestpv.source.procfs import ProcfsReader
from guestpv.source.procstat import ACCOUNT, TICK_NS, accounts, no_accounts

SECOND = 1_000_000_000
ALL = np.arange(4)
RESTARTED = f"restarted its count (epoch 2): {Reason.HOTPLUG.text}"
counts = st.integers(0, 2**64 - 1) | st.integers(2**63 - 2, 2**63 + 1)


class Watched:
    """A history of a machine, with time that passes as fast as a test says."""

    def __init__(self, machine):
        self.machine = machine
        self.reader = guestpv.open(machine.path)
        self.now = 0
        self.kernel = no_accounts(self.reader.cpus)
        self.history = History(self.snapshot(), self.kernel.copy())

    def snapshot(self):
        rows = self.reader.snapshot()
        rows["monotonic_ns"] = self.now
        return rows

    def tick(self, seconds=1):
        self.now += int(seconds * SECOND)
        return self.history.tick(self.snapshot(), self.kernel.copy())

    def update(self):
        return self.history.update(self.snapshot())

    def figures(self, *cpus):
        return self.history.figures(np.array(cpus) if cpus else ALL)


@pytest.fixture
def watched(machine):
    watched = Watched(machine)
    with watched.reader:
        yield watched


@pytest.fixture
def accounted(machine):
    """As watched, where the kernel keeps its account, too."""
    watched = Watched(machine)
    for flag in "present", "run_known", "steal_known":
        watched.kernel[flag] = True
    watched.history = History(watched.snapshot(), watched.kernel.copy())
    with watched.reader:
        yield watched


def texts(changes):
    return [change.text for change in changes]


def test_percent_is_of_the_time_that_passed(watched):
    watched.machine.steal(0, SECOND // 2)
    watched.tick(2)
    assert watched.figures(0).stolen_percent == pytest.approx(25)
    assert watched.figures(0).interval_stolen_ns == SECOND // 2
    assert watched.figures(1).stolen_percent == 0


def test_nothing_is_said_before_an_interval_is_over(watched):
    figures = watched.figures()
    assert figures.stolen_ns == 10 * SECOND
    assert figures.stolen_percent is None
    assert figures.worst_percent is None


def test_an_interval_of_no_time_has_no_percentage(watched):
    watched.machine.steal(0, 5)
    with np.errstate(all="raise"):
        watched.tick(0)
    assert watched.figures().interval_stolen_ns == 5
    assert watched.figures().stolen_percent is None
    assert watched.figures().worst_percent is None
    assert summary(watched.history, ALL)["now"] == "measuring"


def test_the_headline_is_exact_of_counts_that_cannot_be(watched):
    """Together they are beyond 63 bits."""
    with np.errstate(all="raise"):
        watched.machine.steal(0, 2**64 - 11 * SECOND)
        watched.machine.steal(1, 2**63 - 1)
        watched.machine.steal(2, 5)
        watched.tick()
        said = summary(watched.history, ALL)
    assert said["now"].startswith("18446744073.71 CPU-s/s stolen, 461168601842.7 % of 4 vCPUs")
    assert said["where"] == "cpu0 50 %, cpu1 50 %, cpu2 0 %"
    watched.tick()
    assert summary(watched.history, ALL)["where"] == "nothing is stolen"


def test_late_account_may_exceed_the_interval(watched):
    """The hypervisor adds what it took when the vCPU runs again, maybe seconds later."""
    watched.machine.steal(0, 3 * SECOND)
    watched.tick()
    assert watched.figures(0).stolen_percent == pytest.approx(300)


def test_all_together_is_of_the_time_of_those_that_are_online(watched):
    for cpu in range(4):
        watched.machine.steal(cpu, SECOND // 2)
    watched.machine.offline(3)
    watched.tick()
    assert watched.figures().stolen_percent == pytest.approx(50)
    assert watched.figures().interval_stolen_ns == 3 * SECOND // 2


def test_worst_interval_is_kept(watched):
    for stolen in (SECOND // 4, 3 * SECOND // 4, SECOND // 2):
        watched.machine.steal(1, stolen)
        watched.tick()
    assert watched.figures(1).worst_percent == pytest.approx(75)
    assert watched.history.worst_time[1] == pytest.approx(time.time(), abs=60)
    np.testing.assert_allclose(watched.history.trail[1, -3:], [25, 75, 50])


def test_cpu_that_goes_and_comes_back_restarts_its_count(watched):
    watched.machine.offline(1)
    assert texts(watched.update()) == ["cpu1 went offline"]
    watched.tick()
    assert watched.figures(1).stolen_percent is None
    assert watched.figures(1).stolen_ns == 2 * SECOND

    watched.machine.online(1)
    watched.machine.steal(1, SECOND // 10)
    assert texts(watched.update()) == ["cpu1 came online", f"cpu1 {RESTARTED}"]
    watched.tick()
    assert watched.figures(1).restarts == 1
    assert watched.figures(1).stolen_percent is None
    watched.machine.steal(1, SECOND // 10)
    watched.tick()
    assert watched.figures(1).stolen_percent == pytest.approx(10)


def test_hotplug_that_is_seen_halfway_is_one_restart(watched):
    """The kernel's callback restarts the count, and the module's begins the new epoch."""
    watched.machine.offline(1)
    watched.tick()
    watched.machine.enter(1, state=State.STARTING)
    watched.machine.structures["stolen_time"][1] = 0
    assert watched.tick() == []
    watched.machine.online(1)
    assert texts(watched.tick()) == ["cpu1 came online", f"cpu1 {RESTARTED}"]
    assert watched.figures(1).restarts == 1


def test_restarts_between_two_looks_are_told_with_their_number(watched):
    for _ in range(3):
        watched.machine.restart(1)
    (restart,) = watched.tick()
    assert restart.text == f"cpu1 restarted its count 3 times (epoch 4): {Reason.FOUND_LOWER.text}"
    assert (restart.epoch, restart.reason) == (4, "found_lower")


def test_restart_between_two_looks_is_not_missed(watched):
    watched.machine.online(2)
    assert texts(watched.tick()) == [f"cpu2 {RESTARTED}"]
    assert watched.figures().restarts == 1
    assert watched.figures(2).stolen_percent is None


def test_count_that_fell_in_its_epoch_is_unknown(watched):
    """Not a restart from zero, with what it shows stolen since."""
    watched.machine.take_back(0, SECOND // 4)
    (change,) = watched.tick()
    assert (change.kind, change.cpu) == ("backwards", 0)
    assert change.text == "cpu0 count ran backwards by 250,000,000 ns in its epoch"
    assert watched.figures(0).interval_stolen_ns is None
    assert watched.figures(0).restarts == 0


@given(st.lists(st.tuples(counts, counts), min_size=1, max_size=4))
def test_whatever_a_count_does_no_figure_is_negative_or_wraps(pairs):
    def snapshot(stolen_ns, monotonic_ns):
        rows = np.zeros(len(pairs), guestpv.SNAPSHOT)
        rows["state"], rows["valid"], rows["epoch"] = State.ONLINE, True, 1
        rows["stolen_ns"], rows["monotonic_ns"] = stolen_ns, monotonic_ns
        return rows

    before, after = zip(*pairs, strict=True)
    account = no_accounts(range(len(pairs)))
    history = History(snapshot(before, 0), account)
    history.tick(snapshot(after, SECOND), account)

    figures = [history.figures(np.array([row])) for row in range(len(pairs))]
    for (count0, count1), cpu in zip(pairs, figures, strict=True):
        if count1 < count0:
            assert (cpu.interval_stolen_ns, cpu.stolen_percent) == (None, None)
        else:
            assert cpu.interval_stolen_ns == min(count1 - count0, 2**63 - 1)
            assert cpu.stolen_percent >= 0
    total = history.figures(np.arange(len(pairs)))
    assert total.stolen_ns == sum(after)
    known = [cpu.interval_stolen_ns for cpu in figures if cpu.interval_stolen_ns is not None]
    assert total.interval_stolen_ns == (sum(known) if known else None)


@pytest.mark.parametrize("reason", set(Reason) - {Reason.NONE})
def test_restart_is_told_with_its_reason(watched, reason):
    watched.machine.restart(0, reason)
    (change,) = watched.tick()
    assert (change.kind, change.text.partition(": ")[2]) == ("restart", reason.text)


def test_cpu_on_its_way_is_told_when_it_has_come_or_has_not(watched):
    watched.machine.offline(1)
    watched.tick()
    watched.machine.enter(1, state=State.STARTING)
    assert watched.tick() == []
    assert watched.figures(1).stolen_ns is None
    watched.machine.enter(1, state=State.OFFLINE)
    assert texts(watched.update()) == ["cpu1 is offline"]
    watched.machine.enter(1, state=State.STARTING)
    watched.machine.online(1)
    assert texts(watched.tick()) == ["cpu1 came online", f"cpu1 {RESTARTED}"]


def test_totals_have_what_is_known_and_say_for_how_long_that_is_not_all(watched):
    watched.machine.steal(0, 5)
    watched.tick()
    watched.machine.restart(0)
    watched.machine.steal(0, SECOND // 2)
    watched.tick(2)
    watched.machine.steal(1, 2**62)
    watched.tick()
    figures = watched.figures(0)
    assert (figures.total_ns, figures.unknown_ns) == (SECOND // 2 + 5, 2 * SECOND)
    assert watched.figures().total_ns == SECOND // 2 + 5 + 2**62
    assert watched.figures().unknown_ns == 2 * SECOND


def test_restart_of_a_restored_vm_is_a_lower_bound_once(watched):
    """The count is back at an old one before the module has looked; then it has an epoch."""
    watched.machine.take_back(0, SECOND // 2)
    watched.tick()
    watched.machine.enter(0, epoch=2, epoch_stolen_ns=SECOND // 2, reason=Reason.RESTORED)
    watched.machine.steal(0, 7)
    watched.tick()
    assert watched.figures(0).total_ns == 7
    assert watched.figures(0).unknown_ns == 2 * SECOND
    assert watched.figures(0).restarts == 1


def test_change_is_told_once(watched):
    watched.machine.online(2)
    assert len(watched.update()) == 1
    assert watched.update() == []
    assert watched.tick() == []
    assert watched.figures(2).restarts == 1


def test_unknown_revision_is_told_and_not_interpreted(watched):
    watched.machine.revise(0, 1)
    (change,) = watched.tick()
    assert change.kind == "revision"
    assert change.cpu == 0
    assert "not interpreted" in change.text
    assert watched.figures(0).stolen_percent is None
    assert watched.figures(0).stolen_ns is None

    watched.machine.revise(0, 0)
    (change,) = watched.update()
    assert "goes on" in change.text


def test_refused_structure_is_told_with_its_fault(watched):
    watched.machine.refuse(3)
    assert texts(watched.tick()) == [
        f"cpu3 has no structure to be trusted: {Fault.SYSTEM_RAM.text}"
    ]


def test_demand_is_what_ran_and_what_was_stolen(accounted):
    accounted.machine.steal(0, SECOND // 5)
    accounted.kernel["run_ns"][0] += SECOND // 5
    accounted.tick()
    assert accounted.figures(0).stolen_percent == pytest.approx(20)
    assert accounted.figures(0).demand_stolen_percent == pytest.approx(50)
    assert accounted.figures(1).demand_stolen_percent is None


def test_kernel_that_agrees_but_for_its_ticks(accounted):
    for _ in range(20):
        accounted.machine.steal(0, SECOND // 3)
        stolen = int(accounted.machine.structures["stolen_time"][0]) - SECOND
        accounted.kernel["steal_ns"][0] = stolen // TICK_NS * TICK_NS
        accounted.tick()
        assert not accounted.figures(0).procstat_differs
    assert accounted.figures(0).procstat_percent == pytest.approx(33, abs=1)


def test_time_that_is_stolen_while_procstat_is_read_is_no_contradiction(accounted):
    accounted.kernel["slack_ns"][0] = SECOND // 10
    accounted.kernel["steal_ns"][0] = SECOND // 10
    accounted.tick()
    assert not accounted.figures(0).procstat_differs
    accounted.kernel["steal_ns"][0] *= 3
    accounted.tick()
    assert accounted.figures(0).procstat_differs


def test_kernel_that_sees_nothing_contradicts(accounted):
    for _ in range(3):
        accounted.machine.steal(0, SECOND // 50)
        accounted.tick()
    assert accounted.figures(0).procstat_percent == 0
    assert accounted.figures(0).procstat_differs
    assert accounted.figures().procstat_differs
    assert not accounted.figures(1).procstat_differs


def test_kernel_whose_count_ran_backwards_is_told(accounted):
    accounted.kernel["steal_ns"][1] = 40 * TICK_NS
    accounted.tick()
    accounted.kernel["steal_ns"][1] = 0
    (change,) = accounted.tick()
    assert change.kind == "procstat_backwards"
    assert change.cpu == 1
    assert accounted.figures(1).interval_procstat_ns == -40 * TICK_NS


def test_kernel_whose_count_is_lower_when_the_cpu_is_back_is_told(accounted):
    """Over however many intervals it was offline, and had no line."""
    kernel, here = accounted.kernel, accounted.kernel[1].copy()
    kernel["steal_ns"][1] = 335 * TICK_NS
    accounted.tick()
    kernel[1] = no_accounts((1,))[0]
    for _ in range(3):
        assert accounted.tick() == []
    kernel[1] = here
    kernel["steal_ns"][1] = 312 * TICK_NS
    (change,) = accounted.tick()
    assert (change.kind, change.cpu) == ("procstat_backwards", 1)
    assert "by 230 ms" in change.text
    assert accounted.tick() == []


@pytest.mark.parametrize("offline_for", [0, 1, 3])
def test_on_procfs_a_decrease_is_told_once(tmp_path, offline_for):
    stat, possible = tmp_path / "stat", tmp_path / "possible"
    possible.write_text("0-1")

    def sample(steal_ticks):
        """A second later; None where the CPU is offline."""
        lines = {0: 5, 1: steal_ticks}
        stat.write_text(
            "".join(
                f"cpu{cpu} 1 2 3 4 5 6 7 {ticks} 0 0\n"
                for cpu, ticks in lines.items()
                if ticks is not None
            )
        )
        rows = reader.snapshot()
        return rows, accounts(reader.cpus, str(stat))

    stat.touch()
    reader = ProcfsReader(str(stat), str(possible))
    history = History(*sample(335))
    for _ in range(offline_for):
        history.tick(*sample(None))
    changes = [change for change in history.tick(*sample(312)) if change.kind != "online"]
    assert [change.kind for change in changes] == ["procstat_backwards"]
    assert texts(changes) == ["cpu1 steal in /proc/stat ran backwards by 230 ms"]
    figures = history.figures(np.array([1]))
    assert (figures.interval_stolen_ns, figures.restarts, figures.total_ns) == (None, 0, 0)
    assert history.tick(*sample(312)) == []


def test_restart_is_compared_afresh(accounted):
    accounted.machine.steal(0, SECOND)
    accounted.tick()
    assert accounted.figures(0).procstat_differs
    accounted.machine.online(0)
    accounted.tick()
    assert not accounted.figures(0).procstat_differs


def test_unknown_revision_is_compared_afresh(accounted):
    """The kernel goes on counting what is not interpreted meanwhile."""
    for revision in (1, 1, 0):
        accounted.machine.revise(0, revision)
        accounted.machine.steal(0, SECOND)
        accounted.kernel["steal_ns"][0] += SECOND
        accounted.tick()
        assert not accounted.figures(0).procstat_differs
    accounted.tick()
    assert accounted.figures(0).procstat_percent == 0
    assert not accounted.figures(0).procstat_differs


def test_cpu_without_a_line_in_procstat_is_not_compared(accounted):
    accounted.kernel[0] = no_accounts((0,))[0]
    accounted.machine.steal(0, SECOND)
    accounted.tick()
    assert accounted.figures(0).procstat_percent is None
    assert not accounted.figures(0).procstat_differs


def test_account_rows_are_typed():
    assert no_accounts(range(3)).dtype == ACCOUNT
