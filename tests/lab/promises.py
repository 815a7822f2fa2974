# SPDX-License-Identifier: MIT
"""The table promise, check, fault: what is promised, what checks it, what was seen to break it.

`PYTHONPATH=tools python tests/lab/promises.py` makes guestpv/validate/PROMISES.md anew, and
tests/unit/test_promises.py holds it to the code.
"""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from guestpv.validate import Check, catalogue
from guestpv.validate.clauses import Clause

TABLE = Path(__file__).parents[2] / "guestpv/validate/PROMISES.md"

_HEAD = """\
<!-- Made from the code by tests/lab/promises.py: see there. -->
# Promise, check, fault

Every promise that stolen time rests on, the checks of `guestpv validate` that hold it, each with
its level and severity, and the faults that a host of the lab makes on purpose to see the check
fail, or warn where it only warns. A promise without a check is a hole, and says so.

| promise | stands in | check (level, severity) | faults |
| --- | --- | --- | --- |
"""


def table(checks: Iterable[Check], faults: Mapping[str, Iterable[str]]) -> str:
    """*faults* are the names of those that each check, by its id, must catch."""
    return _HEAD + "".join(_rows(list(checks), faults))


def _rows(checks: list[Check], faults: Mapping[str, Iterable[str]]) -> Iterable[str]:
    for clause in Clause:
        found = [check for check in checks if clause in (check.clause, *check.also)]
        if not found:
            yield f"| {clause.text} | {clause.source} | **a hole: no check** | |\n"
        for row, check in enumerate(found):
            promise = f"{clause.text} | {clause.source}" if not row else "as above |"
            caught = "; ".join(dict.fromkeys(faults.get(check.id, ()))) or "**a hole: no fault**"
            yield f"| {promise} | `{check.id}` ({check.level}, {check.severity}) | {caught} |\n"


def current() -> str:
    """Of the catalogue as it is, and the faults that tests/lab makes."""
    sys.path.insert(0, str(Path(__file__).parent))
    from test_liars import LIARS
    from test_validate import CLAIM, ELSEWHERE, PAUSED, STOCK

    faults: dict[str, list[str]] = {}
    for fault in (*CLAIM, *STOCK, *PAUSED):
        faults.setdefault(fault.check, []).append(fault.name)
    for liar in LIARS:
        if liar.at_least:  # the others are told of, and may get away
            faults.setdefault(liar.by[0], []).append(liar.name)
    for check, where in ELSEWHERE.items():
        faults.setdefault(check, []).append(where)
    checks = dict.fromkeys([*catalogue(), *catalogue(pv_time=False)])
    return table(checks, faults)


if __name__ == "__main__":
    TABLE.write_text(current())
