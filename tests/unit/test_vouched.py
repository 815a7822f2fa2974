# SPDX-License-Identifier: MIT
"""What a reader hands out of its mapping: the index, 64 bytes per structure, and nothing else."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import guestpv
from guestpv.page import image, layout
from guestpv.source.mapped import MappedReader

CPUS = 3

CRAWL = """
import ctypes, mmap, sys
import guestpv

reader = guestpv.open(sys.argv[1])
index = len(bytes(reader._header())) + len(bytes(reader._entries()))
used = -(-index // mmap.PAGESIZE) + 1  # the pages of the index, and the one with the structures

# As on the device: pages that are not needed yet are not there.
(mapping,) = (line.split() for line in open("/proc/self/maps") if sys.argv[1] in line)
begin, end = (int(address, 16) for address in mapping[0].split("-"))
hole = begin + used * mmap.PAGESIZE
assert hole < end
assert not ctypes.CDLL(None).mprotect(ctypes.c_void_p(hole), ctypes.c_size_t(end - hole), 0)

todo = [getattr(reader, name) for name in dir(reader)]
todo += [reader.header, reader.entries, *map(reader.structure, reader.cpus)]
todo += [reader._header(), reader._entries(), *map(reader._structure, reader.cpus)]
sizes = set()
while todo:
    thing = todo.pop()
    # To where its memory comes from, as far as that can be followed.
    todo += [here for way in ("base", "obj") if (here := getattr(thing, way, None)) is not None]
    try:
        view = memoryview(thing)
    except TypeError:
        continue
    sizes.add(view.nbytes)
    bytes(view)
print(max(sizes) <= index, 64 in sizes)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """With pages behind the structures, of which nobody has said anything."""
    path = tmp_path / "image"
    image.write_image(path, range(CPUS))
    raw = bytearray(path.read_bytes() + bytes(1 << 20))
    np.ndarray((), layout.HEADER, raw)["size"] = len(raw)
    path.write_bytes(raw)
    return path


def test_no_way_of_copying_touches_what_is_not_vouched_for(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CRAWL, path], capture_output=True, text=True)
    assert done.returncode == 0, done
    assert done.stdout == "True True\n"


def test_a_structure_is_seen_live(path: Path) -> None:
    raw = np.memmap(path, np.uint8, "r+")
    with guestpv.open(path) as reader:
        structure = reader.structure(1)
        assert structure.dtype == layout.STOLEN_TIME
        offset = int(reader.entries["offset"][1])
        assert structure.tolist() == (0, 0, 1)
        raw[offset : offset + 16].view(layout.STOLEN_TIME)[0] = (7, 8, 9)
        assert structure.tolist() == reader.structure(1).tolist() == (7, 8, 9)
        with pytest.raises(ValueError, match="read-only"):
            structure["stolen_time"] = 1
    assert structure.tolist() == (7, 8, 9)  # it keeps the mapping
    with pytest.raises(ValueError, match="closed"):
        reader.structure(1)


def test_a_structure_that_is_not_there(path: Path) -> None:
    raw = np.memmap(path, np.uint8, "r+")
    entries = np.ndarray(CPUS, layout.ENTRY, raw, layout.HEADER.itemsize)
    entries["offset"][1] = 0
    with MappedReader(path) as reader:
        with pytest.raises(guestpv.StructureError):
            reader.structure(1)
        with pytest.raises(guestpv.NoSuchCpuError):
            reader.structure(CPUS)


def test_64_bytes_have_to_be_inside(path: Path) -> None:
    """Not only the 16 that are known today."""
    raw = bytearray(path.read_bytes()[:-32])
    np.ndarray((), layout.HEADER, raw)["size"] = len(raw)
    np.ndarray(CPUS, layout.ENTRY, raw, layout.HEADER.itemsize)["offset"][1] = len(raw) - 32
    path.write_bytes(raw)
    with MappedReader(path) as reader, pytest.raises(guestpv.FormatError, match="cpu1's structure"):
        reader.structure(1)
