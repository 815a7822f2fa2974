# SPDX-License-Identifier: MIT
"""What a read costs, beside what a user would do instead, in one run. Never a pass or a fail."""

import struct
import time

import numpy as np
import psutil
import pytest

import guestpv
from guestpv import image

LOOPS = 1000


@pytest.fixture
def reader(tmp_path):
    image.write_image(tmp_path / "image", range(512))
    with guestpv.open(tmp_path / "image") as reader:
        yield reader


def counters(reader, cpus):
    """The counts of so many CPUs, as a strided view of the mapping."""
    first = int(reader.entries[0]["offset"]) + 8
    return np.ndarray(cpus, "<u8", reader.memory, first, (64,))


def proc_stat():
    with open("/proc/stat") as stat:
        return [int(line.split()[8]) for line in stat if line.startswith("cpu")]


def struct_twice(mapping, offset):
    while True:
        before = struct.unpack_from("<II", mapping, offset)
        (stolen,) = struct.unpack_from("<Q", mapping, offset + 8)
        if struct.unpack_from("<II", mapping, offset) == before:
            return (*before, stolen)


def timed(benchmark, name, call, *args, loops=LOOPS):
    """The loop around the call is the same for each contender."""
    benchmark.name = name
    benchmark.pedantic(call, args, rounds=200, iterations=loops, warmup_rounds=5)


@pytest.mark.benchmark(group="one vCPU")
def test_monotonic_ns(benchmark):
    timed(benchmark, "time.monotonic_ns", time.monotonic_ns)


@pytest.mark.benchmark(group="one vCPU")
def test_stolen_ns(benchmark, reader):
    timed(benchmark, "stolen_ns", reader.stolen_ns, 1)


@pytest.mark.benchmark(group="one vCPU")
def test_read(benchmark, reader):
    timed(benchmark, "read", reader.read, 1)


@pytest.mark.benchmark(group="one vCPU")
def test_numpy_scalar(benchmark, reader):
    timed(benchmark, "one numpy scalar from the mapping", counters(reader, 512).__getitem__, 1)


@pytest.mark.benchmark(group="one vCPU")
def test_struct(benchmark, reader):
    mapping, offset = reader.memory, int(reader.entries[1]["offset"])
    timed(benchmark, "struct, twice, with a retry", struct_twice, mapping, offset)


@pytest.mark.benchmark(group="one vCPU")
def test_proc_stat(benchmark):
    timed(benchmark, "open, read and parse /proc/stat", proc_stat, loops=10)


@pytest.mark.benchmark(group="one vCPU")
def test_psutil(benchmark):
    timed(benchmark, "psutil.cpu_times", lambda: psutil.cpu_times(percpu=True), loops=10)


@pytest.mark.benchmark(group="all vCPUs")
@pytest.mark.parametrize("cpus", [1, 8, 64, 512, 4096])
def test_snapshot(benchmark, tmp_path, cpus):
    image.write_image(tmp_path / "image", range(cpus))
    with guestpv.open(tmp_path / "image") as reader:
        rows = reader.snapshot()
        timed(benchmark, f"snapshot of {cpus}", reader.snapshot, rows, loops=100)


@pytest.mark.benchmark(group="all vCPUs")
def test_copyto(benchmark, reader):
    counts, out = counters(reader, 512), np.empty(512, np.uint64)
    timed(benchmark, "copyto of 512", np.copyto, out, counts, loops=100)
