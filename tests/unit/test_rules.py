# SPDX-License-Identifier: MIT
"""guestpv exporter --write-rules into directories where that can't be."""

import os
import subprocess

import pytest

from guestpv.agent.rules import CONSOLE, DASHBOARD, FILES, RULES


@pytest.fixture
def small(tmp_path):
    """A directory with room for the rules, and not for all the rest."""
    directory = tmp_path / "small"
    directory.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", directory]).returncode:
        pytest.skip("only root can mount a file system, where it may")
    yield directory
    subprocess.run(["umount", directory], check=True)


def test_where_there_is_no_room_no_half_of_a_file_is_left(guestpv, small):
    for _ in range(2):  # what the first has written is not in the way of the second
        done = guestpv("exporter", "--write-rules", str(small))
        assert done.returncode == 1
        assert f"{small / DASHBOARD}: not written. No space left on device" in done.stderr
        assert [path.name for path in small.iterdir()] == [RULES]


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(guestpv, tmp_path):
    os.mkfifo(tmp_path / CONSOLE)
    done = guestpv("exporter", "--write-rules", str(tmp_path))
    assert done.returncode == 1
    assert f"{tmp_path / CONSOLE}: left as it is" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [CONSOLE]


@pytest.mark.parametrize("place", ["nowhere", "file"])
def test_what_is_no_directory_is_said(guestpv, tmp_path, place):
    (tmp_path / "file").touch()
    done = guestpv("exporter", "--write-rules", str(tmp_path / place))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"{tmp_path / place / FILES[0]}: not written" in done.stderr
