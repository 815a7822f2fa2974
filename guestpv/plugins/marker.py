# SPDX-License-Identifier: MIT
"""pytest: a marker for tests of time, which can fail because the hypervisor took the vCPU away.

::

    @pytest.mark.stolen(max_percent=1)
    def test_an_answer_takes_a_millisecond(): ...

If such a test fails while more than that of its time was stolen, it says nothing: it is run again
where pytest-rerunfailures is installed, and skipped with the reason if that does not help. A test
that passes, or fails undisturbed, does so.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from guestpv.errors import Error

if TYPE_CHECKING:
    from guestpv.latency.clock import Clock, Elapsed

_NAME = "stolen"
_MAX_PERCENT = 1.0
_RERUNS = 2


@dataclass(slots=True)
class _Attempt:
    """The last run of a test that has the marker."""

    max_percent: float
    elapsed: "Elapsed | None" = None

    def __bool__(self) -> bool:
        """Whether it was disturbed; pytest-rerunfailures asks when the attempt is over."""
        return self.elapsed is not None and self.elapsed.least_percent > self.max_percent


_ATTEMPT = pytest.StashKey[_Attempt]()
_UNKNOWN = pytest.StashKey[Error]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        f"{_NAME}(max_percent={_MAX_PERCENT:g}, reruns={_RERUNS}): if it fails while the hypervisor"
        " takes more of its time than that, it is run again (with pytest-rerunfailures), and"
        " skipped in the end",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reruns_failures = config.pluginmanager.hasplugin("rerunfailures")
    for item in items:
        if marker := item.get_closest_marker(_NAME):
            max_percent, reruns = _options(item, marker)
            item.stash[_ATTEMPT] = attempt = _Attempt(max_percent)
            if reruns_failures and reruns and _reruns(item) is None:
                item.add_marker(pytest.mark.flaky(reruns=reruns, condition=attempt))


def _options(item: pytest.Item, marker: pytest.Mark) -> tuple[float, int]:
    try:
        max_percent, reruns = _defaults(*marker.args, **marker.kwargs)
        if 0 <= max_percent <= 100 and reruns in range(1000):
            return max_percent, reruns
        why = f"{max_percent} is no percentage, or {reruns!r} no number of reruns"
    except TypeError as error:
        why = str(error)
    raise pytest.UsageError(f"{item.nodeid}: marker {_NAME}: {why}")


def _defaults(max_percent: float = _MAX_PERCENT, *, reruns: int = _RERUNS) -> tuple[float, int]:
    return max_percent, reruns


def _reruns(item: pytest.Item) -> int | None:
    """How often pytest-rerunfailures runs it again if it fails; None if it does not look at it."""
    from pytest_rerunfailures import get_reruns_count

    reruns: int | None = get_reruns_count(item)
    return reruns


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    attempt = item.stash.get(_ATTEMPT, None)
    if attempt is None:
        return (yield)
    attempt.elapsed = None
    clock = _clock(item.config)
    try:
        return (yield)
    finally:
        if clock is not None:
            attempt.elapsed = clock.elapsed()
            clock.close()


def _clock(config: pytest.Config) -> "Clock | None":
    from guestpv.latency import clock

    try:
        return clock.of_this_thread()
    except Error as error:
        config.stash[_UNKNOWN] = error
        return None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    attempt = item.stash.get(_ATTEMPT, None)
    if report.when == "call" and report.failed and attempt and not _runs_again(item):
        _excuse(item, report, attempt)
    return report


def _runs_again(item: pytest.Item) -> bool:
    attempts = getattr(item, "execution_count", None)  # pytest-rerunfailures counts from 1
    return attempts is not None and attempts <= (_reruns(item) or 0)


def _excuse(item: pytest.Item, report: pytest.TestReport, attempt: _Attempt) -> None:
    """Have it skipped, with the reason, and what failed in a section of its own."""
    assert attempt.elapsed is not None
    failure = report.longreprtext
    crash = getattr(report.longrepr, "reprcrash", None)
    first_line = crash.message.partition("\n")[0] if crash else "it failed"
    path, line, _ = item.location
    report.sections.append(("Failed, disturbed", failure))
    report.outcome = "skipped"
    report.longrepr = (
        path,
        (line or 0) + 1,
        f"Skipped: the hypervisor took {attempt.elapsed.least_percent:.1f} % of its time, more than"
        f" {attempt.max_percent:g} %: {first_line}",
    )


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if error := config.stash.get(_UNKNOWN, None):
        terminalreporter.write_line(f"guestpv: no test is excused for stolen time: {error}")
