# SPDX-License-Identifier: MIT
"""Whatever is given as a source: it is read right, or refused with an error that says why."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import guestpv
from guestpv.page import abi, layout
from guestpv.page.abi import DEVICE
from guestpv.page.image import write_image

FilesLeft = Callable[[int], AbstractContextManager[None]]

COUNTS = [0x0101010101010101, 0x0202020202020202]

HEADER = {name: offset for name, (_, offset, *_) in (layout.HEADER.fields or {}).items()}
ENTRY = {name: offset for name, (_, offset, *_) in (layout.ENTRY.fields or {}).items()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_image(tmp_path / "image", COUNTS)
    return tmp_path / "image"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "image"
    write_image(path, COUNTS)
    return path.read_bytes()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "image"


def poke(path: Path, offset: int, value: int, size: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(value.to_bytes(size, sys.byteorder))


def reads(reader: guestpv.Reader) -> list[Callable[[], object]]:
    return [reader.snapshot, lambda: reader.stolen_ns(1), lambda: reader.read(1)]


def test_no_device() -> None:
    if Path(DEVICE).exists():
        pytest.skip("the module is loaded")
    for source in ("auto", "device"):
        with pytest.raises(guestpv.NoSourceError, match="guestpv load") as refused:
            guestpv.open(source)
        assert refused.value.what == "/dev/guestpv: no such device"
        assert refused.value.exit_code == 3


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(guestpv.NoSourceError, match="no such file"):
        guestpv.open(tmp_path / "none")


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_no_name_of_a_file(name: str) -> None:
    with pytest.raises(guestpv.NoSourceError, match="no name of a file"):
        guestpv.open(name)


def test_no_permission(path: Path) -> None:
    """Root may open anything, so another user tries."""
    script = (
        "import os, sys, guestpv\n"
        "opens = guestpv.open\n"  # while Python's own files may be read
        "fd = os.open(sys.argv[1], os.O_PATH)\n"
        "os.setgid(65534), os.setuid(65534)\n"
        "try: opens(f'/proc/self/fd/{fd}')\n"
        "except guestpv.Error as error: print(error.exit_code, error.what)\n"
    )
    path.chmod(0o400)
    if os.getuid():
        path.chmod(0)
        script = script.replace("os.setgid(65534), os.setuid(65534)\n", "")
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True)
    assert done.stdout.startswith("4 /proc/self/fd/"), done
    assert "permission denied" in done.stdout


def test_what_can_not_be_a_page_image(tmp_path: Path) -> None:
    fifo, empty = tmp_path / "fifo", tmp_path / "empty"
    os.mkfifo(fifo)
    empty.touch()
    devices = [Path("/dev/null"), Path("/dev/zero"), Path("/dev/ptmx")]
    unreadable = Path("/proc/self/mem")  # from its beginning
    for source in (tmp_path, fifo, empty, *devices, unreadable):
        with pytest.raises(guestpv.FormatError, match=f"^{source}: ") as refused:
            guestpv.open(source)
        assert refused.value.exit_code == 5


@pytest.mark.parametrize("left", [0, 1])
def test_without_file_descriptors_nothing_is_said_of_the_source(
    path: Path, files_left: FilesLeft, left: int
) -> None:
    """Neither that it is not there, nor that it is of another format: be it opened or mapped."""
    opens = guestpv.open  # while Python's own files may be read
    with files_left(left), pytest.raises(guestpv.Error, match="Too many open files") as refused:
        opens(path)
    assert type(refused.value) is guestpv.Error


@given(st.data())
def test_image_that_is_cut_short(whole: bytes, scratch: Path, data: st.DataObject) -> None:
    size = data.draw(st.integers(0, len(whole) - 1))
    scratch.write_bytes(whole[:size])
    with pytest.raises(guestpv.FormatError, match=str(size)):
        guestpv.open(scratch)


@given(st.binary(max_size=9000))
def test_junk(scratch: Path, junk: bytes) -> None:
    scratch.write_bytes(junk)
    with pytest.raises(guestpv.FormatError):
        guestpv.open(scratch)


@pytest.mark.parametrize(
    ("field", "size", "value", "why"),
    [
        ("magic", 8, 0, "magic"),
        ("magic", 8, abi.MAGIC + 1, "magic"),
        ("abi_version", 4, 0, "version 0"),
        ("abi_version", 4, 2, "version 2"),
        ("header_size", 4, 0, "0 bytes"),
        ("header_size", 4, 60, "60 bytes"),
        ("header_size", 4, 65, "65 bytes"),
        ("header_size", 4, 2**32 - 8, "entries"),
        ("entry_size", 4, 0, "0 bytes"),
        ("entry_size", 4, 56, "56 bytes"),
        ("entry_size", 4, 2**32 - 8, "entries"),
        ("nr_entries", 4, 0, "entries"),
        ("nr_entries", 4, 2**32 - 1, "entries"),
        ("size", 8, 0, "entries"),
        ("size", 8, 2**20, "cut short"),
        ("size", 8, 2**64 - 1, "cut short"),
    ],
)
def test_header_of_another_kind(path: Path, field: str, size: int, value: int, why: str) -> None:
    poke(path, HEADER[field], value, size)
    with pytest.raises(guestpv.FormatError, match=why):
        guestpv.open(path)


OFFSETS = [
    1,
    64,  # in the index
    4096 + 8,  # not 64-byte aligned
    8192 - 8,
    8192,  # behind the end
    2**32 - 64,
]


@pytest.mark.parametrize("offset", OFFSETS)
def test_structure_outside_the_image(path: Path, offset: int) -> None:
    poke(path, 64 + layout.ENTRY.itemsize + ENTRY["offset"], offset, 4)
    with guestpv.open(path) as reader:
        for read in reads(reader):
            with pytest.raises(guestpv.FormatError, match=f"cpu1.*{offset:#x}"):
                read()


@pytest.mark.parametrize(
    "field", ["magic", "abi_version", "header_size", "entry_size", "nr_entries", "size"]
)
@pytest.mark.parametrize("value", [0, 8, 2**20, 2**30, 2**32 - 8])
def test_header_that_changes_while_it_is_read(path: Path, field: str, value: int) -> None:
    """What was checked once is not what is there now."""
    with guestpv.open(path) as reader:
        poke(path, HEADER[field], value, 4)
        poke(path, HEADER["sequence"], 2, 4)
        for read in reads(reader):
            with pytest.raises(guestpv.FormatError):
                read()


@given(st.data())
def test_index_of_any_bytes(whole: bytes, scratch: Path, data: st.DataObject) -> None:
    """Nothing that an index can say makes the reader touch what is not its own."""
    scratch.write_bytes(whole)
    with guestpv.open(scratch) as reader:
        index = layout.HEADER.itemsize + 2 * layout.ENTRY.itemsize
        changes = st.tuples(st.integers(16, index - 1), st.binary(min_size=1, max_size=8))
        for offset, change in data.draw(st.lists(changes, min_size=1, max_size=4)):
            with scratch.open("r+b") as file:
                file.seek(offset)
                file.write(change)
        poke(scratch, HEADER["sequence"], 2, 4)
        for read in reads(reader):
            with suppress(guestpv.FormatError, guestpv.StructureError):
                read()


@given(st.data())
def test_image_that_shrinks_while_it_is_open(
    whole: bytes, scratch: Path, data: st.DataObject
) -> None:
    """To whatever length, at a page's end or within: no signal, and no count from what is left."""
    structure = int(np.frombuffer(whole, layout.ENTRY, 2, 64)["offset"][1])
    size = data.draw(st.integers(0, structure + 15))
    touched = data.draw(st.booleans())
    scratch.write_bytes(whole)
    with guestpv.open(scratch) as reader:
        if touched:
            assert reader.stolen_ns(1) == COUNTS[1]
        os.truncate(scratch, size)
        for read in data.draw(st.permutations(reads(reader))):
            with pytest.raises(guestpv.FormatError, match="cut short"):
                read()
        assert reader.entries is not None
        reader.entries.tolist()  # no signal here either


