# SPDX-License-Identifier: MIT
"""All checks, and choosing some of them."""

from collections.abc import Iterable
from difflib import get_close_matches

from guestpv.validate import (
    address,
    counter,
    discovery,
    gaps,
    host,
    kernel,
    life,
    life_events,
    structure,
)
from guestpv.validate.check import CHECKS, Check

_GROUPS = (discovery, address, structure, counter, gaps, kernel, host, life, life_events)
"""Each module entered its checks when it was imported; this is their order."""


def catalogue() -> list[Check]:
    """All checks, group by group."""
    modules = [group.__name__ for group in _GROUPS]
    return sorted(CHECKS.values(), key=lambda check: modules.index(check.judge.__module__))


def select(only: Iterable[str] = (), skip: Iterable[str] = ()) -> list[Check]:
    """The checks that are named by id or group in *only* (all if it is empty), not in *skip*.

    Raises ValueError if a name is not one, with the nearest that are.
    """
    wanted = [_known(name) for name in only]
    unwanted = [_known(name) for name in skip]
    return [
        check
        for check in catalogue()
        if (not wanted or not {check.id, check.group}.isdisjoint(wanted))
        and {check.id, check.group}.isdisjoint(unwanted)
    ]


def _known(name: str) -> str:
    names = [*CHECKS, *{check.group for check in CHECKS.values()}]
    if name in names:
        return name
    near = get_close_matches(name, names, cutoff=0.5)
    meant = f"did you mean {' or '.join(near)}" if near else "--list shows them"
    raise ValueError(f"no check or group {name!r}: {meant}")
