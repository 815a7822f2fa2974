# SPDX-License-Identifier: MIT
"""A reader that is closed stays closed, whoever closes it, and when."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from guestpv._native import NativeReader
from guestpv.page import image, layout
from guestpv.source.mapped import MappedReader

WAYS = ["reader.stolen_ns(cpu)", "reader.read(cpu)", "reader.structure(cpu)"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    image.write_image(tmp_path / "image", [5, 6])
    return tmp_path / "image"


@pytest.fixture
def run(path: Path) -> Callable[..., str]:
    """What a program says in a process of its own: if it fails, memory is read that is gone."""

    def run(program: str, *args: str) -> str:
        begin = f"import sys, guestpv\npath = {str(path)!r}\nreader = guestpv.open(path)\n"
        command = [sys.executable, "-c", begin + program, *args]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done
        return done.stdout

    return run


def test_it_can_not_be_opened_again(path: Path) -> None:
    reader = MappedReader(path)
    stolen_ns = reader.stolen_ns
    reader.close()
    reader.__init__(path)  # type: ignore[misc]
    NativeReader.__init__(reader, 0, b"", print)  # type: ignore[call-arg]
    for read in (stolen_ns, reader.stolen_ns, reader.read, reader.structure):
        with pytest.raises(ValueError, match="closed"):
            read(0)


def test_an_open_one_is_not_opened_twice(path: Path) -> None:
    """The second, of more CPUs, had the first's index: a heap overflow."""
    with MappedReader(path) as reader:
        image.write_image(path.with_name("larger"), range(1, 1000))
        reader.__init__(path.with_name("larger"))  # type: ignore[misc]
        assert reader.snapshot()["stolen_ns"].tolist() == [5, 6]
        assert [reader.stolen_ns(cpu) for cpu in reader.cpus] == [5, 6]


def test_a_header_that_is_not_one_is_refused(path: Path) -> None:
    whole = path.read_bytes()[: layout.HEADER.itemsize]
    wrong = [b"", whole[:-1]]
    for field, value in (
        ("nr_entries", 2**31),
        ("header_size", 56),
        ("header_size", 65),
        ("entry_size", layout.ENTRY.itemsize - 8),
        ("entry_size", layout.ENTRY.itemsize + 1),
        ("size", 0),
    ):
        header = bytearray(whole)
        np.ndarray((), layout.HEADER, header)[field] = value
        wrong.append(bytes(header))
    with path.open("rb") as file:
        for one in wrong:
            with pytest.raises(ValueError, match="not consistent"):
                NativeReader(file.fileno(), one, print)  # type: ignore[arg-type]


def test_its_file_descriptor_is_its_own_and_goes_with_it(path: Path) -> None:
    """A program that is executed has none of it."""

    def descriptors() -> set[str]:
        return {fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")}

    before = descriptors()
    with MappedReader(path):
        own = descriptors() - before
        assert len(own) == 1
        assert not any(os.get_inheritable(int(fd)) for fd in own)
    assert descriptors() == before


def test_readers_in_threads_while_it_is_closed(path: Path) -> None:
    for _ in range(50):
        reader = MappedReader(path)
        closed: list[ValueError] = []

        def read(reader: MappedReader = reader, closed: list[ValueError] = closed) -> None:
            try:
                while True:
                    assert reader.stolen_ns(0) == 5
                    assert reader.snapshot()["stolen_ns"].tolist() == [5, 6]
            except ValueError as error:
                closed.append(error)

        threads = [Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        reader.close()
        reader.__init__(path)  # type: ignore[misc]
        for thread in threads:
            thread.join()
        assert len(closed) == 2


@pytest.mark.parametrize("way", [*WAYS, "reader.snapshot()"])
def test_closed_while_a_read_waits_for_the_index(run: Callable[..., str], way: str) -> None:
    said = run(
        "import numpy as np, threading\n"
        "cpu = 0\n"
        "np.memmap(path, 'u4', 'r+')[3] |= 1  # the sequence\n"
        "threading.Timer(0.1, reader.close).start()\n"
        "try: eval(sys.argv[1])\n"
        "except ValueError as error: print(error)\n",
        way,
    )
    assert said == "the reader is closed\n"


@pytest.mark.parametrize("way", WAYS)
def test_closed_by_the_number_of_a_cpu(run: Callable[..., str], way: str) -> None:
    said = run(
        "class Cpu:\n"
        "    def __index__(self):\n"
        "        reader.close()\n"
        "        return 0\n"
        "cpu = Cpu()\n"
        "try: eval(sys.argv[1])\n"
        "except ValueError as error: print(error)\n",
        way,
    )
    assert said == "the reader is closed\n"


@pytest.mark.parametrize("way", [*WAYS, "reader.snapshot()"])
def test_signals_are_handled_while_a_read_waits_for_the_index(path: Path, way: str) -> None:
    """Here the handler ends the wait itself; without it, nobody does."""
    words = np.memmap(path, np.uint32, "r+")

    def rest(*_: object) -> None:
        words[3] += 1

    before = signal.signal(signal.SIGALRM, rest)
    try:
        with MappedReader(path) as reader:
            words[3] += 1
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            eval(way, {"reader": reader, "cpu": 0})
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_free_threaded_python_is_refused_at_import() -> None:
    program = (
        "import sysconfig\n"
        "sysconfig.get_config_vars()['Py_GIL_DISABLED'] = 1\n"
        "try: import guestpv\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "guestpv needs a Python with the GIL" in done.stdout, done
