# SPDX-License-Identifier: MIT
"""What a read costs, beside what a user would do instead, in one run. Never a pass or a fail."""

import struct
import time
import timeit

import numpy as np
import psutil
import pytest

import guestpv
from guestpv.page import image

CPUS = [1, 8, 64, 512, 4096]

one_cpu = pytest.mark.benchmark(group="one vCPU, 1000 times: 1 us is 1 ns for each")
all_cpus = pytest.mark.benchmark(group="all vCPUs, 1000 times: 1 us is 1 ns for each")

cold = pytest.mark.benchmark(group="all vCPUs, with caches that hold none of it")


@pytest.fixture
def reader_of(tmp_path):
    """Opens page images with any number of CPUs."""

    def open_image(cpus):
        # Of a quarter of an hour each, as after a day: Python keeps no int of this size ready.
        image.write_image(tmp_path / "image", [10**12 + cpu for cpu in range(cpus)])
        return guestpv.open(tmp_path / "image")

    return open_image


@pytest.fixture
def reader(reader_of):
    with reader_of(512) as reader:
        yield reader


CALLS = 1000
MORE_THAN_ANY_CACHE = 64 << 20


@pytest.fixture
def timed(benchmark):
    """Times a statement as it stands in a loop: no call that is not its own is counted."""

    def run(name, statement, **names):
        benchmark.name = name
        benchmark.extra_info["calls"] = CALLS
        timer = timeit.Timer(statement, globals=names)
        benchmark.pedantic(timer.timeit, (CALLS,), rounds=100, warmup_rounds=3)

    return run


@pytest.fixture
def timed_cold(benchmark):
    """Times a call whose data was pushed out of the caches before."""
    other = np.zeros(MORE_THAN_ANY_CACHE, np.uint8)

    def evict():
        other[...] += 1

    def run(name, call, *args):
        benchmark.name = name
        benchmark.extra_info["calls"] = 1
        benchmark.pedantic(lambda: call(*args), setup=evict, rounds=100)

    return run


def mapped(reader):
    """The whole file, mapped anew: a reader hands out no counts that stand side by side."""
    return np.memmap(reader.source.path, np.uint8, "r")


def first_structure(reader):
    return int(reader.entries[0]["offset"])


def counters(reader):
    """All counts, as a strided view of the mapping."""
    return np.ndarray(len(reader.cpus), "<u8", mapped(reader), first_structure(reader) + 8, (64,))


def lines(reader):
    """All structures, whole."""
    return mapped(reader)[first_structure(reader) :][: 64 * len(reader.cpus)]


def proc_stat():
    with open("/proc/stat") as stat:
        return [int(line.split()[8]) for line in stat if line.startswith("cpu")]


def struct_twice(memory, offset):
    while True:
        before = struct.unpack_from("<II", memory, offset)
        (stolen,) = struct.unpack_from("<Q", memory, offset + 8)
        if struct.unpack_from("<II", memory, offset) == before:
            return (*before, stolen)


@one_cpu
def test_monotonic_ns(timed):
    timed("time.monotonic_ns", "monotonic_ns()", monotonic_ns=time.monotonic_ns)


@one_cpu
def test_stolen_ns(timed, reader):
    timed("stolen_ns", "reader.stolen_ns(1)", reader=reader)


@one_cpu
def test_stolen_ns_bound_before(timed, reader):
    timed("stolen_ns, bound before", "stolen_ns(1)", stolen_ns=reader.stolen_ns)


@one_cpu
def test_read(timed, reader):
    timed("read", "reader.read(1)", reader=reader)


@one_cpu
def test_limit(timed, limit):
    timed("an empty C method", "limit.fresh_int(1)", limit=limit.Limit())


@one_cpu
def test_limit_bound_before(timed, limit):
    name = "an empty C method, bound before"
    timed(name, "fresh_int(1)", fresh_int=limit.Limit().fresh_int)


@one_cpu
def test_numpy_scalar(timed, reader):
    timed("a NumPy scalar of the mapping", "counts[1]", counts=counters(reader))


@one_cpu
def test_struct(timed, reader):
    offset = int(reader.entries[1]["offset"])
    names = {"struct_twice": struct_twice, "memory": mapped(reader).data, "offset": offset}
    timed("struct, twice, with a retry", "struct_twice(memory, offset)", **names)


@one_cpu
def test_proc_stat(timed):
    timed("open, read and parse /proc/stat", "proc_stat()", proc_stat=proc_stat)


@one_cpu
def test_psutil(timed):
    timed("psutil.cpu_times", "cpu_times(percpu=True)", cpu_times=psutil.cpu_times)


@all_cpus
@pytest.mark.parametrize("cpus", CPUS)
def test_snapshot(timed, reader_of, cpus):
    with reader_of(cpus) as reader:
        rows = reader.snapshot()
        timed(f"snapshot of {cpus}", "reader.snapshot(rows)", reader=reader, rows=rows)


@all_cpus
@pytest.mark.parametrize("cpus", CPUS)
def test_copyto(timed, reader_of, cpus):
    with reader_of(cpus) as reader:
        names = {"copyto": np.copyto, "out": np.empty(cpus, np.uint64), "counts": counters(reader)}
        timed(f"copyto of {cpus}", "copyto(out, counts)", **names)


@all_cpus
@pytest.mark.parametrize("cpus", CPUS)
def test_loop(timed, reader_of, limit, cpus):
    with reader_of(cpus) as reader:
        names = {"loop": limit.loop, "lines": lines(reader), "rows": reader.snapshot()}
        timed(f"a C loop over {cpus}", "loop(lines, rows)", **names)


@cold
def test_cold_snapshot(timed_cold, reader):
    timed_cold("snapshot of 512, cold", reader.snapshot, reader.snapshot())


@cold
def test_cold_loop(timed_cold, reader, limit):
    timed_cold("a C loop over 512, cold", limit.loop, lines(reader), reader.snapshot())


@all_cpus
def test_delta(timed, reader):
    names = {"delta": guestpv.delta, "before": reader.snapshot(), "after": reader.snapshot()}
    timed("delta of 512", "delta(before, after)", **names)


@all_cpus
def test_totals(timed, reader):
    timed("Totals.update of 512", "totals.update()", totals=guestpv.Totals(reader))
