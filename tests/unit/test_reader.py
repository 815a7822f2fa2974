# SPDX-License-Identifier: MIT
"""Reading: what is right is read, and whatever is wrong with a source is said, not interpreted."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import guestpv
from guestpv import image, layout
from guestpv.layout import Fault, State

COUNTS = [7, 0, 2**64 - 1, 123_456_789]


@pytest.fixture
def path(tmp_path):
    image.write_image(tmp_path / "image", COUNTS, epochs=[1, 2, 3, 4])
    return tmp_path / "image"


@pytest.fixture
def raw(path):
    """The image's bytes, to change them under a reader."""
    return np.memmap(path, np.uint8, "r+")


def header(raw):
    return raw[: layout.HEADER.itemsize].view(layout.HEADER)


def entries(raw):
    return np.ndarray(len(COUNTS), layout.ENTRY, raw, layout.HEADER.itemsize)


def change_index(raw, **fields):
    """Change fields of CPU 1's entry, as the module does: under the sequence."""
    header(raw)["sequence"] += 1
    for name, value in fields.items():
        entries(raw)[name][1] = value
    header(raw)["sequence"] += 1


def test_every_count_is_read_in_full(path):
    with guestpv.open(path) as reader:
        assert reader.cpus == (0, 1, 2, 3)
        for cpu, count in enumerate(COUNTS):
            assert reader.stolen_ns(cpu) == count
            reading = reader.read(cpu)
            assert (reading.stolen_ns, reading.epoch) == (count, cpu + 1)
            assert (reading.revision, reading.attributes) == (0, 0)
        rows = reader.snapshot()
        assert rows["stolen_ns"].tolist() == COUNTS
        assert rows["epoch"].tolist() == [1, 2, 3, 4]
        assert rows["valid"].all()


def test_reading_follows_the_counter(path, raw):
    with guestpv.open(path) as reader:
        image.structures(raw)["stolen_time"][3] += 1
        assert reader.stolen_ns(3) == COUNTS[3] + 1


@pytest.mark.parametrize(("revision", "attributes"), [(1, 0), (0, 1), (2**32 - 1, 2**32 - 1)])
def test_the_unknown_is_never_interpreted_and_the_known_is_read_again(
    path, raw, revision, attributes
):
    structure = image.structures(raw)[1:2]
    with guestpv.open(path) as reader:
        structure["revision"], structure["attributes"] = revision, attributes
        for read in reader.read, reader.stolen_ns:
            with pytest.raises(guestpv.StructureError) as refused:
                read(1)
            assert (refused.value.revision, refused.value.attributes) == (revision, attributes)
        row = reader.snapshot()[1]
        assert (row["valid"], row["stolen_ns"]) == (False, 0)
        assert (row["revision"], row["attributes"]) == (revision, attributes)
        assert reader.snapshot()["valid"].tolist() == [True, False, True, True]

        structure["revision"], structure["attributes"] = 0, 0
        assert reader.read(1).stolen_ns == COUNTS[1]
        assert reader.snapshot()["valid"].all()


def test_a_new_epoch_is_seen(path, raw):
    with guestpv.open(path) as reader:
        change_index(raw, epoch=9)
        assert reader.read(1).epoch == 9
        assert reader.snapshot()["epoch"][1] == 9


def test_an_offline_cpu_keeps_its_last_count(path, raw):
    with guestpv.open(path) as reader:
        change_index(raw, state=State.OFFLINE)
        assert reader.stolen_ns(1) == COUNTS[1]
        assert reader.snapshot()["state"][1] == State.OFFLINE


@pytest.mark.parametrize(
    ("state", "fault", "says"),
    [(State.ABSENT, Fault.NONE, "no structure"), (State.REFUSED, Fault.SYSTEM_RAM, "System RAM")],
)
def test_without_a_structure_it_says_why(path, raw, state, fault, says):
    with guestpv.open(path) as reader:
        change_index(raw, state=state, fault=fault, offset=0)
        with pytest.raises(guestpv.StructureError, match=says) as refused:
            reader.read(1)
        assert refused.value.fault == fault
        assert not reader.snapshot()["valid"][1]


def test_an_index_that_never_settles_is_given_up(path, raw):
    with guestpv.open(path) as reader:
        header(raw)["sequence"] += 1
        for read in lambda: reader.read(0), reader.snapshot:
            with pytest.raises(guestpv.BusyError):
                read()


@pytest.mark.parametrize("cpu", [4, -1, 2**32, 2**70])
def test_a_cpu_that_does_not_exist(path, cpu):
    with guestpv.open(path) as reader, pytest.raises(guestpv.NoSuchCpuError, match=str(cpu)):
        reader.read(cpu)


