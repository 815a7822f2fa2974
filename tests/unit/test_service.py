# SPDX-License-Identifier: MIT
"""The exporter as a service: what it tells systemd, and what is installed, by its own tools."""

import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from guestpv.agent import service
from guestpv.agent.notify import notify
from guestpv.agent.service import FILES, UNIT, _quoted

PATIENCE_S = 60
needs_systemd = pytest.mark.skipif(
    not shutil.which("systemd-sysusers"), reason="there is no systemd to install it with"
)


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told_when_it_serves_and_when_it_ends(abstract, tmp_path, machine):
    name = f"@guestpv-test-{tmp_path}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(name.replace("@", "\0", 1) if abstract else name)
        told.settimeout(PATIENCE_S)
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "guestpv", "exporter"),
                *("--source", machine.path, "--listen=127.0.0.1:0"),
            ],
            env={"NOTIFY_SOCKET": name, "PYTHONPATH": ":".join(sys.path)},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert told.recv(100) == b"READY=1"
            said = process.stderr.readline()
            port = int(re.search(r":(\d+)/metrics", said)[1])
            socket.create_connection(("127.0.0.1", port), PATIENCE_S).close()
            process.send_signal(signal.SIGTERM)
            assert told.recv(100) == b"STOPPING=1"
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("name", ["", "/nowhere/notify", "@nobody-listens"])
def test_that_nobody_wants_to_know_is_no_error(monkeypatch, name):
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    notify("READY=1")


@pytest.fixture
def system(tmp_path):
    """A system that does not run, with nothing in it."""
    (tmp_path / "etc").mkdir()
    return tmp_path


def files_of(system):
    return {name: system / directory / name for name, directory in FILES.items()}


@needs_systemd
def test_one_command_installs_it_and_one_undoes_that(system, guestpv):
    done = guestpv("exporter", "--install", f"--root={system}", "--listen=0.0.0.0:9999")
    assert done.returncode == 0, done.stderr
    files = files_of(system)
    assert all(path.exists() for path in files.values())
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in files.values())
    assert re.search(r"^guestpv:", (system / "etc/group").read_text(), re.MULTILINE)
    enabled = system / "etc/systemd/system/multi-user.target.wants" / UNIT
    assert enabled.is_symlink()
    assert '"--listen=0.0.0.0:9999"' in files[UNIT].read_text()

    again = guestpv("exporter", "--install", f"--root={system}")
    assert again.returncode == 0, again.stderr
    assert "--listen" not in files[UNIT].read_text()

    for _ in range(2):
        undone = guestpv("exporter", "--uninstall", f"--root={system}")
        assert undone.returncode == 0, undone.stderr
        assert not any(path.exists() for path in files.values())
        assert not enabled.is_symlink()


def test_nothing_is_made_of_a_system_that_is_not_there(tmp_path, guestpv):
    refused = guestpv("exporter", "--install", f"--root={tmp_path / 'typo'}")
    assert (refused.returncode, refused.stderr.count("\n")) == (3, 1)
    assert "typo is no directory" in refused.stderr
    assert not list(tmp_path.iterdir())


def test_nothing_to_undo_is_no_error_without_systemd_either(tmp_path, monkeypatch):
    monkeypatch.setattr(service, "FILES", dict.fromkeys(FILES, tmp_path))
    said = []
    service.uninstall(None, said.append)
    assert said == ["nothing is installed"]


@needs_systemd
def test_the_service_sends_to_opentelemetry_too(system, guestpv):
    done = guestpv("exporter", "--install", f"--root={system}", "--otlp=http://collector:4318")
    assert done.returncode == 0, done.stderr
    assert '"--otlp=http://collector:4318"' in files_of(system)[UNIT].read_text()


@needs_systemd
def test_systemd_understands_the_unit_and_calls_it_safe(system, guestpv):
    guestpv("exporter", "--install", f"--root={system}")
    unit = files_of(system)[UNIT]
    analyze = ["systemd-analyze", "--man=no"]
    verified = subprocess.run([*analyze, "verify", unit], capture_output=True, text=True)
    about_it = [line for line in verified.stderr.splitlines() if "guestpv" in line]
    assert not about_it
    judged = subprocess.run(
        [*analyze, "security", "--offline=yes", unit], capture_output=True, text=True
    )
    score = float(re.search(r"exposure level for .*: ([\d.]+)", judged.stdout)[1])
    assert score <= 1.5, judged.stdout


def test_what_somebody_else_wrote_is_left_alone(system, guestpv):
    rules = files_of(system)["70-guestpv.rules"]
    rules.parent.mkdir(parents=True)
    rules.write_text('KERNEL=="guestpv", MODE="0444"\n')
    for action in "--install", "--uninstall":
        refused = guestpv("exporter", action, f"--root={system}")
        assert refused.returncode == 1
        assert refused.stderr.count("\n") == 1
        assert "move it away first" in refused.stderr
    assert [path.name for path in system.rglob("*") if path.is_file()] == [rules.name]


@pytest.mark.skipif(Path("/run/systemd/system").exists(), reason="this machine runs systemd")
def test_a_machine_that_does_not_run_systemd(guestpv):
    refused = guestpv("exporter", "--install")
    assert refused.returncode == 10
    assert "does not run systemd" in refused.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("--install", "--uninstall"),
        ("--root=/x",),
        ("--install", "--textfile=/x"),
        ("--install", "--listen=:80"),
    ],
)
def test_what_can_not_be_meant_together(guestpv, arguments):
    assert guestpv("exporter", *arguments).returncode == 2


def test_an_argument_stays_one_word_and_what_it_was():
    assert _quoted('/etc/a b%n$HOME"\\') == '"/etc/a b%%n$$HOME\\"\\\\"'
