# SPDX-License-Identifier: MIT
"""The lab itself: what its users are promised of commands, contention, and ends of every kind."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from pvlab import Lab, LabError, begin, machine, ssh

RUN = [sys.executable, "-m", "pvlab", "run"]
READY = "the guest is ours"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(kernel="claim-6.1", vcpus=2) as lab:
        yield lab


@pytest.fixture
def running() -> Iterator[subprocess.Popen[str]]:
    """A lab whose command runs in the guest, and would run for ever."""
    command = ["--kernel", "claim-6.1", "--", "sh", "-c", f"echo {READY}; sleep 1d"]
    with subprocess.Popen([*RUN, *command], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline().strip() == READY
        yield process


def test_output_streams_and_exit_code_are_the_commands_own(lab):
    done = lab.run(["sh", "-c", "cat; echo two >&2; exit 7"], input="one\n")
    assert (done.stdout, done.stderr, done.returncode) == ("one\n", "two\n", 7)


def test_arguments_arrive_as_they_were_given(lab):
    awkward = ["a b", "$HOME", "'", '"', "*", "", "\\", "line\nbreak", "-n", "A=b"]
    assert lab.run(["printf", "%s|", *awkward]).stdout == "".join(f"{arg}|" for arg in awkward)


def test_commands_run_side_by_side(lab):
    names = ["one", "two", "three"]
    children = [
        subprocess.Popen(
            lab.guest.argv(["sh", "-c", f"echo {name}; sleep 4"]), stdout=subprocess.PIPE, text=True
        )
        for name in names
    ]
    began = time.monotonic()
    assert [child.communicate()[0].strip() for child in children] == names
    assert time.monotonic() - began < 11  # one after the other, they sleep for 12 s


def test_a_terminal_is_a_terminal(lab):
    command = lab.guest.argv(["sh", "-c", "test -t 0 && test -t 1 && echo yes"], pty=True)
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.stdout.strip() == "yes"


def test_a_command_that_hangs_is_given_up_with_the_console(lab):
    lab.run(["sh", "-c", "echo the last line >/dev/console"])
    with pytest.raises(LabError, match=r"did not end within 1 s[^$]*the last line"):
        lab.run(["sleep", "60"], timeout=1)


def test_the_host_takes_about_what_it_is_asked_to_take(lab):
    spin = "for cpu in 0 1; do timeout 5 taskset -c $cpu sh -c 'while :; do :; done' & done; wait"
    lab.steal(40)
    before, began = lab.vcpu_run_delay_ns(), time.monotonic()
    lab.run(["sh", "-c", spin])
    taken, seconds = lab.vcpu_run_delay_ns(), time.monotonic() - began
    lab.steal(0)
    for vcpu, (start, end) in enumerate(zip(before, taken, strict=True)):
        percent = (end - start) / seconds / 1e7
        print(f"vcpu{vcpu}: {percent:.1f} % taken, 40 % asked")
        assert 25 < percent < 55


def test_a_guest_that_panics_is_reported_with_its_last_words():
    panic = ["sh", "-c", "echo c >/proc/sysrq-trigger; sleep 60"]
    done = subprocess.run([*RUN, "--", *panic], capture_output=True, text=True)
    assert done.returncode == 125
    assert "guest: it ended while the command ran" in done.stderr
    assert "Kernel panic - not syncing: sysrq triggered crash" in done.stderr


@pytest.fixture
def impatient(monkeypatch):
    """Machines are given up before they can have booted."""
    monkeypatch.setattr(machine, "BOOTS_WITHIN_S", 0.5)


def test_a_machine_that_does_not_boot_has_a_second_chance(impatient, monkeypatch):
    said = []

    def say(message):
        said.append(message)
        monkeypatch.setattr(machine, "BOOTS_WITHIN_S", 90)

    monkeypatch.setattr(begin, "say", say)
    before = psutil.Process().children()
    with Lab(hypervisor="none", boot=True) as lab:
        assert lab.run(["true"]).returncode == 0
    assert psutil.Process().children() == before
    (message,) = said
    assert "guest: it did not boot within 0.5 s" in message
    assert "once more" in message


def test_a_machine_that_never_boots_is_given_up(impatient):
    before = psutil.Process().children()
    with pytest.raises(LabError, match="did not boot"), Lab(hypervisor="none", boot=True):
        pass
    assert psutil.Process().children() == before


def test_a_guest_that_hangs_is_lost_and_reported_with_its_last_words(monkeypatch):
    monkeypatch.setattr(ssh, "LOST_AFTER_S", 8)
    with Lab(hypervisor="none") as lab:
        lab.run(["sh", "-c", "sleep 10; echo the last line >/dev/console"])
        lab.qmp("stop")
        for limit in 30, 5:
            with pytest.raises(LabError, match=r"connection to it was lost[^$]*the last line"):
                lab.run(["true"], timeout=limit)


def test_the_time_for_a_command_can_be_limited():
    limited = ["--kernel", "claim-6.1", "--timeout", "1", "--", "sleep", "60"]
    done = subprocess.run([*RUN, *limited], capture_output=True, text=True)
    assert done.returncode == 124
    assert "did not end within 1 s" in done.stderr


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_it_ends_no_process_stays(running, end):
    children = psutil.Process(running.pid).children(recursive=True)
    assert any(child.name().startswith("qemu-system") for child in children)
    running.send_signal(end)
    running.wait(timeout=20)
    assert running.returncode in (128 + end, -end)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []


def test_more_vcpus_than_the_host_has_cpus():
    with Lab(kernel="claim-6.1", vcpus=4) as lab:
        assert lab.run(["nproc"]).stdout.strip() == "4"
        assert len(lab.vcpu_run_delay_ns()) == 4


def test_a_guest_without_a_hypervisor():
    with Lab(hypervisor="none") as lab:
        assert lab.run(["uname", "-m"]).stdout.strip() == "aarch64"
        with pytest.raises(LabError, match="no hypervisor"):
            lab.steal(40)
        with pytest.raises(LabError, match="can't be saved"):
            lab.move()


def test_what_is_there_to_build_against_can_not_be_booted():
    with pytest.raises(LabError, match="not to boot"), Lab(kernel="build-5.10"):
        pass
