# SPDX-License-Identifier: MIT
"""How a simulated hypervisor writes: a count is stored at once, and in its order."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from guestpv._native import store

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]


def test_each_word_is_one_store_in_release_order(tmp_path: Path) -> None:
    program = tmp_path / "store_order"
    source = str(HERE / "store_order.c")
    command = ["cc", "-std=gnu11", "-O1", f"-I{CHECKOUT}/guestpv/native", source, "-o", program]
    subprocess.run(command, check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["0 8 release", "16 8 release", "12 4 release"]


def test_only_the_words_that_are_meant() -> None:
    page = np.full(64, 7, np.uint64)
    store(page[1::8], np.arange(8, dtype=np.uint64))
    assert page[1::8].tolist() == list(range(8))
    assert (np.delete(page, np.s_[1::8]) == 7).all()


@pytest.mark.parametrize(
    ("to", "words"),
    [
        (np.zeros(2, np.uint64), np.zeros(3, np.uint64)),
        (np.zeros(2, np.uint64), np.zeros(2, np.uint32)),
        (np.zeros(2, np.uint16), np.zeros(2, np.uint16)),
        (np.zeros((2, 2), np.uint64), np.zeros((2, 2), np.uint64)),
        (np.zeros(24, np.uint8)[1:17].view(np.uint64), np.zeros(2, np.uint64)),
        (np.zeros((), np.uint64), np.zeros((), np.uint64)),
    ],
    ids=["length", "width", "16 bits", "dimensions", "unaligned", "no dimension"],
)
def test_what_can_not_be_stored_at_once_is_refused(to: np.ndarray, words: np.ndarray) -> None:
    with pytest.raises(ValueError):
        store(to, words)


def test_memory_that_is_read_only_is_refused() -> None:
    page = np.zeros(2, np.uint64)
    page.flags.writeable = False
    with pytest.raises((BufferError, ValueError)):
        store(page, np.ones(2, np.uint64))
    assert not page.any()