def test_a_cpu_that_is_no_number(path):
    with guestpv.open(path) as reader, pytest.raises(TypeError):
        reader.read("0")


def test_after_close_nothing_is_read_but_views_stay_good(path):
    reader = guestpv.open(path)
    index = reader.entries
    reader.close()
    for read in lambda: reader.read(0), lambda: reader.stolen_ns(0), reader.snapshot:
        with pytest.raises(ValueError, match="closed"):
            read()
    assert index["epoch"].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("dtype", [np.uint64, layout.ENTRY])
def test_a_snapshot_into_a_wrong_array_is_refused(path, dtype):
    with guestpv.open(path) as reader:
        with pytest.raises(ValueError, match="SNAPSHOT"):
            reader.snapshot(np.empty(4, dtype))
        with pytest.raises(ValueError, match="row"):
            reader.snapshot(np.empty(3, guestpv.SNAPSHOT))


def test_the_mapping_cannot_be_written(path):
    with guestpv.open(path) as reader, pytest.raises(ValueError, match="read-only"):
        reader.entries["epoch"] = 5


# ---- what is no page image, or no longer -------------------------------------


@given(st.data())
def test_an_image_cut_short_at_any_length_is_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("cut") / "image"
    image.write_image(path, COUNTS)
    os.truncate(path, data.draw(st.integers(0, path.stat().st_size - 1)))
    with pytest.raises(guestpv.FormatError):
        guestpv.open(path)


@pytest.mark.parametrize("keep", [0, 4096])
def test_an_image_cut_short_while_open_is_refused_not_a_crash(path, keep):
    with guestpv.open(path) as reader:
        reader.snapshot()
        os.truncate(path, keep)
        for _ in range(2):
            for read in lambda: reader.read(3), lambda: reader.stolen_ns(0), reader.snapshot:
                with pytest.raises(guestpv.FormatError, match="cut short"):
                    read()


def test_the_handler_leaves_other_bus_errors_alone(path):
    """A SIGBUS that is not a page image's still ends the process."""
    script = f"""
import mmap, os, guestpv
reader = guestpv.open({str(path)!r})
with open({str(path)!r} + ".other", "w+b") as file:
    file.truncate(8192)
    other = mmap.mmap(file.fileno(), 8192)
    file.truncate(0)
    other[5000]
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -7


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("magic", 0, "magic"),
        ("abi_version", 2, "version 2"),
        ("header_size", 8, "header"),
        ("header_size", 2**32 - 8, "fit"),
        ("entry_size", 32, "entries"),
        ("nr_entries", 0, "entries"),
        ("nr_entries", 2**32 - 1, "fit"),
        ("size", 2**62, "cut short"),
    ],
)
def test_a_header_that_is_wrong_is_refused(path, raw, field, value, says):
    header(raw)[field] = value
    with pytest.raises(guestpv.FormatError, match=says):
        guestpv.open(path)


@pytest.mark.parametrize("offset", [1, 64, 4096 + 63, 4096 + 8, 8192, 8192 - 8, 2**32 - 64])
def test_an_offset_that_is_wrong_is_refused(path, raw, offset):
    with guestpv.open(path) as reader:
        change_index(raw, offset=offset)
        for read in lambda: reader.read(1), reader.snapshot:
            with pytest.raises(guestpv.FormatError, match="index"):
                read()


@given(junk=st.binary(max_size=9000))
def test_junk_is_refused(tmp_path_factory, junk):
    path = tmp_path_factory.mktemp("junk") / "image"
    path.write_bytes(junk)
    with pytest.raises(guestpv.FormatError):
        guestpv.open(path)


def test_what_is_not_there_says_what_to_do(tmp_path):
    with pytest.raises(guestpv.NoSourceError, match="no such file"):
        guestpv.open(tmp_path / "nothing")
    with pytest.raises(guestpv.NoSourceError, match=r"guestpv load.*procfs"):
        guestpv.open("device")
    with pytest.raises(guestpv.FormatError):
        guestpv.open(tmp_path)


def test_without_permission_it_says_so(path):
    path.chmod(0)
    script = f"""
import os, guestpv
if os.geteuid() == 0:
    os.chmod({str(path.parent)!r}, 0o755)
    os.setuid(65534)
try:
    guestpv.open({str(path)!r})
except guestpv.PermissionDeniedError as error:
    print(error.exit_code)
"""
    for parent in path.parents:
        if parent.owner() == path.owner() and str(parent).startswith(("/tmp/", "/var/tmp/")):
            parent.chmod(parent.stat().st_mode | 0o011)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "4\n", done.stderr
