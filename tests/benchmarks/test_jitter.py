# SPDX-License-Identifier: MIT
"""What a look at the counter takes, and oslat's, in one run. Never a pass or a fail."""

import json
import os
import shutil
import subprocess

import pytest

from guestpv.latency.jitter import Counter, Jitter
from guestpv.page.image import write_image
from guestpv.source.mapped import MappedReader

CPU = max(os.sched_getaffinity(0))
SECONDS = 3
THRESHOLD_NS = 5_000


@pytest.fixture
def say(capsys):
    def say_aloud(text):
        with capsys.disabled():
            print(f"\n{text}", end="")

    return say_aloud


def looked(reader):
    """Nanoseconds: the shortest look, and what one takes on average."""
    counter = Counter.here()
    measured = Jitter(reader, [CPU], threshold=counter.whole_steps(THRESHOLD_NS))
    measured.run(SECONDS)
    (vcpu,) = measured.vcpus()
    quiet_ns = vcpu.wall_ns - vcpu.noise_ns - vcpu.measuring_ns
    return vcpu.shortest_ns, quiet_ns / vcpu.looks, counter.step_ns


def test_a_look_with_the_count_and_without(tmp_path, say):
    write_image(tmp_path / "image", [0] * (CPU + 1))
    with MappedReader(tmp_path / "image") as reader:
        for name, of in ("jitter, with the count", reader), ("jitter, without one", None):
            shortest_ns, mean_ns, step_ns = looked(of)
            say(f"{name:24} a look {mean_ns:6.1f} ns, the shortest {shortest_ns}, step {step_ns:g}")


@pytest.mark.skipif(not shutil.which("oslat"), reason="there is no oslat (rt-tests)")
def test_a_look_of_oslat(tmp_path, say):
    options = ["--duration", f"{SECONDS}s", "--cpu-list", str(CPU), "--quiet"]
    command = ["oslat", *options, f"--json={tmp_path / 'said'}"]
    subprocess.run(command, check=True, capture_output=True)
    thread = json.loads((tmp_path / "said").read_text())["thread"]["0"]
    looks = sum(thread["histogram"].values())
    below_ns = 1000 * sum(int(us) * n for us, n in thread["histogram"].items() if int(us) >= 5)
    mean_ns = (1e9 * thread["duration"] - below_ns) / looks
    say(f"{'oslat':24} a look {mean_ns:6.1f} ns, the shortest {thread['min']} us, as it counts")
