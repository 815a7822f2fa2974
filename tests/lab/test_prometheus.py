# SPDX-License-Identifier: MIT
"""What Prometheus itself says of the exporter's metrics, its rules and the dashboard."""

import json
import re
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import yaml

from guestpv.agent.exporter import Exporter
from guestpv.agent.metrics import MonitorCollector, _by_cpu
from guestpv.agent.monitor import Monitor
from guestpv.agent.rules import CONSOLE, DASHBOARD, FILES, RULES, write_rules
from guestpv.errors import Error
from guestpv.simulation.machine import SimulatedMachine
from guestpv.simulation.script import parse
from pvlab import packaged
from pvlab.prometheus import Prometheus
from pvlab.site import free_port

REVISION = '[[event]]\nat_s = 1\nwhat = "revision"\ncpus = "0"\nrevision = 1'


@pytest.fixture(scope="session")
def judge():
    """Run promtool, and give what it says, which is nothing where all is well."""
    program = packaged.program("prometheus", "promtool")

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


# Rules and dashboard

SHIPPED = resources.files("guestpv.agent") / "prometheus"
TESTS = Path(__file__).with_name("guestpv.rules.test.yml")


def rules():
    groups = yaml.safe_load((SHIPPED / "guestpv.rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def queries():
    """Of the dashboard, by the titles of their panels."""
    dashboard = json.loads((SHIPPED / "guestpv-dashboard.json").read_text())
    return [
        (panel["title"], target["expr"])
        for panel in dashboard["panels"]
        for target in panel["targets"]
    ] + [
        ("a variable", re.fullmatch(r"label_values\((.*), \w+\)", variable["definition"])[1])
        for variable in dashboard["templating"]["list"]
        if "definition" in variable
    ]


@pytest.fixture
def served(tmp_path):
    """The names of all samples that an exporter of a device can serve."""
    with SimulatedMachine(tmp_path / "page", 1, seed=1) as machine:
        monitor = Monitor(str(machine.path), pytest.fail)
        families = list(MonitorCollector(monitor).collect())
    account = np.zeros(1, [("steal_ns", np.int64), ("steal_known", np.bool_)])
    families += _by_cpu(replace(monitor.last, procstat=account))  # as only a device has it
    suffixes = {"counter": "_total", "info": "_info", "gauge": ""}
    return {family.name + suffixes[family.type] for family in families}


def names_in(query):
    return set(re.findall(r"[a-z_]*:?guestpv_[a-z_]+(?::\w+)?", query))


def test_the_rules_do_what_they_are_for(judge):
    assert judge("check", "rules", SHIPPED / "guestpv.rules.yml")[0] == 0
    code, said = judge("test", "rules", TESTS)
    assert code == 0, said


def test_each_rule_is_tested_both_ways():
    tests = yaml.safe_load(TESTS.read_text())["tests"]
    heard = {True: set(), False: set()}
    queried = set()
    for test in tests:
        for alert in test.get("alert_rule_test", []):
            heard["exp_alerts" in alert].add(alert["alertname"])
        for query in test.get("promql_expr_test", []):
            queried |= names_in(query["expr"])
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    assert heard == {True: alerts, False: alerts}
    assert {rule["record"] for rule in rules() if "record" in rule} <= queried


def test_rules_ask_for_what_there_is(served):
    recorded = set()
    for rule in rules():
        assert names_in(rule["expr"]) <= served | recorded, rule
        recorded.add(rule.get("record"))


def test_the_dashboard_asks_for_what_there_is(served, judge, tmp_path):
    there = served | {rule.get("record") for rule in rules()}
    checked = []
    for title, query in queries():
        assert names_in(query), title
        assert names_in(query) <= there, title
        query = query.replace("$host", "a").replace("$instance", "b")
        assert "$" not in query, title
        checked.append({"record": f"query{len(checked)}", "expr": query})
    assert len(checked) > 10
    # No promtool of Debian 12 parses a query by itself, but it parses those of rules.
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": checked}]}))
    assert judge("check", "rules", "--lint=none", path)[0] == 0


def test_all_that_is_recorded_is_shown_or_alerted_on():
    asked = set().union(*(names_in(query) for _, query in queries()))
    asked |= set().union(*(names_in(rule["expr"]) for rule in rules()))
    assert {rule["record"] for rule in rules() if "record" in rule} <= asked


def test_no_two_panels_lie_on_each_other():
    panels = json.loads((SHIPPED / "guestpv-dashboard.json").read_text())["panels"]
    cells = [
        (x, y)
        for at in (panel["gridPos"] for panel in panels)
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells))
    assert all(x < 24 for x, _ in cells)
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_the_readme_has_all_alerts():
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    assert set(re.findall(r"^\| `(Guestpv\w+)` \|", readme, re.MULTILINE)) == alerts


def test_they_are_written_out_and_nothing_is_written_over(tmp_path):
    said = []
    for _ in range(2):
        write_rules(tmp_path, said.append)
    assert {path.name for path in tmp_path.iterdir()} == set(FILES)
    for name in RULES, DASHBOARD:
        assert (tmp_path / name).read_bytes() == (SHIPPED / name).read_bytes()
    (tmp_path / RULES).unlink()
    (tmp_path / CONSOLE).unlink()
    (tmp_path / DASHBOARD).write_text("{}")
    with pytest.raises(Error, match="move it away"):
        write_rules(tmp_path, said.append)
    assert [path.name for path in tmp_path.iterdir()] == [DASHBOARD]
    assert len(said) == 6


def test_a_directory_that_is_not_there(tmp_path):
    with pytest.raises(Error, match="No such file or directory"):
        write_rules(tmp_path / "nowhere", pytest.fail)


# The console

PATIENCE_S = 60


@pytest.fixture
def begin():
    """Run guestpv for as long as the test lasts."""
    with ExitStack() as stack:

        def run(*arguments):
            command = [sys.executable, "-m", "guestpv", *map(str, arguments)]
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.DEVNULL))
            stack.callback(process.kill)

        yield run


