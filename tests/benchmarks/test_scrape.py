# SPDX-License-Identifier: MIT
"""What a scrape takes of a CPU, beside what serves as many series today. Never a pass or a fail."""

import gzip
import http.client
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import psutil
import pytest
from prometheus_client import generate_latest

from guestpv.agent.exporter import Exporter
from guestpv.agent.textformat import render
from guestpv.simulation.machine import SimulatedMachine
from guestpv.source import procstat
from pvlab import packaged

ROUNDS = {8: 100, 64: 50, 512: 30, 4096: 10}
PROMETHEUS = {  # as it asks
    "Accept": "application/openmetrics-text;version=1.0.0,application/openmetrics-text;"
    "version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
    "Accept-Encoding": "gzip",
}

each_size = pytest.mark.parametrize("cpus", ROUNDS)
in_process = pytest.mark.benchmark(
    group="all metrics of so many vCPUs, in CPU time", timer=time.thread_time
)


@pytest.fixture
def machine_of(tmp_path):
    """Begins a simulated machine of any size, from which something is stolen all the time."""

    @contextmanager
    def begin(cpus):
        with SimulatedMachine(tmp_path / "page", cpus, seed=1, percent=30) as machine:
            yield machine

    return begin


@pytest.fixture
def of_process(request):
    """A benchmark by the CPU time of another process."""

    def begin(pid):
        clock = ~pid << 3 | 2  # as clock_getcpuclockid(3) has it
        mark = pytest.mark.benchmark(
            group="a scrape by HTTP of so many vCPUs, in the server's CPU time",
            timer=lambda: time.clock_gettime(clock),
        )
        request.node.add_marker(mark)
        return request.getfixturevalue("benchmark")

    return begin


@contextmanager
def serving(*command):
    """Run what listens at its last argument, a port of this machine; gives process and port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    *arguments, last = map(str, command)
    server = [*arguments, f"{last}127.0.0.1:{port}"]
    with subprocess.Popen(server, stderr=subprocess.DEVNULL) as process:
        try:
            while True:
                assert process.poll() is None, server
                try:
                    scrape(port)
                    break
                except ConnectionRefusedError:
                    time.sleep(0.02)
            yield process, port
        finally:
            process.kill()


def exporter(machine):
    command = (sys.executable, "-m", "guestpv", "exporter", "--source", machine.path)
    return serving(*command, "--listen=")


def scrape(port):
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        client.request("GET", "/metrics", headers=PROMETHEUS)
        return client.getresponse().read()
    finally:
        client.close()


def going_on(machine):
    """So that no count is what it was."""

    def go_on():
        machine.advance(0.01)

    return go_on


def timed(benchmark, name, cpus, call, setup=None):
    """What *call* gives, without HTTP's compression, has all CPUs in it."""
    benchmark.name = f"{name} of {cpus}"
    body = benchmark.pedantic(call, setup=setup, rounds=ROUNDS[cpus], warmup_rounds=3)
    text = gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body
    assert f'cpu="{cpus - 1}"'.encode() in text
    benchmark.extra_info["calls"] = 1
    benchmark.extra_info["bytes"] = len(body)
    benchmark.extra_info["series"] = text.count(b'{cpu="')


@in_process
@each_size
@pytest.mark.parametrize("how", ["guestpv's text", "prometheus_client's text"])
def test_text(benchmark, machine_of, cpus, how):
    """One look, and the text of it, by either."""
    with machine_of(cpus) as machine:
        registry = Exporter(str(machine.path), pytest.fail, process=True).registry
        calls = {
            "guestpv's text": lambda: render(registry, openmetrics=False),
            "prometheus_client's text": lambda: generate_latest(registry),
        }
        timed(benchmark, how, cpus, calls[how], going_on(machine))


@in_process
@each_size
def test_procstat(benchmark, cpus, tmp_path):
    """What is added to it on a device: the kernel's own figures."""
    stat = proc_stat(cpus)
    benchmark.name = f"/proc/stat of {cpus}"
    benchmark.extra_info["calls"] = 1
    rows = benchmark.pedantic(procstat.parse, (range(cpus), stat), rounds=ROUNDS[cpus])
    assert rows["steal_known"].all()


@each_size
def test_guestpv(of_process, machine_of, cpus):
    with machine_of(cpus) as machine, exporter(machine) as (process, port):
        benchmark = of_process(process.pid)
        machine.advance(1)
        timed(benchmark, "guestpv exporter", cpus, lambda: scrape(port), going_on(machine))


@each_size
def test_node_exporter(of_process, tmp_path, cpus):
    """Its cpu collector alone, of a /proc/stat of so many CPUs."""
    for directory in "proc", "sys":
        (tmp_path / directory).mkdir()
    (tmp_path / "proc/stat").write_bytes(proc_stat(cpus))
    command = (
        packaged.program("prometheus-node-exporter", "prometheus-node-exporter"),
        *("--collector.disable-defaults", "--collector.cpu", "--web.disable-exporter-metrics"),
        *(f"--path.procfs={tmp_path}/proc", f"--path.sysfs={tmp_path}/sys"),
        "--web.listen-address=",
    )
    with serving(*command) as (process, port):
        timed(of_process(process.pid), "node_exporter's cpu", cpus, lambda: scrape(port))


def test_memory(of_process, machine_of, request):
    """Of a machine with four vCPUs: what is resident after so many scrapes, and before."""
    scrapes = request.config.getoption("scrapes")
    with machine_of(4) as machine, exporter(machine) as (process, port):
        benchmark = of_process(process.pid)
        server = psutil.Process(process.pid)
        for _ in range(500):
            scrape(port)
        before = server.memory_info().rss
        benchmark.name = f"one of {scrapes} scrapes of 4"
        benchmark.pedantic(scrape, (port,), iterations=scrapes)
        grown = server.memory_info().rss - before
        benchmark.extra_info.update(calls=1, resident_bytes=before, grown_bytes=grown)


def proc_stat(cpus):
    """As of a machine that has been up for some days."""
    lines = [
        f"cpu{cpu} {1234567 + cpu} 123 {234567 + cpu} {98765432 - cpu} 1234 0 3456 {7 * cpu} 0 0"
        for cpu in range(cpus)
    ]
    rest = ["intr 1", "ctxt 1", "btime 1", "processes 1", "procs_running 1", "procs_blocked 0"]
    lines = ["cpu  1 2 3 4 5 6 7 8 9 10", *lines, *rest, "softirq 11 1 1 1 1 1 1 1 1 1 1", ""]
    return "\n".join(lines).encode()
