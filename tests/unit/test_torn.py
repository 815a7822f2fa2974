# SPDX-License-Identifier: MIT
"""No read is torn, whatever is written meanwhile: 10⁸ reads against a writer that never rests."""

import subprocess
import time
from itertools import count as count_up
from pathlib import Path

import numpy as np
import pytest

import guestpv
from guestpv.page import image, layout

HERE = Path(__file__).parent
UAPI = HERE.parents[1] / "kmod/uapi"
CPUS = 64
SINGLE_READS = 2_000_000
SNAPSHOT_READS = 98_000_000


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    program = tmp_path_factory.mktemp("writer") / "writer"
    source = HERE / "torn_writer.c"
    subprocess.run(["cc", "-std=c11", "-O2", "-I", UAPI, source, "-o", program], check=True)
    return program


@pytest.fixture
def restless(tmp_path, writer):
    """A page image under a writer at full speed; each CPU has two structures side by side."""
    path = tmp_path / "image"
    image.write_image(path, [1 << 48] * (2 * CPUS))
    raw = np.memmap(path, np.uint8, "r+")
    header = raw[: layout.HEADER.itemsize].view(layout.HEADER)
    entries = np.ndarray(2 * CPUS, layout.ENTRY, raw, layout.HEADER.itemsize)
    entries[:CPUS] = entries[::2].copy()
    header["nr_entries"] = CPUS
    raw.flush()
    with subprocess.Popen([writer, path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield path
        assert process.poll() is None, "the writer ended before the test did"
        process.kill()


def whole(epochs, counts):
    """Whether each count is of its epoch, and both its halves of one store."""
    number = counts & np.uint64(0xFFFFFF)
    return (counts >> 48 == epochs & 0xFFFF) & (counts >> 24 & np.uint64(0xFFFFFF) == number)


def test_no_snapshot_is_torn(restless):
    with guestpv.open(restless) as reader:
        snapshots = np.empty((256, CPUS), guestpv.SNAPSHOT)
        reads = flagged = 0
        epochs = set()
        while reads < SNAPSHOT_READS:
            for snapshot in snapshots:
                reader.snapshot(snapshot)
            valid, epoch = snapshots["valid"], snapshots["epoch"]
            counts = snapshots["stolen_ns"]
            torn = valid & ~whole(epoch, counts)
            assert not torn.any(), snapshots[torn]
            assert (epoch == epoch[:, :1]).all(), "rows of two indexes in one snapshot"
            assert not counts[~valid].any(), "a count was interpreted that must not be"
            reads += snapshots.size
            flagged += snapshots.size - np.count_nonzero(valid)
            epochs.update(epoch[:, 0].tolist())
    print(f"{reads} reads in snapshots, {flagged} of an unknown revision, {len(epochs)} epochs")
    assert flagged, "the writer was not seen to change the revision"
    assert len(epochs) > 100, "the writer was hardly seen to change the index"


def test_no_single_read_is_torn(restless):
    refused = 0
    epochs = set()
    deadline = time.monotonic() + 120
    with guestpv.open(restless) as reader:
        read, stolen_ns = reader.read, reader.stolen_ns
        # As many as are asked for, and more while a busy machine has kept the writer from writing.
        for turn in count_up():
            if turn >= SINGLE_READS // 2 and refused and len(epochs) > 1000:
                break
            assert time.monotonic() < deadline, "the writer was hardly seen to write"
            cpu = turn % CPUS
            try:
                reading = read(cpu)
                count, epoch = reading.stolen_ns, reading.epoch
                assert count >> 48 == epoch & 0xFFFF
                assert count >> 24 & 0xFFFFFF == count & 0xFFFFFF
                epochs.add(epoch)
                count = stolen_ns(cpu)
                assert count >> 24 & 0xFFFFFF == count & 0xFFFFFF
            except guestpv.StructureError as error:
                refused += 1
                if (error.revision, error.attributes) != (1, 1):
                    raise
    print(f"{2 * turn} single reads, {refused} refused, {len(epochs)} epochs")


def test_a_reader_without_the_protocol_is_torn(restless):
    """That the tests above can fail: the same image, read as plain NumPy arrays."""
    with guestpv.open(restless) as reader:
        entries = reader.entries
        words = np.memmap(restless, np.uint64, "r")
        for _ in range(200_000):
            epochs, offsets = entries["epoch"], entries["offset"]
            counts = words[offsets // 8 + 1]
            if not whole(epochs, counts).all():
                return
    pytest.fail("plain loads were never torn: the writer does not do its work")
