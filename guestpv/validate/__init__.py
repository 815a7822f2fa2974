# SPDX-License-Identifier: MIT
"""Can this hypervisor's stolen time be trusted? A catalogue of promises, each with its check.

A module for each group of checks; `check` says what a check is, `guest` gathers the evidence, and
`run` runs them. To add a check, write a function that judges a `Guest`, beside those like it.
"""

from guestpv.validate.catalogue import catalogue, select
from guestpv.validate.check import (
    Check,
    Effect,
    Finding,
    Level,
    Severity,
    Unjudged,
    Verdict,
    errored,
)
from guestpv.validate.comparison import Event
from guestpv.validate.conclusion import Statement, conclude, verdict_by_level, was_judged
from guestpv.validate.coverage import Contention, Coverage, Requirement, unmet
from guestpv.validate.guest import Guest, Options
from guestpv.validate.hostaccount import HostAccount
from guestpv.validate.record import Record
from guestpv.validate.runner import Outcome, run

__all__ = [
    "Check",
    "Contention",
    "Coverage",
    "Effect",
    "Event",
    "Finding",
    "Guest",
    "HostAccount",
    "Level",
    "Options",
    "Outcome",
    "Record",
    "Requirement",
    "Severity",
    "Statement",
    "Unjudged",
    "Verdict",
    "catalogue",
    "conclude",
    "errored",
    "run",
    "select",
    "unmet",
    "verdict_by_level",
    "was_judged",
]
