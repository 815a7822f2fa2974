# SPDX-License-Identifier: MIT
"""Prints, below pytest-benchmark's table, each median as a ratio to what a user has today."""

import pytest

RATIOS = [
    ("stolen_ns", "time.monotonic_ns", 1.5),
    ("read", "time.monotonic_ns", 3),
    ("psutil.cpu_times", "stolen_ns", None),
    ("psutil.cpu_times", "read", None),
    ("open, read and parse /proc/stat", "stolen_ns", None),
    ("one numpy scalar from the mapping", "stolen_ns", None),
    ("struct, twice, with a retry", "read", None),
    ("snapshot of 512", "copyto of 512", 2),
]


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter):
    session = getattr(terminalreporter.config, "_benchmarksession", None)
    medians = {b.name: b.stats.median for b in session.benchmarks if b.stats} if session else {}
    if not medians:
        return
    terminalreporter.section("medians against each other, of this run")
    for name, base, target in RATIOS:
        if name in medians and base in medians:
            aim = f"   (aim: within {target})" if target else ""
            ratio = medians[name] / medians[base]
            terminalreporter.line(f"{ratio:10.2f} × {base:20} {name}{aim}")
    per_cpu = {
        int(name.rpartition(" ")[2]): median
        for name, median in medians.items()
        if name.startswith("snapshot of ")
    }
    for cpus, median in sorted(per_cpu.items()):
        line = f"{median * 1e9 / cpus:10.2f} ns per vCPU in a snapshot of {cpus}"
        terminalreporter.line(line)
