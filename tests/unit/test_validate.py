# SPDX-License-Identifier: MIT
"""guestpv validate without a hypervisor: its reports, its refusals, and the checks of an index.

What a page image says of discovery and addresses is simulation; the same faults, made by a real
hypervisor, are in tests/lab/test_validate.py.
"""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from junitparser import JUnitXml

from guestpv.cli.validation import _report
from guestpv.page.abi import Fault
from guestpv.source.reader import SNAPSHOT
from guestpv.validate import catalogue, select
from guestpv.validate.disruption import Switched
from guestpv.validate.host import _error_ns
from guestpv.validate.hostaccount import HostAccount, HostView
from guestpv.validate.life_events import IDS as COMPARING

ERROR = 11
CONDITIONS = ("run.complete", "run.judged")
SECOND = 1_000_000_000


def checks_of(done):
    record = json.loads(done.stdout)
    assert record["schema"] == "guestpv.validate/1"
    return {check["id"]: check for check in record["checks"]}


def validate(guestpv, machine, *options):
    return guestpv("validate", "--json", "--source", machine.path, *options)


def test_an_image_of_a_healthy_machine(guestpv, machine):
    done = validate(guestpv, machine)
    assert json.loads(done.stdout)["instance"] == f"0x{int(machine.header['instance']):016x}"
    assert (done.returncode, done.stderr) == (0, "")
    record = json.loads(done.stdout)
    checks = record["checks"]
    assert [check["id"] for check in checks] == [check.id for check in catalogue()]
    counts = [record[name] for name in ("passed", "warned", "failed", "errors", "skipped")]
    assert sum(counts) == len(checks)
    for check in checks:
        if check["id"] in COMPARING:
            assert (check["verdict"], "--record" in check["text"]) == ("skip", True)
            continue
        live = check["group"] not in ("discovery", "address", "structure")
        live |= check["id"] == "address.stable"
        assert check["verdict"] == ("skip" if live else "pass"), check
        assert not live or "live hypervisor" in check["text"]
        assert check["promise"]
        assert check["clause"]


def set_all(field, value):
    def break_promise(machine):
        machine.entries[field] = value

    return break_promise


def set_one(field, value):
    def break_promise(machine):
        machine.entries[field][2] = value

    return break_promise


def refuse(fault):
    return lambda machine: machine.refuse(2, fault)


def old_smccc(machine):
    machine.header["smccc_version"] = 0x10000


def attributes(machine):
    machine.structures["attributes"][2] = 4


BROKEN = [
    ("discovery.smccc", old_smccc),
    ("discovery.arch_features", set_one("arch_features", -1)),
    ("discovery.arch_features", set_one("arch_features", 0xFFFFFFFF)),
    ("discovery.features_self", set_all("features_self", -1)),
    ("discovery.st", set_one("st_call", 0)),
    ("discovery.undefined", set_all("features_undefined", 0)),
    ("discovery.smc32", set_all("features_st_smc32", 0)),
    ("discovery.smc32", set_one("features_smc32", 0)),
    ("discovery.refusals", set_one("features_st_draft", -2)),
    ("discovery.alike", set_one("features_st_draft", 0)),
    ("discovery.alike", set_one("features_st_draft", 0xFFFFFFFF)),
    ("address.given", refuse(Fault.NO_REGION)),
    ("address.given", refuse(Fault.NOT_SUPPORTED)),
    ("address.aligned", refuse(Fault.UNALIGNED)),
    ("address.range", refuse(Fault.OUT_OF_RANGE)),
    ("address.ram", refuse(Fault.SYSTEM_RAM)),
    ("address.apart", refuse(Fault.OVERLAP)),
    ("address.apart", set_one("ipa", 0x090A0000 + 8)),
    ("structure.revision", lambda machine: machine.revise(2, 1)),
    ("structure.attributes", attributes),
]


@pytest.mark.parametrize(("check", "break_promise"), BROKEN)
def test_a_broken_promise_in_the_index(guestpv, machine, check, break_promise):
    break_promise(machine)
    done = validate(guestpv, machine)
    assert done.returncode == ERROR
    assert checks_of(done)[check]["verdict"] == "fail"


@pytest.mark.parametrize("form", [-1, 0xFFFFFFFF])
def test_a_refusal_may_be_an_int32_or_an_int64(guestpv, machine, form):
    for field in "features_st_draft", "features_undefined", "features_st_smc32", "features_smc32":
        machine.entries[field] = form
    done = validate(guestpv, machine, "--only", "discovery")
    assert done.returncode == 0
    assert {check["verdict"] for check in checks_of(done).values()} == {"pass"}


