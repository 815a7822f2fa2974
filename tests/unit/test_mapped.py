# SPDX-License-Identifier: MIT
"""A page image, read: what each of its states means, and what becomes of a reader."""

import copy
import gc
import inspect
import pydoc
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import SupportsIndex

import mypy.api
import numpy as np
import numpy.typing as npt
import pytest

import guestpv
from guestpv._native import NativeReader
from guestpv.page import layout
from guestpv.page.abi import Fault, Origin, State
from guestpv.page.image import write_image
from guestpv.source.mapped import MappedReader

COUNTS = [5, 2**63, 2**64 - 1]


class Page:
    """A page image of three CPUs, and its parts to write to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        write_image(path, COUNTS)
        raw = np.memmap(path, np.uint8, "r+")
        self.header = raw[: layout.HEADER.itemsize].view(layout.HEADER)[0]
        self.entries: npt.NDArray[np.void] = np.ndarray(
            len(COUNTS), layout.ENTRY, raw, layout.HEADER.itemsize
        )
        self.structures: npt.NDArray[np.void] = np.ndarray(
            len(COUNTS), layout.STOLEN_TIME, raw, int(self.entries["offset"][0]), 64
        )

    def change(self, cpu: int, **fields: int) -> None:
        """Change an entry as the module does, under the sequence count."""
        self.header["sequence"] += 1
        for name, value in fields.items():
            self.entries[name][cpu] = value
        self.header["sequence"] += 1


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page(tmp_path / "image")


@pytest.fixture
def reader(page: Page) -> Iterator[MappedReader]:
    with MappedReader(page.path) as reader:
        yield reader


def mappings(path: Path) -> int:
    return Path("/proc/self/maps").read_text().count(str(path))


def test_each_way_to_read_says_the_same(reader: MappedReader) -> None:
    before = time.monotonic_ns()
    rows = reader.snapshot()
    after = time.monotonic_ns()
    assert rows.dtype == guestpv.SNAPSHOT
    assert rows["stolen_ns"].tolist() == COUNTS
    assert [reader.stolen_ns(cpu) for cpu in reader.cpus] == COUNTS
    assert [reader.read(cpu).stolen_ns for cpu in reader.cpus] == COUNTS
    assert rows["cpu"].tolist() == list(reader.cpus) == [0, 1, 2]
    assert rows["epoch"].tolist() == [reader.read(cpu).epoch for cpu in reader.cpus] == [1, 1, 1]
    assert rows["valid"].all()
    assert (rows["state"] == State.ONLINE).all()
    assert (rows["origin"] == Origin.ADOPTED).all()
    assert not rows["revision"].any()
    assert not rows["attributes"].any()
    assert (rows["monotonic_ns"] == rows["monotonic_ns"][0]).all()
    assert before <= rows["monotonic_ns"][0] <= after


def test_source_says_what_is_read(reader: MappedReader, page: Page) -> None:
    assert reader.source.kind == "image"
    assert reader.source.path == str(page.path)
    assert reader.source.resolution_ns == 1
    assert str(page.path) in repr(reader)


def test_views_are_live_and_can_not_be_written(reader: MappedReader, page: Page) -> None:
    before = int(reader.header["sequence"])
    page.change(1, epoch=7)
    assert reader.header["sequence"] == before + 2
    assert reader.entries["epoch"].tolist() == [1, 7, 1]
    with pytest.raises(ValueError, match="read-only"):
        reader.entries["epoch"][1] = 8
    with pytest.raises(ValueError, match="read-only"):
        reader.header["sequence"] = 8


@pytest.mark.parametrize("cpu", [np.uint32(1), np.int64(1), True])
def test_any_integer_is_a_cpu_number(reader: MappedReader, cpu: int) -> None:
    assert reader.stolen_ns(cpu) == COUNTS[1]
    assert reader.read(cpu).stolen_ns == COUNTS[1]


@pytest.mark.parametrize("cpu", [3, -1, 2**31, 2**32, -(2**63), 2**64, -(2**70), np.int64(-1)])
def test_cpu_that_does_not_exist(reader: MappedReader, cpu: int) -> None:
    for read in (reader.read, reader.stolen_ns):
        with pytest.raises(guestpv.NoSuchCpuError, match=f"cpu{cpu}: .* 0 to 2"):
            read(cpu)


@pytest.mark.parametrize("cpu", ["1", 1.0, None])
def test_what_is_no_integer_is_a_type_error(reader: MappedReader, cpu: int) -> None:
    for read in (reader.read, reader.stolen_ns):
        with pytest.raises(TypeError):
            read(cpu)


@pytest.mark.parametrize(("revision", "attributes"), [(1, 0), (0, 1), (2**32 - 1, 2**32 - 1)])
def test_unknown_revision_is_never_interpreted(
    reader: MappedReader, page: Page, revision: int, attributes: int
) -> None:
    page.structures[1] = (revision, attributes, COUNTS[1])
    for read in (reader.read, reader.stolen_ns):
        with pytest.raises(guestpv.StructureError, match="cpu1: ") as refused:
            read(1)
        assert (refused.value.revision, refused.value.attributes) == (revision, attributes)
    rows = reader.snapshot()
    assert rows["valid"].tolist() == [True, False, True]
    assert rows["stolen_ns"].tolist() == [COUNTS[0], 0, COUNTS[2]]
    assert rows["revision"].tolist() == [0, revision, 0]
    assert rows["attributes"].tolist() == [0, attributes, 0]

    page.structures[1] = (0, 0, COUNTS[1])
    assert reader.stolen_ns(1) == COUNTS[1]
    assert reader.snapshot(rows)["stolen_ns"].tolist() == COUNTS
    assert rows["valid"].all()
    assert not rows["attributes"].any()


def test_count_is_followed(reader: MappedReader, page: Page) -> None:
    for count in (6, 7, 2**64 - 1, 0, 1):
        page.structures["stolen_time"][0] = count
        assert reader.stolen_ns(0) == reader.read(0).stolen_ns == count
        assert reader.snapshot()["stolen_ns"][0] == count


def test_new_epoch_is_seen_at_once(reader: MappedReader, page: Page) -> None:
    reader.snapshot()
    page.change(1, epoch=2, state=State.OFFLINE)
    assert reader.read(1).epoch == 2
    row = reader.snapshot()[1]
    assert (row["epoch"], row["state"], row["valid"]) == (2, State.OFFLINE, True)
    assert row["stolen_ns"] == COUNTS[1]


@pytest.mark.parametrize("state", [State.ABSENT, State.REFUSED])
def test_cpu_without_a_structure(reader: MappedReader, page: Page, state: State) -> None:
    fault = Fault.SYSTEM_RAM if state == State.REFUSED else Fault.NONE
    page.change(1, state=state, fault=fault, offset=0)
    for read in (reader.read, reader.stolen_ns):
        with pytest.raises(guestpv.StructureError, match="cpu1: no stolen time") as refused:
            read(np.uint32(1))
        assert refused.value.fault is fault
        assert (fault.text in str(refused.value)) == (state == State.REFUSED)
        assert ("is offline" in str(refused.value)) == (state == State.ABSENT)
    row = reader.snapshot()[1]
    assert (row["valid"], row["stolen_ns"], row["state"], row["fault"]) == (0, 0, state, fault)

    page.change(1, state=State.ONLINE, fault=0, offset=int(page.entries["offset"][0]) + 64)
    assert reader.stolen_ns(1) == COUNTS[1]


@pytest.mark.parametrize("state", [State.ABSENT, State.REFUSED])
def test_offset_of_a_cpu_without_a_structure_is_not_followed(
    reader: MappedReader, page: Page, state: State
) -> None:
    page.change(1, state=state)
    with pytest.raises(guestpv.StructureError):
        reader.stolen_ns(1)
    assert not reader.snapshot()["valid"][1]


def test_index_that_never_comes_to_rest(reader: MappedReader, page: Page) -> None:
    page.header["sequence"] = 1
    for read in (lambda: reader.read(0), lambda: reader.stolen_ns(0), reader.snapshot):
        begun = time.monotonic()
        with pytest.raises(guestpv.BusyError):
            read()
        assert time.monotonic() - begun < 10
    page.header["sequence"] = 2
    assert reader.stolen_ns(0) == COUNTS[0]


def test_index_that_comes_to_rest_in_time(reader: MappedReader, page: Page) -> None:
    """The one who changes it may have lost its CPU: that is what stolen time is."""

    def rest() -> None:
        time.sleep(0.2)
        page.header["sequence"] = 2

    page.header["sequence"] = 1
    thread = Thread(target=rest)
    thread.start()
    assert reader.stolen_ns(0) == COUNTS[0]
    thread.join()


def test_readers_in_many_threads(reader: MappedReader, page: Page) -> None:
    wrong: list[int] = []

    def read() -> None:
        for _ in range(20_000):
            wrong.extend(reader.read(cpu).stolen_ns - COUNTS[cpu] for cpu in (0, 2))

    threads = [Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        page.change(1, epoch=int(page.entries["epoch"][1]) + 1)
    assert not any(wrong)


def test_out_is_filled_and_returned(reader: MappedReader) -> None:
    out = np.full(3, 0xFF, "u1").repeat(56).view(guestpv.SNAPSHOT)
    assert reader.snapshot(out) is out
    assert out["stolen_ns"].tolist() == COUNTS


def no_rows() -> list[npt.NDArray[np.void]]:
    fixed = np.empty(3, guestpv.SNAPSHOT)
    fixed.flags.writeable = False
    return [
        np.empty(2, guestpv.SNAPSHOT),
        np.empty((3, 1), guestpv.SNAPSHOT),
        np.empty(6, guestpv.SNAPSHOT)[::2],
        np.empty(3, "V40"),
        fixed,
    ]


@pytest.mark.parametrize("out", no_rows(), ids=["few", "shape", "strided", "dtype", "read-only"])
def test_out_that_can_not_hold_a_snapshot(reader: MappedReader, out: npt.NDArray[np.void]) -> None:
    with pytest.raises((ValueError, BufferError)):
        reader.snapshot(out)


def test_closed_reader_reads_no_more(page: Page) -> None:
    with guestpv.open(page.path) as reader:
        pass
    reader.close()
    reads: list[Callable[[], object]] = [
        lambda: reader.read(0),
        lambda: reader.stolen_ns(0),
        reader.snapshot,
        lambda: reader.entries,
        lambda: reader.header,
    ]
    for read in reads:
        with pytest.raises(ValueError, match="closed"):
            read()
    assert str(page.path) in repr(reader)


def test_close_lets_go_of_the_mapping(page: Page) -> None:
    """Or the module could not be unloaded for as long as the process lives."""
    before = mappings(page.path)
    reader = guestpv.open(page.path)
    assert mappings(page.path) == before + 1
    reader.snapshot()
    reader.close()
    assert mappings(page.path) == before


def test_views_keep_the_mapping(page: Page) -> None:
    before = mappings(page.path)
    with guestpv.open(page.path) as reader:
        entries = reader.entries
    assert entries is not None
    assert entries["epoch"].tolist() == [1, 1, 1]
    assert mappings(page.path) == before + 1
    del entries, reader
    assert mappings(page.path) == before


def test_forgotten_reader_lets_go(page: Page) -> None:
    before = mappings(page.path)
    for _ in range(10):
        assert guestpv.open(page.path).entries is not None
    gc.collect()
    assert mappings(page.path) == before


def test_cpu_on_its_way_is_not_read(reader: MappedReader, page: Page) -> None:
    """Its structure stands in the index, and its count may be of either epoch."""
    page.change(1, state=State.STARTING)
    for read in (reader.read, reader.stolen_ns, reader.structure):
        with pytest.raises(guestpv.StructureError, match="on its way up or down") as refused:
            read(1)
        assert refused.value.fix == "try again"
    row = reader.snapshot()[1]
    assert (row["state"], row["valid"], row["stolen_ns"]) == (State.STARTING, False, 0)
    page.change(1, state=State.ONLINE, epoch=2)
    assert (reader.read(1).stolen_ns, reader.read(1).epoch) == (COUNTS[1], 2)


def test_methods_of_c_say_what_they_are(reader: MappedReader) -> None:
    for name in ("read", "stolen_ns"):
        for method in (getattr(reader, name), getattr(NativeReader, name)):
            parameters = inspect.signature(method).parameters.values()
            assert [one.name for one in parameters if one.name != "self"] == ["cpu"]
            assert "Raises" in (inspect.getdoc(method) or "")
    for method in vars(NativeReader).values():
        if not getattr(method, "__name__", "__").startswith("__"):
            assert inspect.signature(method)
            assert inspect.getdoc(method)
    assert list(inspect.signature(guestpv.Reading).parameters) == [
        *("revision", "attributes", "stolen_ns", "epoch")
    ]
    shown = pydoc.render_doc(MappedReader)
    for text in ("Raw stolen time of a CPU in nanoseconds", "One CPU's structure as a whole"):
        assert text in shown


def test_the_reads_are_methods_of_the_class_itself() -> None:
    """Not of its base: Python would make a detour to them in each call."""
    assert not inspect.isabstract(MappedReader)
    for name in ("read", "stolen_ns", "_fill"):
        method = vars(MappedReader)[name]
        assert (type(method), method.__objclass__) == (types.MethodDescriptorType, MappedReader)
        with pytest.raises(TypeError, match="doesn't apply"):
            method(object(), 0)


def test_a_reader_may_be_derived_from(page: Page) -> None:
    class Doubled(MappedReader):
        def stolen_ns(self, cpu: SupportsIndex, /) -> int:
            return 2 * super().stolen_ns(cpu)

    class Derived(Doubled):
        pass

    with Derived(page.path) as reader:
        assert [reader.stolen_ns(cpu) for cpu in reader.cpus] == [2 * count for count in COUNTS]
        assert [reader.read(cpu).stolen_ns for cpu in reader.cpus] == COUNTS
        with pytest.raises(guestpv.NoSuchCpuError, match="cpu3: no such CPU"):
            reader.stolen_ns(3)
    with pytest.raises(ValueError, match="closed"):
        reader.stolen_ns(0)


def test_a_reader_is_not_copied(reader: MappedReader) -> None:
    """The copy would be of the device, whatever the reader is of."""
    with pytest.raises(TypeError, match="cannot pickle"):
        copy.copy(reader)


def test_open_is_typed_by_its_argument(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "from pathlib import Path\n"
        "from typing import assert_type\n"
        "import guestpv\n"
        "def opened(name: str) -> None:\n"
        "    assert_type(guestpv.open(), guestpv.MappedReader)\n"
        "    assert_type(guestpv.open('device'), guestpv.MappedReader)\n"
        "    assert_type(guestpv.open(Path(name)), guestpv.MappedReader)\n"
        "    assert_type(guestpv.open('procfs'), guestpv.ProcfsReader)\n"
        "    assert_type(guestpv.open(name), guestpv.MappedReader | guestpv.ProcfsReader)\n"
        "    assert_type(guestpv.open().stolen_ns(0), int)\n"
        "    assert_type(guestpv.open().read(0), guestpv.Reading)\n"
    )
    said, error, code = mypy.api.run(["--strict", str(program)])
    assert code == 0, said + error
