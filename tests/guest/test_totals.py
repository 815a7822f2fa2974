# SPDX-License-Identifier: MIT
"""Totals of a real count: over a CPU that was offline, and a module that was loaded again."""

import json
import os
import subprocess

import pytest

import guestpv

MODULE = f"/lib/modules/{os.uname().release}/extra/guestpv.ko"


def test_totals_go_on_over_a_hotplug_and_a_reload(loaded, last_cpu, parameters):
    cpu = int(last_cpu.parent.name.removeprefix("cpu"))
    with guestpv.open() as reader:
        totals = guestpv.Totals(reader)
        last_cpu.write_text("0")
        assert totals.update()["valid"][cpu]
        last_cpu.write_text("1")
        rows = totals.update()
        assert rows["restarts"][cpu] == 1
        assert rows["unknown_ns"][cpu] > 0
        assert (rows["total_ns"] <= 10**9).all()  # and not what the count was before
        assert rows["valid"][0]
        saved = json.loads(json.dumps(totals.save()))

    subprocess.run(["rmmod", "guestpv"], check=True)
    with pytest.raises(guestpv.NoSourceError):
        guestpv.open()
    subprocess.run(["insmod", MODULE, *parameters], check=True)
    with guestpv.open() as reader:
        again = guestpv.Totals.restore(reader, saved)
        assert again.rows["other_instance"].all()
        assert [again.total(cpu) for cpu in reader.cpus] == rows["total_ns"].tolist()
        assert (again.rows["unknown_ns"] > rows["unknown_ns"]).all()
        assert again.update()["valid"].all()
