# SPDX-License-Identifier: MIT
"""Machines that go on from where they were saved: sound, apart from each other, or not at all.

What is done to the cache is done to a layer over it, in a mount namespace of its own.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pvlab import Lab, LabError, proof
from pvlab.cache import cache_dir

PLAIN = ["--hypervisor", "none"]
"""Of all machines the one that boots soonest."""

RUN = [sys.executable, "-m", "pvlab", "run", *PLAIN]
AS_BOOTED, BOOTS = ", as booted …", "lab: booting"


class Layer:
    """The cache as it is, and over it a layer for what is written. It can be small."""

    def __init__(self, directory: Path, size: str) -> None:
        self.cache = cache_dir()
        self._written = directory / "up"
        mount = (
            f"mount -t tmpfs -o size={size} layer {directory} && cd {directory} && mkdir up work"
            f" && mount -t overlay -o lowerdir={self.cache},upperdir={directory}/up,"
            f"workdir={directory}/work layer {self.cache} && echo mounted && exec sleep 1d"
        )
        unshare = ["unshare", "--mount", "--kill-child", "sh", "-c", mount]
        self._holder = subprocess.Popen(unshare, stdout=subprocess.PIPE, text=True)
        assert self._holder.stdout
        assert self._holder.stdout.readline() == "mounted\n"

    def argv(self, *command: str) -> list[str]:
        directory = os.getcwd()
        return ["nsenter", f"--target={self._holder.pid}", "--mount", f"--wd={directory}", *command]

    def shell(self, script: str) -> str:
        done = subprocess.run(
            self.argv("sh", "-c", f"cd {self.cache} && {script}"), capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def run(self, *command: str) -> str:
        """Run a command in a guest that must answer, and return what the lab said."""
        done = subprocess.run(
            self.argv(*RUN, *command, "--", "echo", "it runs"), capture_output=True, text=True
        )
        assert (done.stdout, done.returncode) == ("it runs\n", 0), done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr

    def half_done(self) -> list[str]:
        """What is being saved through this layer. Other tests save into the cache meanwhile."""
        find = "find . -path './*.partial*' ! -type c"  # a device stands for what is gone
        return self.shell(f"cd {self._written} && {find} 2>/dev/null || true").split()

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()


# Every saved machine of what PLAIN is. Other tests save theirs meanwhile.
LIST_OURS = "grep -l '512 MB, emulated\"' */about.json || true"
OURS = f"$({{ {LIST_OURS}; }} | xargs -n 1 dirname)"


@pytest.fixture(scope="module", autouse=True)
def saved() -> None:
    """There is something to go on from."""
    subprocess.run([*RUN, "--", "true"], check=True)


@pytest.fixture
def layer(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Layer]:
    layer = Layer(tmp_path, getattr(request, "param", "4G"))
    yield layer
    layer.close()


def test_a_saved_machine_is_gone_on_with_unless_it_is_to_boot(layer):
    assert BOOTS not in layer.run()
    assert BOOTS in layer.run("--boot")


def test_two_that_go_on_from_one_never_meet():
    with Lab(vcpus=2) as one, Lab(vcpus=2) as other:
        for lab, name in (one, "one"), (other, "other"):
            lab.run(["sh", "-c", f"echo {name} >/root/name"]).check_returncode()
        assert one.run(["cat", "/root/name"]).stdout == "one\n"
        assert other.run(["cat", "/root/name"]).stdout == "other\n"
        keys = [lab.run(["cat", "/root/.ssh/authorized_keys"]).stdout for lab in (one, other)]
        assert keys[0] != keys[1]
        key = "base64 /etc/dropbear/dropbear_ed25519_host_key"
        host_keys = [machine.run(["sh", "-c", key]).stdout for machine in (one.host, other.host)]
        assert host_keys[0] != host_keys[1]
        assert len(host_keys[0]) > 100


def test_time_has_gone_on_meanwhile():
    with Lab() as lab:
        for machine in lab.host, lab.guest:
            assert abs(int(machine.run(["date", "+%s"]).stdout) - time.time()) < 3


def test_what_is_saved_holds_no_key(layer):
    for name in layer.shell(f"ls -d {OURS}").split():
        for part in "memory", "state":
            found = subprocess.run(
                layer.argv("grep", "-c", "ssh-ed25519 AAAA", str(layer.cache / name / part)),
                capture_output=True,
                text=True,
            )
            assert found.stdout.strip() == "0"


FLIP = r"""for d in {which}; do python3 -c '
import os, sys
file = os.open(sys.argv[1], os.O_RDWR)
at = os.lseek(file, os.fstat(file).st_size // 3, os.SEEK_DATA) + 5
os.pwrite(file, bytes([os.pread(file, 1, at)[0] ^ 4]), at)' $d/{part}; done"""
CUT = "for d in {which}; do truncate -s -4096 $d/{part}; done"
EMPTY = "for d in {which}; do : >$d/{part}; done"
READY = OURS.replace("*/about", "ready-*/about")


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        pytest.param(FLIP, "memory", id="a bit of memory"),
        pytest.param(FLIP, "state", id="a bit of state"),
        pytest.param(FLIP, "sums.json", id="a bit of sums"),
        pytest.param(CUT, "memory", id="memory is cut"),
        pytest.param(CUT, "state", id="state is cut"),
        pytest.param(EMPTY, "sums.json", id="sums are empty"),
    ],
)
def test_what_was_damaged_is_not_gone_on_with(layer, damage, part):
    layer.shell(damage.format(which=READY, part=part))
    said = layer.run()
    assert "that saved machine is of no use" in said
    assert AS_BOOTED in said  # the other is whole
    assert "of no use" not in layer.run()  # it was saved anew


