# SPDX-License-Identifier: MIT
"""Keeps the figures of each run, and prints its medians against what a user has today."""

import importlib.util
import subprocess
import sysconfig
from pathlib import Path

import pytest

LIMIT = Path(__file__).with_name("limit.c")

RATIOS = [
    ("stolen_ns", "an empty C method", "aim: within 1.2"),
    ("stolen_ns, bound before", "an empty C method, bound before", "aim: within 1.2"),
    ("read", "an empty C method", "aim: within 1.5"),
    ("stolen_ns", "time.monotonic_ns", ""),
    ("read", "time.monotonic_ns", ""),
    ("psutil.cpu_times", "stolen_ns", "aim: 200 or more"),
    ("psutil.cpu_times", "read", "aim: 200 or more"),
    ("open, read and parse /proc/stat", "stolen_ns", ""),
    ("a NumPy scalar of the mapping", "stolen_ns", ""),
    ("struct, twice, with a retry", "read", ""),
    ("snapshot of 512", "a C loop over 512", "aim: within 1.3"),
    ("snapshot of 512", "copyto of 512", ""),
    ("snapshot of 512, cold", "a C loop over 512, cold", ""),
]
RATIOS += [
    (f"{theirs} of {cpus}", f"{ours} of {cpus}", aim)
    for theirs, ours, aim in [
        ("prometheus_client's text", "guestpv's text", "aim: 5 or more at 512"),
        ("node_exporter's cpu", "guestpv exporter", ""),
    ]
    for cpus in (8, 64, 512, 4096)
]
FEW, MANY = 64, 4096


def pytest_addoption(parser):
    parser.addoption("--scrapes", type=int, default=1000, help="so many, of which memory is told")


@pytest.fixture(scope="session", autouse=True)
def kept(request):
    """The figures go to .benchmarks/ unless an option says otherwise."""
    session = request.config._benchmarksession
    if not session.autosave:
        session.save = session.save or "cost"


@pytest.fixture(scope="session")
def limit(tmp_path_factory):
    """limit.c: what nothing that is written in C can be faster than."""
    library = tmp_path_factory.mktemp("limit") / "limit.abi3.so"
    include = f"-I{sysconfig.get_path('include')}"
    flags = ["-shared", "-fPIC", "-O2", "-DPy_LIMITED_API=0x030b0000", include]
    subprocess.run(["cc", *flags, LIMIT, "-o", library], check=True)
    spec = importlib.util.spec_from_file_location("limit", library)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter):
    session = getattr(terminalreporter.config, "_benchmarksession", None)
    ran = session.benchmarks if session else []
    medians_ns = {
        run.name: run.stats.median * 1e9 / run.extra_info["calls"] for run in ran if run.stats
    }
    if not medians_ns:
        return
    terminalreporter.section("medians against each other, of this run")
    for name, base, aim in RATIOS:
        if name in medians_ns and base in medians_ns:
            ratio = medians_ns[name] / medians_ns[base]
            line = f"{ratio:8.2f} x {base:32} {name:32} {_time(medians_ns[name]):>12}   {aim}"
            terminalreporter.line(line.rstrip())
    for what in "snapshot", "copyto":
        few, many = (medians_ns.get(f"{what} of {cpus}") for cpus in (FEW, MANY))
        if few and many:
            slope = (many - few) / (MANY - FEW)
            terminalreporter.line(f"{slope:8.2f} ns for each vCPU more, from {FEW} on: {what}")
    for run in ran:
        if "grown_bytes" in run.extra_info:
            before, grown = (
                run.extra_info[f"{what}_bytes"] >> 10 for what in ("resident", "grown")
            )
            terminalreporter.line(f"{before:8} kB resident before {run.name}, {grown:+} kB after")


def _time(ns):
    return f"{ns:.1f} ns" if ns < 1e5 else f"{ns / 1e6:.2f} ms"