def test_the_report_for_people_says_what_was_promised(guestpv, machine):
    machine.revise(2, 1)
    done = guestpv("validate", "--source", machine.path, "--only", "structure")
    assert done.returncode == ERROR
    assert "FAIL   structure.revision" in done.stdout
    assert "cpu2: revision 0x1" in done.stdout
    assert "promised: The revision is 0, always" in done.stdout
    assert "; must, high" in done.stdout
    assert "1 passed, 0 warned, 1 failed, 0 errors, 0 skipped" in done.stdout
    assert "Don't trust" in done.stdout


@pytest.mark.parametrize("form", ["--json", "--tap"])
def test_a_report_for_programs_is_whole_beside_a_terminal(machine, form):
    """What is shown on the terminal meanwhile is not mixed into it."""
    terminal, theirs = os.openpty()
    chosen = ("--only", "discovery", "--source", machine.path)
    command = [sys.executable, "-m", "guestpv", "validate", form, *chosen]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, text=True)
    os.close(theirs)
    os.close(terminal)
    assert done.returncode == 0
    if form == "--json":
        assert len(checks_of(done)) == len(select(["discovery"]))
    else:
        assert f"\n1..{len(select(['discovery'])) + len(CONDITIONS)}\n" in done.stdout


@pytest.mark.parametrize("columns", ["1", "20", "40"])
def test_nothing_is_cut_off_for_want_of_columns(guestpv, machine, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    machine.revise(2, 1)
    done = guestpv("validate", "--source", machine.path, "--only", "structure")
    said = "".join(done.stdout.split())
    assert "FAILstructure.revision:cpu2:revision0x1at1looks" in said
    assert "promised:Therevisionis0,always" in said


@pytest.mark.parametrize("option", ["--skip=life", "--list", "--tap"])
def test_a_terminal_that_shows_nothing_but_ascii(machine, option):
    """Not even what shows that something is done."""
    master, terminal = os.openpty()
    command = [sys.executable, "-m", "guestpv", "validate", "--source", machine.path, option]
    env = os.environ | {"PYTHONIOENCODING": "ascii", "TERM": "xterm", "COLUMNS": "80"}
    process = subprocess.Popen(command, stdout=terminal, stderr=subprocess.PIPE, env=env)
    os.close(terminal)
    with suppress(OSError):  # its end
        while os.read(master, 4096):
            pass
    os.close(master)
    assert (process.wait(60), process.stderr.read()) == (0, b"")


def test_on_a_dumb_terminal_a_long_run_says_that_it_goes_on(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    for term, shown in ("xterm", "progress"), ("dumb", "seldom"):
        monkeypatch.setenv("TERM", term)
        assert _report("people")[1].gen.__name__ == shown


@pytest.mark.parametrize("form", [[], ["--json"], ["--tap"]])
def test_a_reader_that_has_enough_ends_it_as_it_ends_a_filter(machine, tmp_path, form):
    """What was to be written to a file is there all the same."""
    file = tmp_path / "report.xml"
    command = [sys.executable, "-m", "guestpv", "validate", *form, "--source", machine.path]
    command += ["--junit", file]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == -signal.SIGPIPE
    assert JUnitXml.fromfile(str(file)).tests == len(catalogue()) + len(CONDITIONS)


def test_junit(guestpv, machine, tmp_path):
    machine.revise(2, 1)
    file = tmp_path / "report.xml"
    done = guestpv("validate", "--source", machine.path, "--junit", str(file))
    assert done.returncode == ERROR
    report = JUnitXml.fromfile(str(file))
    assert (report.tests, report.failures) == (len(catalogue()) + len(CONDITIONS), 1)
    assert report.skipped > 10
    suites = [suite.name for suite in report]
    assert (suites[:3], suites[-1]) == (["discovery", "smccc", "address"], "run")


def test_a_report_that_can_not_be_written_is_refused_before_the_run(guestpv, machine, tmp_path):
    file = str(tmp_path / "no" / "report.xml")
    done = guestpv("validate", "--source", machine.path, "--junit", file)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"guestpv: {file}: no report can be written")


def test_a_report_that_can_not_be_written_does_not_take_the_other_with_it(guestpv, machine):
    done = validate(guestpv, machine, "--junit", "/dev/full")
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert len(checks_of(done)) == len(catalogue())


@pytest.mark.parametrize("seconds", ["nan", "-1", "inf", "1e9"])
def test_a_time_to_wait_that_is_none_is_refused(guestpv, machine, seconds):
    done = validate(guestpv, machine, "--wait", seconds)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--wait" in done.stderr


def test_an_unknown_check_is_refused_with_the_nearest(guestpv, machine):
    done = validate(guestpv, machine, "--only", "counter.monotonous")
    assert (done.returncode, done.stdout) == (2, "")
    assert "counter.monotonic" in done.stderr
    done = validate(guestpv, machine, "--skip", "xyz")
    assert done.returncode == 2
    assert "--list" in done.stderr


def test_only_and_skip_by_id_and_group():
    chosen = select(["counter", "gaps.share"], ["counter.still"])
    ids = {check.id for check in chosen}
    assert {check.group for check in chosen} == {"counter", "gaps"}
    assert "gaps.share" in ids
    assert "gaps.bound" not in ids
    assert "counter.still" not in ids


def test_what_leaves_nothing_is_refused(guestpv, machine):
    done = validate(guestpv, machine, "--only", "gaps", "--skip", "gaps")
    assert done.returncode == 2


def test_list(guestpv):
    done = guestpv("validate", "--list")
    assert done.returncode == 0
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    shown = " ".join(done.stdout.split())
    for check in catalogue():
        for said in check.id, check.promise, str(check.clause), f"{check.level}, {check.severity}":
            assert said in shown
    record = json.loads(guestpv("validate", "--list", "--json").stdout)
    assert record["schema"] == "guestpv.checks/1"
    assert [check["id"] for check in record["checks"]] == [check.id for check in catalogue()]
    assert {check["effect"] for check in record["checks"]} == {
        *("nothing", "load", "hotplug", "suspend", "reload")
    }


def test_the_kernels_account_is_nothing_to_validate(guestpv):
    done = guestpv("validate", "--source", "procfs")
    assert (done.returncode, done.stdout) == (3, "")
    assert "nothing to validate" in done.stderr


def test_two_formats_at_once_are_refused(guestpv, machine):
    assert validate(guestpv, machine, "--tap").returncode == 2


@pytest.mark.parametrize("address", ["", "host", "host:", ":80", "host:http", "host:70000"])
def test_an_address_that_is_none_is_refused(guestpv, machine, address):
    done = validate(guestpv, machine, "--host-account", address)
    assert done.returncode == 2
    assert "HOST:PORT" in done.stderr


def test_an_ipv6_address():
    assert HostAccount.parse("::1:80") == HostAccount("::1", 80)


def rows(counts):
    snapshot = np.zeros(len(counts), SNAPSHOT)
    snapshot["stolen_ns"] = counts
    return snapshot


@given(
    start=st.integers(0, 2**62),
    moved=st.tuples(st.integers(0, 10**10), st.integers(0, 10**10)),
    asked=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    stolen=st.integers(0, 2**40),
    ahead=st.integers(-(10**12), 10**12),
)
def test_the_error_against_the_host_is_within_its_uncertainty(start, moved, asked, stolen, ahead):
    """The counts are right, and the host is asked at any moment between the snapshots."""
    views, count = [], start
    for grown, share in zip(moved, asked, strict=True):
        at_host = count + int(share * grown) + ahead
        views.append(HostView(rows([count]), {0: at_host}, rows([count + grown])))
        count += grown + stolen
    error_ns, uncertainty_ns = _error_ns(0, *views)
    assert abs(error_ns) <= uncertainty_ns + 1


def test_interrupted_it_still_reports(machine):
    """The first check is made to last; ending it is as Ctrl-C or a service's stop would."""
    program = (
        "import time; import guestpv.cli; from guestpv.validate import runner\n"
        "def judge(*_): print('judging', flush=True); time.sleep(60)\n"
        "runner._judge = judge\n"
        "guestpv.cli.main()"
    )
    command = [sys.executable, "-c", program, "validate", "--tap", "--source", machine.path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "TAP version 14\n"
        assert process.stdout.readline() == "judging\n"
        process.send_signal(signal.SIGTERM)
        said = process.stdout.read()
    assert process.returncode == 130
    assert said.count("# SKIP interrupted") == len(catalogue())


def switched(cpu, before_ns, after_ns):
    """A CPU that was offline and back, with what /proc/stat said before and after."""
    row = np.zeros(1, SNAPSHOT)[0]
    return Switched(cpu, row, row, row, row, row, before_ns, after_ns, SECOND, 0)


@pytest.mark.parametrize(
    ("cpus", "verdict"),
    [
        ([(5 * SECOND, None)], "skip"),  # not lost: unknown
        ([(None, 5 * SECOND)], "skip"),
        ([(None, None), (5 * SECOND, 6 * SECOND)], "pass"),
        ([(5 * SECOND, None), (5 * SECOND, SECOND)], "warn"),
        ([(0, 0)], "skip"),
    ],
)
def test_steal_that_procstat_does_not_know_is_not_lost_in_a_hotplug(cpus, verdict):
    guest = SimpleNamespace(
        hotplug=[switched(cpu, *ends) for cpu, ends in enumerate(cpus, 1)], adopted=True
    )
    (check,) = (check for check in catalogue() if check.id == "kernel.hotplug")
    assert check.judge(guest).verdict == verdict
