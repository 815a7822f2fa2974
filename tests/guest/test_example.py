# SPDX-License-Identifier: MIT
"""The shipped reader in C gives of the real device what guestpv gives."""

import json
import subprocess
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).with_name("stolen")


@pytest.fixture
def counts(loaded, command):
    def read():
        return [one["stolen_ns"] for one in json.loads(command("read", "--json").stdout)["cpus"]]

    return read


def lines():
    done = subprocess.run([EXAMPLE], capture_output=True, text=True, timeout=60, check=True)
    return [line.split() for line in done.stdout.splitlines()]


def test_it_gives_what_guestpv_gives(counts):
    before, between, after = counts(), lines(), counts()
    assert [int(cpu) for cpu, _ in between] == list(range(len(before)))
    for first, (_, count), last in zip(before, between, after, strict=True):
        assert int(first) <= int(count) <= int(last)


def test_of_a_cpu_that_went_it_gives_the_last_count_if_there_is_one(counts, last_cpu):
    last_cpu.write_text("0")
    assert lines()[-1][1] == str("none" if counts()[-1] is None else counts()[-1])
    last_cpu.write_text("1")
    assert int(lines()[-1][1]) <= int(counts()[-1])


def test_without_the_device_it_says_so(unloaded):
    done = subprocess.run([EXAMPLE], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
