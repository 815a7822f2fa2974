# SPDX-License-Identifier: MIT
"""/proc/stat, read as it is; where it is missing, nothing is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestpv.source.procstat import TICK_NS, accounts, parse

STAT = """\
cpu  11 22 33 44 55 66 77 88 99 111
cpu0 1 2 3 4 5 6 7 8 9 10
cpu2 10 20 30 40 50 60 70 80 90 100
intr 5 5 5
cpu3 is not a CPU's line any more
"""


def test_running_and_stolen_time(tmp_path):
    (tmp_path / "stat").write_text(STAT)
    rows = accounts((2, 0, 1, 3), str(tmp_path / "stat"))
    assert rows["present"].tolist() == [True, True, False, False]
    # user, nice, system, irq, softirq: not idle, not iowait, and guest time is in user
    assert (rows["run_ns"] // TICK_NS).tolist() == [190, 19, 0, 0]
    assert (rows["interrupts_ns"] // TICK_NS).tolist() == [130, 13, 0, 0]
    assert (rows["steal_ns"] // TICK_NS).tolist() == [80, 8, 0, 0]


def test_without_procstat_nothing_is_known(tmp_path):
    assert not accounts(range(4), str(tmp_path / "stat"))["present"].any()


WRAPPED = """\
cpu  2200 10 900 81000 120 0 40 1844674407770 0 0
cpu0 1100 5 450 40500 60 0 20 1844674407270 0 0
cpu1 1100 5 450 40500 60 0 20 500 0 0
"""


def steal_ticks(stat, cpus=range(4)):
    """As the file has it, None where it is not known, and "absent" without a line."""
    return [
        (int(row["steal_ns"]) // TICK_NS if row["steal_known"] else None)
        if row["present"]
        else "absent"
        for row in parse(cpus, stat.encode())
    ]


def test_steal_that_cannot_be_is_unknown_and_the_rest_as_ever():
    assert steal_ticks(WRAPPED, (0, 1)) == [None, 500]
    assert steal_ticks(WRAPPED.replace("1844674407270", "-5"), (0, 1)) == [None, 500]
    assert steal_ticks(WRAPPED.replace("1844674407270", "9" * 5000), (0, 1)) == [None, 500]
    rows = parse((0, 1), WRAPPED.encode())
    assert rows["run_known"].all()
    assert (rows["run_ns"] == 1575 * TICK_NS).all()


def test_running_that_cannot_be_is_unknown_and_steal_is_not():
    row = parse((0,), b"cpu0 1844674407270 5 450 40500 60 0 20 250 0 0\n")[0]
    assert (row["run_known"], row["steal_known"]) == (False, True)


def test_a_line_that_was_cut_off_is_no_line():
    whole = "cpu0 1100 5 450 40500 60 0 20 250 0 0\n"
    assert steal_ticks(whole + "cpu1 1100 5 4", (0, 1)) == [250, "absent"]
    # Nothing says whether this is all of 25, or of 250.
    assert steal_ticks(whole + "cpu1 1100 5 450 40500 60 0 20 25", (0, 1)) == [250, "absent"]


def test_without_a_column_for_it_steal_is_unknown():
    assert steal_ticks("cpu0 1100 5 450 40500 60 0 20\n", (0,)) == [None]
    assert steal_ticks("cpu0 1100 5 450 40500\n", (0,)) == ["absent"]


def test_an_odd_shape_hides_no_cpu():
    cpu = "cpu  2200 10 900 81000 120 0 40 500 0 0\n"
    stat = f"{cpu}{cpu}\n{cpu.replace('cpu ', 'cpu0')}\n{cpu.replace('cpu ', 'cpu3')}cpu9 1 1 1\n"
    assert steal_ticks(stat) == [500, "absent", "absent", 500]


@pytest.mark.parametrize("between", ["x", "\0\0\0", "intr 5 5 5", "# cpu", "\xff"])
def test_a_line_of_something_else_hides_no_cpu(between):
    """Nor does one that the kernel puts behind all CPUs."""
    line = "cpu%d 1100 5 450 40500 60 0 20 250 0 0\n"
    assert steal_ticks(f"{between}\n{line % 0}{between}\n{line % 1}", (0, 1)) == [250, 250]


def test_of_a_cpu_that_is_listed_twice_nothing_is_known():
    """Not the last line's figure, and not the first's, be it three times."""
    line = "cpu0 1100 5 450 40500 60 0 20 %d 0 0\n"
    for lines in (250, 500), (250, 250), (250, 500, 250):
        stat = "".join(line % ticks for ticks in lines)
        assert steal_ticks(stat + line.replace("cpu0", "cpu1") % 7, (0, 1)) == [None, 7]
        assert not parse((0,), stat.encode())[0]["run_known"]


FIELDS = st.one_of(
    st.integers(-(2**64), 2**64).map(str),
    st.sampled_from(["", " ", "x", "1_0", "0x1", "\n", "cpu1"]),
)


@given(st.lists(st.lists(FIELDS, max_size=12)), st.integers(0, 40))
def test_no_file_is_a_mistake_of_ours(lines, cut):
    stat = "\n".join(f"cpu{nr} {' '.join(fields)}" for nr, fields in enumerate(lines)) + "\n"
    rows = parse(range(4), stat[: len(stat) - cut].encode())
    for name in "run_ns", "interrupts_ns", "steal_ns":
        assert (rows[name] >= 0).all()
        assert (rows[name] % TICK_NS == 0).all()
    assert not (rows["steal_known"] & ~rows["present"]).any()
    assert not rows["steal_ns"][~rows["steal_known"]].any()


@given(st.lists(st.integers(0, np.iinfo(np.int64).max // TICK_NS), min_size=4, max_size=4))
def test_each_number_that_can_be_is_read_as_it_is(steals):
    stat = "".join(f"cpu{nr} 1 2 3 4 5 6 7 {ticks} 9 10\n" for nr, ticks in enumerate(steals))
    assert steal_ticks(stat) == steals
