# SPDX-License-Identifier: MIT
"""The loads of a read, in their order: what x86 forgives, arm64 does not."""

import subprocess
from itertools import groupby
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]

READ = ["sequence acquire", "word acquire", "count acquire", "word acquire", "sequence acquire"]
DECODE = ["index relaxed", "fence acquire", "sequence acquire"]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    program = tmp_path_factory.mktemp("order") / "load_order"
    includes = [f"-I{CHECKOUT}/kmod/uapi", f"-I{CHECKOUT}/guestpv/native"]
    command = ["cc", "-std=gnu11", "-O1", *includes, str(HERE / "load_order.c"), "-o", str(program)]
    subprocess.run(command, check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_loads_and_their_order(said: list[str]) -> None:
    """As kmod/uapi/guestpv.h asks for, first with the index, then without."""
    loads = [load for load, _ in groupby(said[: said.index("again")])]
    assert loads == [READ[0], *DECODE, *READ[1:]]
    assert said[said.index("again") + 1 :][: len(READ)] == READ


def test_a_store_between_any_two_loads(said: list[str]) -> None:
    """No count of an unknown revision is interpreted, and none given another's epoch."""
    assert said[said.index("again") + 1 + len(READ) :] == []