@pytest.fixture
def prometheus(begin, tmp_path):
    """It scrapes an exporter of a simulated machine, and one that has nothing to read."""
    write_rules(tmp_path, lambda text: None)
    begin("sim", tmp_path / "page", "--vcpus=2", "--steal=30")
    targets = []
    for source in tmp_path / "page", tmp_path / "nowhere":
        targets.append(f"127.0.0.1:{free_port()}")
        begin("exporter", f"--source={source}", f"--listen={targets[-1]}")
    labels = {"host": "a"}  # as service discovery adds it
    configuration = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [RULES],
        "scrape_configs": [
            {"job_name": "guestpv", "static_configs": [{"targets": targets, "labels": labels}]}
        ],
    }
    with Prometheus(tmp_path, configuration) as prometheus:
        ends = time.monotonic() + PATIENCE_S
        while not prometheus.query("host:guestpv_stolen_vms:ratio"):
            assert time.monotonic() < ends, "nothing was recorded"
            time.sleep(0.2)
        yield prometheus


def test_prometheus_serves_the_dashboard_as_a_console_and_answers_its_panels(prometheus):
    """As the page asks it; what a browser draws of that is not looked at."""
    page = prometheus.console(CONSOLE)
    embedded = re.search(r'<script [^>]*id="dashboard">(.*?)</script>', page, re.DOTALL)[1]
    dashboard = json.loads(embedded)
    assert dashboard == json.loads((SHIPPED / DASHBOARD).read_text())
    assert 'const API = "/api/v1/";' in page
    kinds = re.search(r"const KINDS = \{(.*)\}", page)[1]
    assert {panel["type"] for panel in dashboard["panels"]} <= set(re.findall(r"(\w+):", kinds))
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            query = re.sub(r"\$(host|instance)\b", ".*", target["expr"])
            answered = prometheus.query(query)
            # Only a device has the kernel's account beside it.
            assert answered or "procstat" in query, panel["title"]
