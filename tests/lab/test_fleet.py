# SPDX-License-Identifier: MIT
"""A Prometheus scrapes 500 exporters, and the shipped rules say which VMs and which hosts."""

import gzip
import json
import re
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from datetime import datetime
from importlib import resources

import fleet
import psutil
import pytest
import yaml

from pvlab.prometheus import Prometheus

FASTER = 30
"""Than in production, so that ten minutes of trouble are 20 seconds."""

SCRAPED_EACH_S = 60 / FASTER
FOUND_WITHIN_S = 90
SCRAPES = 300
RULES = resources.files("guestpv.agent") / "prometheus/guestpv.rules.yml"
ACCEPTED = {
    "Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5",
    "Accept-Encoding": "gzip",
}
EXPECTED = {
    *(("GuestpvVmStolen", f"{fleet.FULL_HOST}-vm{vm}") for vm in range(fleet.VMS_OF_A_HOST)),
    ("GuestpvHostContended", fleet.FULL_HOST),
    ("GuestpvVmStolen", fleet.LIMITED),
    ("GuestpvVcpuStolen", fleet.STARVED),
    ("GuestpvSourceGone", fleet.UNLOADED),
    ("GuestpvCountsRestart", fleet.RESTARTING),
    ("GuestpvUnknown", fleet.REVISED),
}
"""The alerts that are to fire, and of which VM or host."""


def faster(rules: str) -> dict:
    """The shipped rules, but for their times."""
    seconds = {"s": 1, "m": 60, "h": 3600}

    def shorter(found: re.Match[str]) -> str:
        return f"{int(found[1]) * seconds[found[2]] * 1000 // FASTER}ms"

    rules = re.sub(r"(?<=\[)(\d+)([smh])(?=\])", shorter, rules)
    return yaml.safe_load(re.sub(r"(?<=for: )(\d+)([smh])", shorter, rules))


@contextmanager
def running(*command):
    """A program in Python, and the first line that it says."""
    argv = [sys.executable, *map(str, command)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            yield process.pid, process.stdout.readline().decode()
        finally:
            process.kill()


def unix_s(time: str) -> float:
    """Of a time as Prometheus writes it, with nine digits of a second."""
    return datetime.fromisoformat(time[:19] + "+00:00").timestamp()


@pytest.fixture
def vms(tmp_path):
    """The fleet's targets, and when it began."""
    (tmp_path / "pages").mkdir()
    with running(fleet.__file__, tmp_path / "pages") as (_, said):
        yield json.loads(said)


def cpu_s(pid):
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def test_the_rules_name_the_vms_and_the_hosts(vms, tmp_path):
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(faster(RULES.read_text())))
    configuration = {
        "global": {
            "scrape_interval": f"{SCRAPED_EACH_S:g}s",
            "scrape_timeout": f"{SCRAPED_EACH_S:g}s",
            "evaluation_interval": f"{SCRAPED_EACH_S:g}s",
        },
        "rule_files": [str(tmp_path / "rules.yml")],
        "scrape_configs": [{"job_name": "guestpv", "static_configs": vms["targets"]}],
    }
    with Prometheus(tmp_path, configuration) as prometheus:
        began_s, began_cpu_s = time.monotonic(), cpu_s(prometheus.pid)
        firing = {}
        while firing.keys() != EXPECTED and time.monotonic() < began_s + FOUND_WITHIN_S:
            time.sleep(SCRAPED_EACH_S)
            firing = {
                (labels["alertname"], labels.get("instance") or labels["host"]): unix_s(
                    alert["activeAt"]
                )
                for alert in prometheus.get("alerts")["alerts"]
                if alert["state"] == "firing" and (labels := alert["labels"])
            }
        took_s = time.monotonic() - began_s
        (scrapes,) = prometheus.query("sum(count_over_time(up[1h]))")
        scrapes = max(scrapes.values.values())
        each_ms = 1000 * (cpu_s(prometheus.pid) - began_cpu_s) / scrapes
        memory_mb = psutil.Process(prometheus.pid).memory_info().rss / 1e6
        worst = prometheus.query("topk(1, host:guestpv_stolen_seconds:avg_rate5m)")
        missed = prometheus.query("min_over_time(up[1h]) == 0")
        (samples,) = prometheus.query("max(scrape_samples_scraped)")
    print(f"{len(vms['targets'])} exporters, {scrapes / took_s:.0f} scrapes/s, {took_s:.0f} s")
    print(f"Prometheus: {each_ms:.2f} ms of CPU a scrape with its rules, {memory_mb:.0f} MB")
    print("samples of each:", max(samples.values.values()))
    for (alert, where), since_s in sorted(firing.items()):
        print(f"{alert:22} {where:12} noticed {since_s - vms['trouble_s']:.0f} s after it began")
    assert firing.keys() == EXPECTED
    assert min(firing.values()) > vms["trouble_s"] - 1
    assert missed == []
    assert [one.labels["host"] for one in worst] == [fleet.FULL_HOST]


@pytest.mark.parametrize("vcpus", [4, 64])
def test_what_a_scrape_costs_the_vm(tmp_path, vcpus):
    """Of an exporter as it is, in a process of its own."""
    page = tmp_path / "page"
    with (
        running("-m", "guestpv", "sim", page, "--vcpus", vcpus),
        running("-m", "guestpv", "exporter", "--source", page, "--listen", "127.0.0.1:0") as (
            pid,
            said,
        ),
    ):
        url = re.search(r"http://\S+/metrics", said)[0]
        sizes = [len(asked(url)) for _ in range(10)]  # and what is made once, is made
        before_s = cpu_s(pid)
        sizes += [len(asked(url)) for _ in range(SCRAPES)]
        each_ms = 1000 * (cpu_s(pid) - before_s) / SCRAPES
        text = gzip.decompress(asked(url))
    samples = sum(not line.startswith(b"#") for line in text.splitlines())
    print(
        f"{vcpus} vCPUs: {samples} samples, {len(text)} bytes, compressed {max(sizes)};"
        f" {each_ms:.2f} ms of CPU a scrape"
    )
    assert f'guestpv_stolen_seconds_total{{cpu="{vcpus - 1}"}}'.encode() in text


def asked(url):
    """What Prometheus would get, as it is sent."""
    with urllib.request.urlopen(urllib.request.Request(url, headers=ACCEPTED)) as answer:
        return answer.read()
