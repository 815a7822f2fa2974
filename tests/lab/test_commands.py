# SPDX-License-Identifier: MIT
"""./tools/lab, as far as it needs no machine."""

import os
import signal
import subprocess
import sys
import tempfile
import termios

import pytest
from typer.testing import CliRunner

from pvlab import Lab, LabError, cache, cli, prepare
from pvlab import run as runs
from pvlab.kernels import KERNELS


@pytest.fixture
def lab():
    """Run a command, and return what it prints."""

    def run(*arguments):
        done = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
        assert done.exit_code == 0
        return done.output

    return run


def in_use_no_more():
    """What this process has used."""
    while cache._held:
        cache._held.popitem()[1].close()


@pytest.fixture
def artefact(tmp_path, monkeypatch):
    """Have an artefact of 5 MB in a cache of our own."""
    monkeypatch.setenv("GUESTPV_CACHE", str(tmp_path / "cache"))

    def build(directory):
        (directory / "part").write_bytes(os.urandom(5_000_000))

    yield lambda name, **about: cache.artefact(name, [], build, **about)
    in_use_no_more()


def test_what_the_kernels_are_stands_in_one_column(lab):
    lines = lab("kernels").splitlines()
    assert [line.split()[0] for line in lines] == list(KERNELS)
    (column,) = {line.index(KERNELS[line.split()[0]].what) for line in lines}
    assert column == max(map(len, KERNELS)) + 1


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"hypervisor": "xen"}, "no hypervisor 'xen'; there are: kvm, none"),
        ({"hypervisor": "none", "steal": 40}, "no hypervisor that could take time"),
        ({"hypervisor": "none", "icount": True}, "no host whose instructions"),
        ({"steal": 95}, "from 0 to 90, not 95"),
        ({"kernel": "stock-2.6"}, "no kernel 'stock-2.6'; there are: stock-6.1, "),
        ({"kernel": "build-5.10"}, "not to boot"),
        ({"host_kernel": "claim-6.1"}, "does not serve guests in this lab: stock-6.1, "),
    ],
)
def test_what_can_not_be_had_is_refused_before_anything_is_built_or_booted(
    monkeypatch, wrong, says
):
    monkeypatch.setattr(prepare, "prepare", pytest.fail)
    with pytest.raises(LabError, match=says), Lab(**wrong):
        pass


def test_what_is_stale_is_removed_and_how_much_it_was_is_said(lab, artefact):
    used, stale = artefact("used"), artefact("stale")
    cache.Kept(stale)._write([])
    assert "removed 0 artefacts: 0 MB; 1 are in use" in lab("clean", "--stale")
    in_use_no_more()
    assert "removed 1 artefacts: 5 MB; 0 are in use" in lab("clean", "--stale")
    assert (used.exists(), stale.exists()) == (True, False)


def test_what_is_in_use_stays_when_all_is_removed(lab, artefact):
    gone = artefact("gone")
    in_use_no_more()
    used = artefact("used")
    assert "removed 1 artefacts: 5 MB; 1 are in use" in lab("clean")
    assert (used.exists(), gone.exists()) == (True, False)
    in_use_no_more()
    assert f"removed {cache.cache_dir()}: 5 MB" in lab("clean")
    assert not cache.cache_dir().exists()


def test_words_for_a_kernel_are_no_markup(lab, artefact):
    artefact("booted", what="2 vCPUs, lab.word=[/x]")
    assert "2 vCPUs, lab.word=[/x]" in lab("status")


def test_what_goes_while_the_cache_is_listed_is_left_out(lab, artefact, monkeypatch):
    there, gone = artefact("there"), cache.Kept(cache.cache_dir() / "gone-1")
    monkeypatch.setattr(cli, "kept", lambda: [cache.Kept(there), gone])
    assert [line.split()[0] for line in lab("status").splitlines()[1:-1]] == [there.name]


def test_a_run_that_can_have_no_keys_says_why_and_leaves_nothing(tmp_path, monkeypatch):
    programs, place = tmp_path / "bin", tmp_path / "tmp"
    for directory in programs, place:
        directory.mkdir()
    keygen = programs / "ssh-keygen"
    keygen.write_text("#!/bin/sh\necho No space left on device >&2; exit 1\n")
    keygen.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    with pytest.raises(LabError, match="No space left"):
        runs.begin()
    assert list(place.iterdir()) == []


ENDING = """
import time
from pvlab import cli

def app(**_):
    try:
        print("begun", flush=True)
        time.sleep(60)
    finally:
        print("ending", flush=True)
        time.sleep(0.5)
        print("ended", flush=True)

cli.app = app
cli.main()
"""


def test_a_second_signal_does_not_cut_its_end_short():
    with subprocess.Popen(
        [sys.executable, "-c", ENDING], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "ending\n"
        process.send_signal(signal.SIGHUP)
        assert process.stdout.read() == "ended\n"
    assert process.returncode == 128 + signal.SIGINT


GIVEN_UP = """
from contextlib import nullcontext
from types import SimpleNamespace
from pvlab import cli

guest = SimpleNamespace(
    argv=lambda command, pty: ["sh", "-c", "stty raw -echo; exec sleep 60"], failure=str
)
cli.Lab = lambda **_: nullcontext(SimpleNamespace(guest=guest))
cli.app(["run", "--timeout", "1", "--", "top"])
"""


def test_a_terminal_is_as_it_was_when_a_command_in_it_was_given_up():
    ours, terminal = os.openpty()
    before = termios.tcgetattr(terminal)
    done = subprocess.run(
        [sys.executable, "-c", GIVEN_UP], stdin=terminal, stdout=terminal, stderr=subprocess.PIPE
    )
    assert done.returncode == cli.TIMED_OUT, done.stderr
    assert termios.tcgetattr(terminal) == before
    os.close(terminal)
    os.close(ours)
