# SPDX-License-Identifier: MIT
"""The table promise, check, fault is that of the code."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from guestpv.validate import catalogue
from guestpv.validate.clauses import Clause

PROMISES = Path(__file__).parents[1] / "lab/promises.py"


@pytest.fixture(scope="module")
def promises():
    spec = importlib.util.spec_from_file_location("promises", PROMISES)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_is_that_of_the_code(promises):
    assert promises.TABLE.read_text() == promises.current(), (
        "make it anew: PYTHONPATH=tools python tests/lab/promises.py"
    )


def test_a_promise_that_nobody_checks_stands_as_a_hole(promises):
    checks = [check for check in catalogue() if Clause.MONOTONIC not in (check.clause, *check.also)]
    rows = promises.table(checks, {}).splitlines()
    (row,) = (row for row in rows if row.startswith(f"| {Clause.MONOTONIC.text} "))
    assert "a hole: no check" in row


def test_each_check_is_in_it_with_its_faults(promises):
    (check,) = (check for check in catalogue() if check.id == "counter.grows")
    twin = replace(check, id="counter.twin")
    rows = promises.table([check, twin], {"counter.grows": ["frozen", "frozen", "capped"]})
    assert "| `counter.grows` (must, high) | frozen; capped |\n" in rows
    assert "| as above | | `counter.twin` (must, high) | **a hole: no fault** |\n" in rows


def test_a_check_stands_by_each_promise_that_it_sees_broken(promises):
    (check,) = (check for check in catalogue() if check.id == "gaps.lost")
    assert check.also
    rows = promises.table([check], {}).splitlines()
    assert len([row for row in rows if "`gaps.lost`" in row]) == 1 + len(check.also)


def test_no_two_promises_are_one():
    """Of an enum, a second name for the same would be silently the first."""
    assert len(Clause.__members__) == len(list(Clause))
    assert len({clause.text for clause in Clause}) == len(list(Clause))
