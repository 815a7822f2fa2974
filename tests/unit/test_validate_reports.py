# SPDX-License-Identifier: MIT
"""Reports for programs: whatever the checks say, they are by their schema and protocol."""

import io
import json
from contextlib import redirect_stdout
from xml.etree import ElementTree

import jsonschema
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from reportschema import SCHEMA, VALIDATOR
from tap.parser import Parser

from guestpv.cli.records import MOST_EXACT, plain
from guestpv.cli.reports import Condition, Subject, Summary
from guestpv.cli.reports.json import RecordReport
from guestpv.cli.reports.junit import JunitReport
from guestpv.cli.reports.tap import TapReport
from guestpv.source.reader import Source
from guestpv.validate import (
    Contention,
    Coverage,
    Event,
    Finding,
    Outcome,
    Unjudged,
    Verdict,
    catalogue,
    conclude,
    select,
)

ST = [check.id for check in catalogue()].index("discovery.st")


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_command_gives_it(guestpv):
    assert json.loads(guestpv("validate", "--schema").stdout) == SCHEMA


@pytest.mark.parametrize("options", [[], ["--cpu", "1"], ["--require", "all-cpus,contended"]])
def test_a_real_report_is_by_the_schema(machine, guestpv, options):
    machine.revise(2, 1)
    done = guestpv("validate", "--json", "--source", machine.path, *options)
    VALIDATOR.validate(json.loads(done.stdout))
    done = guestpv("validate", "--json", "--source", "/no/such/file", *options)
    VALIDATOR.validate(json.loads(done.stdout))


@pytest.mark.parametrize("event", Event)
def test_a_report_of_what_happened_to_the_vm_is_by_the_schema(machine, guestpv, tmp_path, event):
    """Whether it fails, or the event did not happen."""
    file = str(tmp_path / "before.json")
    guestpv("validate", "--source", machine.path, "--record", file)
    machine.steal(1, 2**60)
    machine.restart(2)
    compared = ("--compare", file, "--event", event)
    record = json.loads(guestpv("validate", "--json", "--source", machine.path, *compared).stdout)
    VALIDATOR.validate(record)
    assert (record["options"]["compare"], record["options"]["event"]) == (file, event)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["checks", 0, "verdict"], "perhaps"),
        (["checks", 0, "level"], "duty"),
        (["checks", 0, "cpus"], "0-3"),
        (["levels", "must"], None),
        (["exit_code"], "0"),
        (["instance"], 7),
        (["checks", ST, "figures", "st_call"], "0xc5000021"),
    ],
)
def test_the_schema_refuses_what_is_wrong(machine, guestpv, path, value):
    record = json.loads(guestpv("validate", "--json", "--source", machine.path).stdout)
    place = record
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert not VALIDATOR.is_valid(record)


texts = st.text(max_size=40)
cpus = st.lists(st.integers(0, 4095), max_size=6, unique=True).map(sorted).map(tuple)
groups = st.lists(st.builds(Unjudged, cpus, texts), max_size=3).map(tuple)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | texts
    | st.builds(np.uint64, st.integers(0, 2**64 - 1))
    | st.builds(np.float64, st.floats())
)
figures = st.dictionaries(
    texts,
    st.recursive(
        scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=6
    ),
    max_size=3,
)
findings = st.builds(Finding, st.sampled_from(Verdict), texts, texts, figures, cpus, groups)
conditions = st.builds(Condition, st.just("run.complete"), st.booleans(), texts, st.booleans())
checks = st.lists(st.sampled_from(catalogue()), unique_by=lambda check: check.id, max_size=6)


@st.composite
def summaries(draw):
    outcomes = [Outcome(check, draw(findings), draw(st.floats(0, 1e6))) for check in draw(checks)]
    vcpus = st.builds(Contention, st.integers(0, 511), *[st.integers(0, 2**63)] * 3)
    coverage = Coverage(draw(groups), draw(groups), draw(st.none() | st.tuples(vcpus)))
    subject = Subject(Source("device", draw(texts), 1, draw(texts)), 7, "1.1", coverage)
    subject = draw(st.none() | st.just(subject))
    return Summary(
        outcomes=outcomes,
        duration_s=draw(st.floats(0, 1e6)),
        subject=subject,
        options={
            **{"source": draw(texts), "only": draw(st.lists(texts)), "skip": []},
            **{"cpu": None, "leave_isolated": False, "seconds": 2.0, "disruptive": True},
            **{
                "wait_s": 0.0,
                "host_account": None,
                "expect": "none",
                "fail_on": "warn",
                "require": [],
            },
            **{"compare": None, "event": None, "record": None},
        },
        versions={
            **{"guestpv": "1", "module": draw(st.none() | texts), "kernel": draw(texts)},
            **{"python": "3", "smccc": None},
        },
        conditions=[
            Condition("run.complete", draw(st.booleans()), draw(texts), draw(st.booleans()))
        ],
        statements=conclude(outcomes, subject and subject.coverage),
        failing=draw(
            st.sampled_from([frozenset({Verdict.FAIL, Verdict.ERROR}), frozenset(Verdict)])
        ),
        exit_code=draw(st.integers(0, 255)),
    )


def written(report, summary):
    """On stdout: half of the outcomes as they came, the others only at the end."""
    with redirect_stdout(io.StringIO()) as stdout:
        report.begin([outcome.check for outcome in summary.outcomes], summary.failing)
        for outcome in summary.outcomes[::2]:
            report.outcome(outcome)
        report.end(summary)
    return stdout.getvalue()


