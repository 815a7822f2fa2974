# SPDX-License-Identifier: MIT
"""The help on a terminal of 80 columns, and what a shell completes."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from guestpv.cli import _HOMES, completion
from guestpv.cli.exitcodes import MEANINGS
from guestpv.cpulist import CpuList


def guestpv(*arguments, **environment):
    """What guestpv prints, run as the shell's completion would."""
    command = "import sys; sys.argv[0] = 'guestpv'; from guestpv.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", command, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    return done.stdout.splitlines()


def completed(words):
    """What bash offers for the last of *words*."""
    index = str(len(words.split(" ")) - 1)
    return guestpv(_GUESTPV_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=index)


def test_exit_codes_are_a_table_that_does_not_break_apart():
    shown = guestpv("--help", COLUMNS="80")
    at = next(at for at, line in enumerate(shown) if "Exit codes" in line)
    table = shown[at + 2 : at + 2 + len(MEANINGS)]
    assert [line.split(maxsplit=1) for line in table] == [
        [str(code), meaning] for code, meaning in MEANINGS.items()
    ]
    assert len({line.index(line.split(maxsplit=1)[1]) for line in table}) == 1
    assert all(len(line) <= 80 for line in shown)


@pytest.mark.parametrize("command", _HOMES)
def test_lines_are_as_long_as_the_terminal_has_it(command):
    """Each could not hold the next one's first word, but for a paragraph's last."""
    shown = guestpv(command, "--help", COLUMNS="80")
    assert all(len(line) <= 80 for line in shown)
    end = next(at for at, line in enumerate(shown) if line.startswith("╭"))
    text = [line.strip() for line in shown[:end]]
    for line, following in pairwise(text):
        if line and following:
            assert len(f" {line} {following.split()[0]} ") > 80


def test_by_python_m_it_is_the_same_command():
    command = [sys.executable, "-m", "guestpv", "--show-completion", "bash"]
    shown = subprocess.run(command, capture_output=True, text=True).stdout
    assert shown.endswith("complete -o default -F _guestpv_completion guestpv\n")


@pytest.fixture
def possible(tmp_path, monkeypatch):
    path = tmp_path / "possible"
    path.write_text("0-3,12\n")
    monkeypatch.setattr(completion, "POSSIBLE", str(path))
    return path


def test_the_next_cpu_of_a_list(possible):
    assert completion.cpus("") == ["0", "1", "2", "3", "12"]
    assert completion.cpus("1") == ["1", "12"]
    assert completion.cpus("0,2-") == ["0,2-0", "0,2-1", "0,2-2", "0,2-3", "0,2-12"]
    assert completion.cpus("0,3,1") == ["0,3,1", "0,3,12"]


@given(st.text())
@example("\0/")
@example("/\0")
def test_nothing_that_is_typed_is_fatal(typed):
    for offered in completion.cpus(typed) + completion.sources(typed):
        assert offered.startswith(typed)


def test_without_the_kernels_list_nothing_is_offered(possible):
    possible.unlink()
    assert completion.cpus("") == []


def test_sources_and_files(tmp_path):
    (tmp_path / "image").touch()
    (tmp_path / "images").mkdir()
    assert completion.sources("") == ["auto", "device", "procfs"]
    assert completion.sources("pr") == ["procfs"]
    assert completion.sources(f"{tmp_path}/im") == [f"{tmp_path}/image", f"{tmp_path}/images/"]
    assert completion.sources(f"{tmp_path}/[") == []


def test_a_shell_is_offered_what_there_is():
    assert completed("guestpv wa") == ["watch"]
    assert completed("guestpv read --source pr") == ["procfs"]
    cpus = CpuList.parse(Path(completion.POSSIBLE).read_text()).ranges
    assert completed("guestpv watch --cpu ") == [str(cpu) for run in cpus for cpu in run]
