# SPDX-License-Identifier: MIT
"""Tests that boot machines take a while: what the lab does meanwhile is shown, not captured."""

from collections.abc import Iterator
from pathlib import Path

import campaign
import pytest
from rich.console import Console

from pvlab import lab, progress

# In every run; the others, which take minutes each, and these on other hosts, only with --matrix.
KERNELS = ["stock-6.1", "claim-6.1"]
# Against these the module is built with --matrix only, beside others of the same source.
SAME_SOURCE = ["stock-6.12-16k", "rt-6.12", "claim-6.12"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`machine`: what a guest is to be like. `kernel_name`: what the module is built against."""
    matrix = metafunc.config.getoption("--matrix")
    if "machine" in metafunc.fixturenames:
        kernels = getattr(metafunc.module, "IN_EVERY_RUN", KERNELS)
        machines = [{"kernel": name} for name in kernels]
        if matrix:
            hosts = [each.name for each in lab.KERNELS.values() if each.hosts]
            machines = [{"kernel": each.name} for each in lab.KERNELS.values() if each.bootable]
            machines += [{"kernel": "stock-6.1", "host_kernel": name} for name in hosts[1:]]
            machines.append({"kernel": "stock-6.1", "append": "nohz_full=1"})
        ids = [" ".join(machine.values()) for machine in machines]
        metafunc.parametrize("machine", machines, ids=ids)
    if "kernel_name" in metafunc.fixturenames:
        names = [name for name in lab.KERNELS if matrix or name not in SAME_SOURCE]
        metafunc.parametrize("kernel_name", names)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, or one of those side by side would do it when all else is done."""
    items.sort(key=lambda item: item.path.name != "test_guest.py")


@pytest.fixture
def times(request: pytest.FixtureRequest) -> int:
    """How often to do the same."""
    return 10 if request.config.getoption("--measure") else 2


@pytest.fixture
def pictures(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where pictures belong: they are drawn in any case."""
    chosen: Path | None = request.config.getoption("--pictures")
    return chosen or tmp_path


@pytest.fixture(scope="session", autouse=True)
def progress_is_shown(request: pytest.FixtureRequest) -> Iterator[None]:
    capture = request.config.pluginmanager.getplugin("capturemanager")
    say = progress.say

    def say_aloud(message: str) -> None:
        with capture.global_and_fixture_disabled():
            say(message)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "say", say_aloud)
        yield


if not (campaign.LIARS_RUNS or campaign.HEALTHY_RUNS):
    collect_ignore = ["test_liars.py"]  # hundreds of runs, on a machine that does nothing else


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The tables of the runs of `guestpv validate`, if there were any."""
    runs = [
        campaign.Run(**value)
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, value in report.user_properties
        if name == campaign.PROPERTY
    ]
    if not runs:
        return
    console = Console(highlight=False, width=None if terminalreporter.isatty else 140)
    with console.capture() as tables:
        for table in campaign.tables(campaign.kept() or runs):
            console.print(table, "")
    terminalreporter.section("guestpv validate, tried")
    terminalreporter.write(tables.get())