@given(summaries())
def test_any_report_is_one_json_object_by_the_schema(summary):
    def refuse(constant):
        raise ValueError(constant)

    def exact(digits):
        assert abs(int(digits)) <= MOST_EXACT
        return int(digits)

    record = json.loads(written(RecordReport(), summary), parse_constant=refuse, parse_int=exact)
    jsonschema.validate(record, SCHEMA)  # not the closed one: the figures are made up
    assert [check["text"] for check in record["checks"]] == [
        outcome.finding.text for outcome in summary.outcomes
    ]


@given(summaries())
def test_any_report_is_by_version_14_of_the_test_anything_protocol(summary):
    said = written(TapReport(), summary)
    lines = said.split("\n")
    assert lines[0] == "TAP version 14"
    points = [line for line in lines if line.startswith(("ok ", "not ok "))]
    assert f"1..{len(points)}" in lines
    assert len(points) == len(summary.outcomes) + len(summary.conditions)
    read = [line for line in Parser().parse_text(said) if line.category == "test"]
    assert [point.number for point in read] == list(range(1, len(points) + 1))
    by_id = {outcome.check.id: outcome for outcome in summary.outcomes}
    for point in read[: len(by_id)]:
        outcome = by_id[point.description.removeprefix("- ").split(" ")[0]]
        finding = outcome.finding
        skipped = finding.verdict == Verdict.SKIP
        assert point.ok == (skipped or finding.verdict not in summary.failing)
        assert point.skip == skipped
    blocks = said.split("\n  ---\n")[1:]
    for block in blocks:
        told = yaml.safe_load(block.split("\n  ...\n")[0])
        assert isinstance(told["text"], str)
    told = [o for o in summary.outcomes if o.finding.verdict != Verdict.SKIP]
    assert len(blocks) == len(told) + len(summary.conditions)


@given(summaries())
def test_any_report_is_xml_that_counts_as_it_should(tmp_path_factory, summary):
    path = tmp_path_factory.mktemp("junit") / "report.xml"
    written(JunitReport(path), summary)
    report = ElementTree.parse(path)
    verdicts = [outcome.finding.verdict for outcome in summary.outcomes]
    (condition,) = summary.conditions
    unmet = not condition.met
    errors = verdicts.count(Verdict.ERROR) + (unmet and condition.is_error)
    failing = summary.failing - {Verdict.ERROR, Verdict.SKIP}
    failures = sum(verdict in failing for verdict in verdicts) + (unmet and not condition.is_error)
    assert len(list(report.iter("testcase"))) == len(verdicts) + 1
    assert len(list(report.iter("error"))) == errors
    assert len(list(report.iter("failure"))) == failures
    assert len(list(report.iter("skipped"))) == verdicts.count(Verdict.SKIP)


def test_numbers_that_json_does_not_have():
    strange = {"nan": np.nan, "inf": -np.inf, "large": np.uint64(2**64 - 1), "array": np.arange(2)}
    record = json.loads(json.dumps(plain(strange), allow_nan=False))
    assert record == {"nan": None, "inf": None, "large": str(2**64 - 1), "array": [0, 1]}


@pytest.mark.parametrize(
    ("verdict", "line"),
    [
        (Verdict.SKIP, "ok 1 - discovery.smccc # SKIP two \\# SKIP lines \\\\ here ... ok 2"),
        (Verdict.WARN, "ok 1 - discovery.smccc"),
        (Verdict.FAIL, "not ok 1 - discovery.smccc"),
        (Verdict.ERROR, "not ok 1 - discovery.smccc"),
    ],
)
def test_a_text_is_no_directive_and_no_line_of_tap(verdict, line):
    """Else a FAIL whose text has "# TODO" in it would be ok for who reads the report."""
    (check,) = select(["discovery.smccc"])
    finding = Finding(verdict, "two # SKIP\nlines \\ here\n...\nok 2", "advice\n  ...")
    report = TapReport()
    with redirect_stdout(io.StringIO()) as stdout:
        report.begin([check], frozenset({Verdict.FAIL, Verdict.ERROR}))
        report.outcome(Outcome(check, finding, 0.0))
    lines = stdout.getvalue().splitlines()
    assert lines[1] == line
    assert not [line for line in lines[2:] if not line.startswith("  ")]
    assert lines.count("  ...") == (verdict != Verdict.SKIP)


def test_tap_as_it_looks(machine, guestpv):
    machine.revise(2, 1)
    chosen = ("--only", "structure,counter.still", "--source", machine.path)
    said = guestpv("validate", "--tap", *chosen).stdout
    advice = "guestpv does not interpret the count until it is 0 again; ask who runs the hypervisor"
    assert said.startswith(
        f"""\
TAP version 14
not ok 1 - structure.revision
  ---
  verdict: fail
  level: must
  severity: high
  promise: The revision is 0, always
  clause: 'DEN0057A, 3.2.2: revision'
  text: 'cpu2: revision 0x1 at 1 looks'
  advice: {advice}
  cpus:
  - 2
  figures:
    cpu: 2
    looks: 1
    revision: 1
  ...
ok 2 - structure.attributes
"""
    )
    assert "\nok 3 - counter.still # SKIP needs a live hypervisor, not a page image\n" in said
    assert "\nok 4 - run.complete\n" in said
    assert "\n1..5\n# exit_code: 11\n# levels:\n#   must: fail\n" in said