def test_image_that_was_cut_short_for_a_moment(path: Path) -> None:
    """A page that was touched meanwhile is lost, though the file, and its last count, are back."""
    write_image(path, [5] * 128)  # of which the last are in another page
    whole = path.read_bytes()
    with guestpv.open(path) as reader:
        assert reader.stolen_ns(0) == 5
        structure = reader.structure(0)
        os.truncate(path, int(reader.entries["offset"][0]))
        assert structure["stolen_time"] == 0
        path.write_bytes(whole)
        for read in (*reads(reader), lambda: reader.stolen_ns(0)):
            with pytest.raises(guestpv.FormatError, match="cut short"):
                read()


@given(st.data())
def test_image_that_is_written_over(whole: bytes, scratch: Path, data: st.DataObject) -> None:
    """By another, wholly or so far as its header: no count of the one is given for the other's."""
    write_image(scratch, [7, 8, 9])
    other = scratch.read_bytes()
    written = data.draw(st.integers(layout.HEADER.itemsize, len(other)))
    scratch.write_bytes(whole)
    with guestpv.open(scratch) as reader:
        if data.draw(st.booleans()):
            assert reader.stolen_ns(1) == COUNTS[1]
        with scratch.open("r+b") as file:
            file.write(other[:written])
        for read in data.draw(st.permutations(reads(reader))):
            with pytest.raises(guestpv.FormatError, match="changed while it was open"):
                read()