def test_where_all_are_damaged_it_boots_and_saves_anew(layer):
    layer.shell(FLIP.format(which=OURS, part="memory"))
    said = layer.run()
    assert said.count("of no use") == 2
    assert BOOTS in said
    assert BOOTS not in layer.run()


def test_another_qemu_does_not_go_on_from_it(layer, tmp_path_factory, monkeypatch):
    other = tmp_path_factory.mktemp("other") / "qemu-system-aarch64"
    other.write_text(
        '#!/bin/sh\ntest "$1" != --version || exec echo another\n'
        'exec /usr/bin/qemu-system-aarch64 "$@"\n'
    )
    other.chmod(0o755)
    monkeypatch.setenv("PATH", f"{other.parent}:{os.environ['PATH']}")
    assert BOOTS in layer.run()


@pytest.mark.parametrize("layer", ["64M"], indirect=True)
def test_where_the_disk_is_full_it_goes_on_with_what_it_booted(layer):
    layer.shell(f"rm -r {OURS}")
    said = layer.run()
    assert said.count("could not be saved") == 2
    assert "No space left" in said
    assert layer.half_done() == []
    assert layer.shell(LIST_OURS) == ""


def test_one_that_is_killed_while_it_saves_leaves_nothing_half_done(layer):
    layer.shell(f"rm -r {OURS}")
    with subprocess.Popen(layer.argv(*RUN, "--", "true"), stderr=subprocess.DEVNULL) as killed:
        while not any(path.endswith("/memory") for path in layer.half_done()):
            assert killed.poll() is None
            time.sleep(0.02)
        killed.send_signal(signal.SIGKILL)
    assert layer.half_done() != []
    assert BOOTS in layer.run()
    assert layer.half_done() == []
    assert BOOTS not in layer.run()


def test_two_first_runs_at_once(layer):
    layer.shell(f"rm -r {OURS}")
    pipe = subprocess.PIPE
    runs = [
        subprocess.Popen(layer.argv(*RUN, "--", "echo", "yes"), stdout=pipe, stderr=pipe, text=True)
        for _ in range(2)
    ]
    assert [run.communicate()[0] for run in runs] == ["yes\n", "yes\n"]
    assert BOOTS not in layer.run()


def test_a_guest_that_does_not_boot_shows_the_end_of_its_console():
    wrong = [*RUN, "--append", "rdinit=/nowhere", "--", "true"]
    done = subprocess.run(wrong, capture_output=True, text=True)
    assert done.returncode == 125
    assert "guest: it ended, and did not boot" in done.stderr
    assert re.search(r"The end of its console:[^$]*Kernel panic", done.stderr)
    assert "Traceback" not in done.stderr


def test_words_reach_the_kernel_and_are_another_machine():
    with Lab(hypervisor="none", append="maxcpus=1 lab.word='two words'") as lab:
        assert lab.run(["nproc"]).stdout == "1\n"
        assert "maxcpus=1 lab.word='two words'" in lab.run(["cat", "/proc/cmdline"]).stdout


def test_a_line_break_in_the_words_is_refused():
    with pytest.raises(LabError, match="line break"):
        Lab(append="maxcpus=1\nquiet")


MS = 1_000_000


@pytest.mark.parametrize(
    ("told", "true", "is_sound"),
    [
        ([500 * MS], [500 * MS], True),
        ([480 * MS], [500 * MS], True),  # it waits just now, and will be told
        ([0], [500 * MS], False),  # the count stands still
        ([500 * MS], [0], False),  # the host's account does
        ([500 * MS, 0], [500 * MS, 400 * MS], False),  # of one of them
    ],
)
def test_counts_go_on_together_or_not_at_all(told, true, is_sound):
    begun = [7 * MS] * len(told)
    before = proof.Counts(begun, [9 * MS] * len(told), 20 * MS)
    after = proof.Counts(
        [7 * MS + each for each in told], [9 * MS + each for each in true], 20 * MS
    )
    if is_sound:
        proof.prove(before, after)
    else:
        with pytest.raises(LabError, match="went on by"):
            proof.prove(before, after)
