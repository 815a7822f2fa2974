# SPDX-License-Identifier: MIT
"""What a program may rely on: exit codes, reports that are always there, and no FAIL is lost.

A page image plays the guest. Where a check must do something that no image makes it do, its judge
is replaced in the process that runs it.
"""

import json
import os
import signal
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from junitparser import JUnitXml

from guestpv.cli.exitcodes import (
    ERROR,
    FAILED,
    FAILED_ELSEWHERE,
    INTERRUPTED,
    NOT_JUDGED,
    UNMET,
)
from guestpv.cli.reports.progress import seldom
from guestpv.errors import BusyError
from guestpv.page import abi
from guestpv.page.abi import State
from guestpv.validate import Effect, Level, Severity, Unjudged, catalogue, run, select
from guestpv.validate.check import Check, Needs, failed, passed, warned
from guestpv.validate.life_events import IDS

REPLACING = """
import signal, sys, time
from dataclasses import replace
import guestpv.cli
from guestpv.errors import BusyError
from guestpv.validate import catalogue
from guestpv.validate.check import CHECKS, Effect, failed, warned

catalogue()

def judged_by(id, judge):
    judge.__module__ = CHECKS[id].judge.__module__  # by which the catalogue is ordered
    CHECKS[id] = replace(CHECKS[id], judge=judge, live=False, effect=Effect.NOTHING)

def give(finding):
    return lambda guest: finding

def busy(guest):
    raise BusyError("cpu3: not watched", "It did not let a thread run", "stop that")

def mistaken(guest):
    return {}["missing"]

def wait(guest):
    print("waiting", file=sys.stderr, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def replaced(machine):
    """Start validate on the image in a process in which some checks have other judges."""

    def start(judges, *options, stdout=subprocess.PIPE, env=None):
        program = REPLACING
        program += "".join(f"judged_by({id!r}, {judge})\n" for id, judge in judges.items())
        program += "guestpv.cli.main()\n"
        command = [sys.executable, "-c", program, "validate", "--source", machine.path, *options]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, stdout=stdout, stderr=pipe, text=True, env=os.environ | (env or {})
        )

    return start


def ended(process):
    """Its exit code, stdout and stderr."""
    stdout, stderr = process.communicate(timeout=60)
    return process.returncode, stdout, stderr


def checks_of(report):
    return {check["id"]: check for check in json.loads(report)["checks"]}


# ---- a FAIL is not masked ----


@pytest.mark.parametrize(
    ("judge", "text"),
    [
        ("busy", "cpu3: not watched. It did not let a thread run"),
        ("mistaken", "unexpected KeyError: 'missing'"),
    ],
)
def test_a_check_that_raises_costs_its_own_verdict_only(replaced, judge, text):
    code, report, said = ended(replaced({"discovery.alike": judge}, "--json"))
    checks = checks_of(report)
    assert (code, said) == (ERROR, "")
    assert checks["discovery.alike"]["verdict"] == "error"
    assert checks["discovery.alike"]["text"] == text
    assert checks["discovery.alike"]["advice"]
    others = {check["verdict"] for id, check in checks.items() if id != "discovery.alike"}
    assert others == {"pass", "skip"}
    assert json.loads(report)["errors"] == 1


def test_the_traceback_of_a_mistake_is_there_for_who_wants_it(replaced):
    env = {"GUESTPV_DEBUG": "1"}
    _, report, said = ended(replaced({"discovery.alike": "mistaken"}, "--json", env=env))
    assert "KeyError: 'missing'" in said
    assert checks_of(report)["discovery.alike"]["verdict"] == "error"


@pytest.mark.parametrize("form", ["--json", "--tap", "--skip=life"])
@pytest.mark.parametrize("after", ["busy", "mistaken", "interrupted", "unheard", "full", "junit"])
def test_what_comes_after_a_fail_does_not_mask_it(machine, replaced, form, after):
    machine.header["smccc_version"] = 0x10000
    judges = {"address.given": after if after in ("busy", "mistaken") else "give(failed('bad'))"}
    options = [form]
    if after == "junit":
        options += ["--junit", "/dev/full"]
    if after == "interrupted":
        judges["structure.revision"] = "wait"
    if after == "full":
        with open("/dev/full", "w") as full:
            code, _, said = ended(replaced(judges, *options, stdout=full))
        assert "No space left" in said
    else:
        process = replaced(judges, *options)
        if after == "unheard":
            process.stdout.close()
            assert process.wait(60) == FAILED
            assert process.stderr.read() == ""
            return
        if after == "interrupted":
            assert process.stderr.readline() == "waiting\n"
            process.send_signal(signal.SIGTERM)
        code, report, _ = ended(process)
        assert "discovery.smccc" in report
    assert code == FAILED


def test_evidence_that_can_not_be_had_is_tried_once():
    """A run is not 20 seconds long for each check, and nothing is hotplugged again and again."""

    class Guest:
        live, asked, unwatched, gathered = True, [0], None, 0

        def progress(self, what):
            pass

        @property
        def watched(self):
            self.gathered += 1
            raise BusyError("cpu0: not watched", "busy")

    guest = Guest()
    checks = [
        Check(
            *(id, "", "", (), Level.MUST, Severity.HIGH, effect, True, Needs.INDEX),
            judge=lambda guest: passed("fine"),
        )
        for id, effect in (
            ("a.load", Effect.LOAD),
            ("b.load", Effect.LOAD),
            ("c.not", Effect.NOTHING),
        )
    ]
    verdicts = {outcome.check.id: outcome.finding.verdict for outcome in run(checks, guest)}
    assert verdicts == {"a.load": "error", "b.load": "error", "c.not": "pass"}
    assert guest.gathered == 1


# ---- whose fault it is ----


@pytest.mark.parametrize(
    ("id", "level"),
    [("host.agrees", "kvm"), ("kernel.agrees", "kernel"), ("life.reload", "guestpv")],
)
def test_only_the_hypervisors_promises_end_in_distrust(replaced, id, level):
    code, report, _ = ended(replaced({id: "give(failed('it differs'))"}, "--json"))
    record = json.loads(report)
    assert code == record["exit_code"] == FAILED_ELSEWHERE
    assert record["levels"][level] == "fail"
    texts = [statement["text"] for statement in record["conclusion"]]
    assert "No promise of the hypervisor that was checked was broken." in texts
    assert not any("Don't trust" in text for text in texts)
    (blame,) = (said for said in record["conclusion"] if said["verdict"] == "fail")
    assert blame["checks"] == [id]


@pytest.mark.parametrize("level", ["must", "should", "derived"])
def test_the_hypervisors_promises_do(replaced, level):
    id = next(check.id for check in catalogue() if check.level == level)
    code, said, _ = ended(replaced({id: "give(failed('broken'))"}))
    assert code == FAILED
    assert "Don't trust this hypervisor's stolen time." in said
    assert f"Levels: {level} fail" in said or f", {level} fail" in said


def test_linux_is_named_where_it_warns(replaced):
    judges = {"kernel.agrees": "give(warned('late', 'known'))"}
    code, said, _ = ended(replaced(judges))
    assert code == 0
    assert "This guest's Linux misreports: trust the count" in said


def test_every_fail_has_advice(replaced):
    _, report, _ = ended(replaced({"counter.whole": "give(failed('broken'))"}, "--json"))
    assert "whoever runs the hypervisor" in checks_of(report)["counter.whole"]["advice"]
    assert all(check.advice for check in catalogue())


def test_a_finding_lists_every_cpu_and_shows_the_first_that_is_given():
    finding = failed("by 3 ns", "advice", worst_ns=3).on([7, 4, 5])
    assert finding.cpus == (4, 5, 7)
    assert finding.text == "cpu4-5,7, on cpu7: by 3 ns"
    assert warned("late").on([2]).text == "cpu2: late"
    assert len(failed("x").on(range(512)).text) < 30


def test_what_could_not_be_judged_is_kept_with_the_reason():
    finding = passed("fine").but("offline", [3, 2]).but("busy", []).but("busy", [9])
    assert finding.unjudged == (Unjudged((2, 3), "offline"), Unjudged((9,), "busy"))


def test_all_cpus_that_break_a_promise_are_told(machine_of, guestpv):
    machine = machine_of(64)
    for cpu in [*range(5, 60), 62]:
        machine.revise(cpu, cpu)
    done = guestpv("validate", "--json", "--source", machine.path, "--only", "structure.revision")
    check = checks_of(done.stdout)["structure.revision"]
    assert check["cpus"] == [*range(5, 60), 62]
    assert check["text"].startswith("cpu5-59,62, on cpu5: revision 0x5 at")


# ---- what the run was worth ----


def test_nothing_judged_is_no_success(machine, guestpv):
    done = guestpv("validate", "--source", machine.path, "--only", "counter")
    assert done.returncode == NOT_JUDGED
    assert "Nothing was judged." in done.stdout


def test_a_warning_fails_where_that_is_asked_for(machine, guestpv, tmp_path):
    machine.entries["st_call"] = abi.PV_TIME_ST_DRAFT
    command = ("validate", "--source", machine.path, "--only", "discovery.st")
    assert guestpv(*command).returncode == 0
    done = guestpv(*command, "--fail-on", "warn", "--junit", str(tmp_path / "x"), "--tap")
    assert done.returncode == FAILED
    assert "not ok 1 - discovery.st\n" in done.stdout
    assert JUnitXml.fromfile(str(tmp_path / "x")).failures == 1


def test_a_requirement_that_is_not_met_fails_in_words(machine, guestpv):
    command = ("validate", "--json", "--source", machine.path)
    done = guestpv(*command, "--require", "all-cpus")
    assert done.returncode == 0
    machine.enter(2, state=State.OFFLINE)
    done = guestpv(*command, "--require", "all-cpus")
    assert done.returncode == UNMET
    record = json.loads(done.stdout)
    assert record["unjudged"] == [{"cpus": [2], "why": "it is offline"}]
    named = {condition["name"]: condition for condition in record["conditions"]}
    assert named["require.all-cpus"] == {
        "name": "require.all-cpus",
        "met": False,
        "text": "cpu2: it is offline",
    }
    assert guestpv(*command, "--require", "all-cpus", "--cpu", "0-1").returncode == 0
    done = guestpv(*command, "--require", "contended,all-cpus", "--cpu", "0-1")
    assert done.returncode == UNMET
    assert "no vCPU was watched" in done.stdout
    machine.entries["features_self"] = -1
    assert guestpv(*command, "--require", "contended").returncode == FAILED


def test_cpus_that_were_never_there_are_not_missed(machine, guestpv):
    machine.enter(3, state=State.ABSENT)
    command = ("validate", "--json", "--source", machine.path, "--require", "all-cpus")
    done = guestpv(*command)
    assert done.returncode == 0
    assert json.loads(done.stdout)["left_out"] == [{"cpus": [3], "why": "it was never online"}]


def test_of_512_possible_cpus_two_are_there(machine_of, guestpv):
    machine = machine_of(512)
    for cpu in range(2, 512):
        machine.enter(cpu, state=State.ABSENT, offset=0)
        for call in abi.CALLS:
            machine.entries[call][cpu] = abi.NOT_CALLED
    command = ("validate", "--source", machine.path)
    done = guestpv(*command, "--require", "all-cpus")
    assert done.returncode == 0
    assert "Left out: cpu2-511: it was never online.\n" in done.stdout
    assert max(map(len, done.stdout.splitlines())) < 200
    done = guestpv(*command, "--json", "--cpu", "2-511")
    assert done.returncode == NOT_JUDGED
    assert {check["verdict"] for check in checks_of(done.stdout).values()} == {"skip"}
    machine.entries["features_self"][:2] = -1
    assert guestpv(*command).returncode == FAILED


def test_a_requirement_that_is_none_is_refused(machine, guestpv):
    done = guestpv("validate", "--source", machine.path, "--require", "contended,luck")
    assert (done.returncode, done.stdout) == (2, "")
    assert "'luck' is none of contended, all-cpus" in " ".join(done.stderr.replace("│", "").split())


def test_only_the_cpus_that_were_asked_for_are_judged(machine, guestpv):
    machine.revise(2, 1)
    machine.entries["features_undefined"][2] = 0
    command = ("validate", "--json", "--source", machine.path)
    assert guestpv(*command, "--cpu", "2").returncode == FAILED
    done = guestpv(*command, "--cpu", "0-1,3")
    assert done.returncode == 0
    record = json.loads(done.stdout)
    assert record["left_out"] == [{"cpus": [2], "why": "--cpu does not name it"}]
    assert record["options"]["cpu"] == "0-1,3"


def test_a_cpu_that_there_is_not_is_told_with_a_report(machine, guestpv):
    done = guestpv("validate", "--json", "--source", machine.path, "--cpu", "9")
    assert done.returncode == 6
    assert "cpu9: no such CPU" in done.stderr
    assert {check["verdict"] for check in checks_of(done.stdout).values()} == {"error"}


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "0.5", "86401", "long"])
def test_a_time_that_is_none_is_refused(machine, guestpv, seconds):
    done = guestpv("validate", "--source", machine.path, "--seconds", seconds)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"'--seconds': {seconds} is no number of seconds from 1 to 86400" in done.stderr


def test_a_day_is_accepted(machine, guestpv):
    command = ("validate", "--json", "--source", machine.path)
    done = guestpv(*command, "--seconds", "86400")
    assert done.returncode == 0
    assert json.loads(done.stdout)["options"]["seconds"] == 86400
    assert json.loads(guestpv(*command).stdout)["options"]["seconds"] == 20
    assert json.loads(guestpv(*command, "--quick").stdout)["options"]["seconds"] == 2
    assert guestpv(*command, "--quick", "--seconds", "5").returncode == 2


def test_the_log_of_a_day_shows_that_it_goes_on(capsys):
    now = 0.0
    with seldom(lambda: now) as say:
        for now in range(0, 200, 10):
            say(f"watching: {now} s")
    assert capsys.readouterr().err.splitlines() == [
        f"guestpv: watching: {now} s" for now in (60, 120, 180)
    ]


# ---- reports are there whatever happens ----


@pytest.mark.parametrize("source", ["/no/such/source", "procfs", "cut"])
def test_without_a_source_there_are_reports_all_the_same(machine, guestpv, tmp_path, source):
    if source == "cut":
        source = str(tmp_path / "cut")
        with open(machine.path, "rb") as image, open(source, "wb") as cut:
            cut.write(image.read(100))
    file = tmp_path / "x"
    done = guestpv("validate", "--json", "--source", source, "--junit", str(file))
    assert done.returncode in (3, 5)
    error = json.loads(done.stderr)
    record = json.loads(done.stdout)
    assert (record["source"], record["exit_code"]) == (None, done.returncode)
    assert {check["verdict"] for check in record["checks"]} == {"error"}
    assert record["checks"][0]["text"] == f"{error['what']}. {error['why']}"
    report = JUnitXml.fromfile(str(file))
    assert report.errors == len(catalogue()) + 1
    tap = guestpv("validate", "--tap", "--source", source)
    assert tap.returncode == done.returncode
    assert tap.stdout.count("not ok") == len(catalogue()) + 2


OTHER = {"machine": "another", "boot_id": "another", "instance": "0x1"}
REPORTS = {"--json": "{", "--tap": "TAP version 14\n"}


@pytest.mark.parametrize("form", REPORTS)
@pytest.mark.parametrize(
    ("change", "code", "what"),
    [
        (lambda record: {**record, **OTHER}, 2, "another machine"),
        (lambda record: {**record, "schema": "guestpv.validate-record/2"}, 5, "its schema is"),
        (lambda record: {"schema": record["schema"]}, 5, "is missing"),
        (lambda record: [], 5, "no JSON object"),
    ],
)
def test_a_record_that_does_not_fit_is_told_with_reports(
    machine, guestpv, tmp_path, form, change, code, what
):
    """Whatever else is wrong here: nothing is judged by it."""
    before, file = tmp_path / "before.json", tmp_path / "x"
    command = ("validate", "--source", machine.path)
    assert guestpv(*command, "--record", str(before)).returncode == 0
    before.write_text(json.dumps(change(json.loads(before.read_text()))))
    machine.restart(1)
    compared = ("--compare", str(before), "--event", "migrated", "--junit", str(file))
    done = guestpv(*command, *compared, form)
    assert done.returncode == code
    assert what in done.stderr
    assert done.stdout.startswith(REPORTS[form])
    report = JUnitXml.fromfile(str(file))
    assert (report.failures, report.errors) == (1, len(IDS) + 1)
    assert what in ElementTree.tostring(ElementTree.parse(file).getroot(), "unicode")


def test_interrupted_before_there_is_a_verdict(replaced):
    process = replaced({"discovery.smccc": "wait"}, "--json")
    assert process.stderr.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    code, report, _ = ended(process)
    assert code == INTERRUPTED
    record = json.loads(report)
    assert {check["text"] for check in record["checks"]} == {"interrupted"}
    assert record["conditions"][0] == {"name": "run.complete", "met": False, "text": "interrupted"}


def test_killed_it_leaves_a_report_that_says_so(replaced, tmp_path):
    file = tmp_path / "x"
    process = replaced({"discovery.smccc": "wait"}, "--junit", str(file))
    assert process.stderr.readline() == "waiting\n"
    process.kill()
    process.communicate()
    report = ElementTree.parse(file)
    (error,) = report.iter("error")
    assert error.get("message") == "the run did not end"


@pytest.mark.parametrize("form", ["--json", "--tap", "--skip=life"])
def test_a_full_disk_is_told(machine, form):
    command = [sys.executable, "-m", "guestpv", "validate", "--source", machine.path, form]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    if form == "--json":
        assert (
            json.loads(done.stderr)["what"]
            == "stdout: the report was not written, or not all of it"
        )
    else:
        assert done.stderr.startswith("guestpv: stdout: the report was not written, or not all")
        assert "No space left" in done.stderr


def test_a_full_disk_for_one_report_leaves_the_other(machine, guestpv):
    done = guestpv("validate", "--json", "--source", machine.path, "--junit", "/dev/full")
    assert done.returncode == 1
    assert json.loads(done.stderr)["what"].startswith("/dev/full: the report was not written")
    assert len(checks_of(done.stdout)) == len(select())
