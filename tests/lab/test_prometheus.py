# SPDX-License-Identifier: MIT
"""What Prometheus itself says of the exporter's metrics."""

import subprocess

import pytest

from guestpv.agent.exporter import Exporter
from guestpv.simulation.machine import SimulatedMachine
from guestpv.simulation.script import parse
from pvlab import promtool

REVISION = '[[event]]\nat_s = 1\nwhat = "revision"\ncpus = "0"\nrevision = 1'


@pytest.fixture(scope="session")
def judge():
    """Run promtool, and give what it says, which is nothing where all is well."""
    program = promtool.promtool()

    def run(*arguments, given=""):
        command = [program, *arguments]
        done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout + done.stderr

    return run


def metrics(source):
    exporter = Exporter(str(source), pytest.fail, process=True)
    exporter.render(False)
    return exporter.render(False).decode()


def test_the_metrics_of_a_machine(judge, tmp_path):
    with SimulatedMachine(
        tmp_path / "page", 4, seed=1, percent=30, script=parse(REVISION)
    ) as machine:
        exporter = Exporter(str(machine.path), pytest.fail, process=True)
        machine.advance(2)
        text = exporter.render(False).decode()
    assert 'guestpv_stolen_seconds_total{cpu="1"} 0.' in text
    assert 'guestpv_structure_revision{cpu="0"} 1.0' in text
    assert judge("check", "metrics", given=text) == (0, "")


def test_the_metrics_of_proc_stat(judge):
    assert judge("check", "metrics", given=metrics("procfs")) == (0, "")


def test_the_metrics_without_a_source(judge):
    exporter = Exporter("/nowhere", lambda text: None, process=True)
    assert judge("check", "metrics", given=exporter.render(False).decode()) == (0, "")


def test_promtool_finds_what_breaks_its_rules(judge):
    code, said = judge("check", "metrics", given="# TYPE stolen_ms counter\nstolen_ms 1\n")
    assert code
    assert "_total" in said
