# SPDX-License-Identifier: MIT
"""No read is torn, whatever is written meanwhile: 10⁸ reads against a writer that never rests."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

import guestpv
from guestpv import image, layout

HERE = Path(__file__).parent
UAPI = HERE.parents[1] / "kmod/uapi"
CPUS = 64
READS = 100_000_000
POISON = 0xDEADBEEFDEADBEEF


@pytest.fixture
def restless(tmp_path):
    """A page image under a writer at full speed; each CPU has two structures side by side."""
    path, writer = tmp_path / "image", tmp_path / "writer"
    image.write_image(path, [1 << 48] * (2 * CPUS))
    raw = np.memmap(path, np.uint8, "r+")
    header = raw[: layout.HEADER.itemsize].view(layout.HEADER)
    entries = np.ndarray(2 * CPUS, layout.ENTRY, raw, layout.HEADER.itemsize)
    entries[:CPUS] = entries[::2].copy()
    header["nr_entries"] = CPUS
    raw.flush()
    subprocess.run(
        ["cc", "-std=c11", "-O2", "-I", UAPI, HERE / "torn_writer.c", "-o", writer], check=True
    )
    with subprocess.Popen([writer, path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield path
        assert process.poll() is None, "the writer ended before the test did"
        process.kill()


def whole(epochs, counts):
    """Whether each count is of its epoch, and both its halves of one store."""
    counts = counts.astype(np.uint64)
    number = counts & 0xFFFFFF
    return (counts >> 48 == epochs & 0xFFFF) & (counts >> 24 & 0xFFFFFF == number)


def test_no_snapshot_is_torn(restless):
    with guestpv.open(restless) as reader:
        rows = reader.snapshot()
        reads = flagged = 0
        epochs = set()
        while reads < READS:
            reader.snapshot(rows)
            valid = rows["valid"]
            assert whole(rows["epoch"], rows["stolen_ns"])[valid].all(), rows
            assert (rows["epoch"] == rows["epoch"][0]).all(), "rows of two indexes in one snapshot"
            assert not rows["stolen_ns"][~valid].any(), "a count was interpreted that must not be"
            flagged += int((~valid).sum())
            reads += len(rows)
            if len(epochs) < 1000:
                epochs.add(int(rows["epoch"][0]))
    print(f"{reads} reads, {flagged} of an unknown revision, {len(epochs)} epochs or more")
    assert len(epochs) == 1000, "the writer was hardly seen to write"


def test_no_single_read_is_torn(restless):
    refusals = set()
    with guestpv.open(restless) as reader:
        for turn in range(300_000):
            try:
                reading = reader.read(turn % CPUS)
            except guestpv.StructureError as error:
                refusals.add((error.revision, error.attributes))
                continue
            count = reading.stolen_ns
            assert count >> 48 == reading.epoch & 0xFFFF
            assert count >> 24 & 0xFFFFFF == count & 0xFFFFFF
    assert refusals <= {(1, 1)}


def test_a_reader_without_the_protocol_is_torn(restless):
    """That the tests above can fail: the same image, read as plain NumPy arrays."""
    with guestpv.open(restless) as reader:
        entries = reader.entries
        words = np.frombuffer(reader.memory, np.uint64)
        for _ in range(200_000):
            epochs, offsets = entries["epoch"].astype(np.uint64), entries["offset"]
            counts = words[offsets // 8 + 1]
            if not whole(epochs, counts).all():
                return
    pytest.fail("plain loads were never torn: the writer does not do its work")
