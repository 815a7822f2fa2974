# SPDX-License-Identifier: MIT
"""/proc/stat, read as it is; where it is missing, nothing is known."""

from guestpv.procstat import TICK_NS, accounts

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
