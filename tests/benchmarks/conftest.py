# SPDX-License-Identifier: MIT
"""Keeps the figures of each run, and prints its medians against what a user has today."""

import pytest

RATIOS = [
    ("stolen_ns", "time.monotonic_ns", "aim: within 1.5"),
    ("read", "time.monotonic_ns", "aim: within 3"),
    ("psutil.cpu_times", "stolen_ns", "aim: 200 or more"),
    ("psutil.cpu_times", "read", "aim: 200 or more"),
    ("open, read and parse /proc/stat", "stolen_ns", ""),
    ("a NumPy scalar of the mapping", "stolen_ns", ""),
    ("struct, twice, with a retry", "read", ""),
    ("snapshot of 512", "copyto of 512", "aim: within 2"),
]
FEW, MANY = 64, 4096
CALLS = 1000  # in each round


@pytest.fixture(scope="session", autouse=True)
def kept(request):
    """The figures go to .benchmarks/ unless an option says otherwise."""
    session = request.config._benchmarksession
    if not session.autosave:
        session.save = session.save or "cost"


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter):
    session = getattr(terminalreporter.config, "_benchmarksession", None)
    ran = session.benchmarks if session else []
    medians_ns = {run.name: run.stats.median * 1e9 / CALLS for run in ran if run.stats}
    if not medians_ns:
        return
    terminalreporter.section("medians against each other, of this run")
    for name, base, aim in RATIOS:
        if name in medians_ns and base in medians_ns:
            ratio = medians_ns[name] / medians_ns[base]
            line = f"{ratio:8.2f} x {base:18} {name:32} {medians_ns[name]:9.1f} ns   {aim}"
            terminalreporter.line(line.rstrip())
    for what in "snapshot", "copyto":
        few, many = (medians_ns.get(f"{what} of {cpus}") for cpus in (FEW, MANY))
        if few and many:
            slope = (many - few) / (MANY - FEW)
            terminalreporter.line(f"{slope:8.2f} ns for each vCPU more, from {FEW} on: {what}")
