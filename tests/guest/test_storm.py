# SPDX-License-Identifier: MIT
"""Hotplug without end, under a reader that never stops: no count of an old epoch is ever given."""

import glob
import os
import subprocess

import numpy as np
import pytest

import guestpv
from guestpv.page import abi

pytestmark = [pytest.mark.contended, pytest.mark.anyway]

TIMES = int(os.environ.get("GUESTPV_STORM", "60"))
"""How often some CPU goes and comes back."""
SWITCHES = glob.glob("/sys/devices/system/cpu/cpu[0-9]*/online")

STORM = """
for i in $(seq {times}); do
    for online in {switches}; do echo 0 >$online; echo 1 >$online; done
done
"""


def test_no_count_goes_back_within_its_epoch(loaded):
    storm_of = STORM.format(times=-(-TIMES // len(SWITCHES)), switches=" ".join(SWITCHES))
    backwards, restarts, snapshots = 0, 0, 0
    states = set()
    with guestpv.open() as reader:
        storm = subprocess.Popen(["sh", "-ec", storm_of])
        last = reader.snapshot()
        while storm.poll() is None:
            now = reader.snapshot()
            states.update(now["state"].tolist())
            both = last["valid"] & now["valid"]
            same = both & (now["epoch"] == last["epoch"])
            backwards += np.count_nonzero(same & (now["stolen_ns"] < last["stolen_ns"]))
            backwards += np.count_nonzero(both & (now["stolen_ns"] < now["epoch_stolen_ns"]))
            restarts += np.count_nonzero(both & (now["epoch"] > last["epoch"]))
            assert not (both & (now["epoch"] < last["epoch"])).any()
            last = np.where(now["valid"], now, last)  # what is not valid now is compared later
            snapshots += 1
    print(
        f"{len(SWITCHES)} CPUs: {snapshots} snapshots, {restarts} restarts, states {sorted(states)}"
    )
    assert storm.returncode == 0
    assert backwards == 0
    assert restarts > 0
    assert states <= {abi.State.ONLINE, abi.State.OFFLINE, abi.State.STARTING}