def test_image_that_is_written_over_with_its_own_sequence(path: Path) -> None:
    """As before images had sequences of their own, and by whoever writes one himself."""
    poke(path, HEADER["sequence"], 0, 4)
    with guestpv.open(path) as reader:
        assert reader.stolen_ns(1) == COUNTS[1]
        poke(path, HEADER["instance"], 77, 8)
        poke(path, 4096 + 64 + 8, 12, 8)
        for read in reads(reader):
            with pytest.raises(guestpv.FormatError, match="changed while it was open"):
                read()


def test_image_of_the_same_instance_that_is_written_over(path: Path, tmp_path: Path) -> None:
    """It may be a later one of the same machine: then it is read, and with its own epochs."""
    write_image(path, COUNTS, instance=5)
    with guestpv.open(path) as reader:
        assert (reader.read(1).epoch, reader.read(1).stolen_ns) == (1, COUNTS[1])
        write_image(tmp_path / "later", [3, 4], instance=5, epochs=[2, 2])
        path.write_bytes((tmp_path / "later").read_bytes())
        assert (reader.read(1).epoch, reader.read(1).stolen_ns) == (2, 4)


def test_images_have_sequences_of_their_own(tmp_path: Path) -> None:
    sequences = set()
    for _ in range(8):
        write_image(tmp_path / "image", [1])
        with guestpv.open(tmp_path / "image") as reader:
            sequences.add(int(reader.header["sequence"]))
    assert len(sequences) == 8
    assert not any(sequence % 2 for sequence in sequences)


def test_sigbus_of_others_is_left_to_them(path: Path) -> None:
    """Only pages of page images are dealt with: other programs' faults stay theirs."""
    script = (
        "import faulthandler, mmap, os, sys, guestpv\n"
        "if 'faulthandler' in sys.argv: faulthandler.enable()\n"
        "reader = guestpv.open(sys.argv[1])\n"
        "with open(sys.argv[1] + '.other', 'w+b') as file:\n"
        "    file.write(bytes(4096)); file.flush()\n"
        "    other = mmap.mmap(file.fileno(), 4096)\n"
        "    file.truncate(0)\n"
        "    other[0]\n"
    )
    for when in ("never", "faulthandler"):
        done = subprocess.run([sys.executable, "-c", script, path, when], capture_output=True)
        assert done.returncode == -signal.SIGBUS, done


@pytest.mark.parametrize("says", ["nothing", "an address"])
def test_sigbus_that_was_sent_is_obeyed(path: Path, says: str) -> None:
    """Also if the sender put the address of the image into it."""
    script = (
        "import ctypes, os, platform, signal, struct, sys, guestpv\n"
        "reader = guestpv.open(sys.argv[1])\n"
        "if 'nothing' in sys.argv: os.kill(os.getpid(), signal.SIGBUS)\n"
        "address = reader.header.__array_interface__['data'][0]\n"
        "info = struct.pack('iiiiQ104x', signal.SIGBUS, 0, -1, 0, address)\n"  # SI_QUEUE
        "rt_sigqueueinfo = {'x86_64': 129, 'aarch64': 138}[platform.machine()]\n"
        "ctypes.CDLL(None).syscall(rt_sigqueueinfo, os.getpid(), signal.SIGBUS, info)\n"
        "print('survived')\n"
    )
    done = subprocess.run([sys.executable, "-c", script, path, says], capture_output=True)
    assert done.returncode == -signal.SIGBUS, done
