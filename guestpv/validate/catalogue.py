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
    smccc,
    structure,
    waking,
)
from guestpv.validate.check import CHECKS, Check

_GROUPS = (
    discovery,
    smccc,
    address,
    structure,
    counter,
    gaps,
    waking,
    kernel,
    host,
    life,
    life_events,
)
"""Each module entered its checks when it was imported; this is their order."""


_WITHOUT_PV_TIME = ("discovery.none", "smccc")
"""By id or group, what is promised where the hypervisor is to offer no stolen time."""
_ONLY_WITHOUT = ("discovery.none",)
"""What is not promised anywhere else."""


def catalogue(*, pv_time: bool = True) -> list[Check]:
    """All checks, group by group.

    *pv_time* is whether the hypervisor is to offer stolen time: else other things are promised.
    """
    modules = [group.__name__ for group in _GROUPS]
    checks = [check for check in CHECKS.values() if _is_promised(check, pv_time)]
    return sorted(checks, key=lambda check: modules.index(check.judge.__module__))


def select(
    only: Iterable[str] = (), skip: Iterable[str] = (), *, pv_time: bool = True
) -> list[Check]:
    """The checks that are named by id or group in *only* (all if it is empty), not in *skip*.

    Raises ValueError if a name is not one, with the nearest that are.
    """
    wanted = [_known(name) for name in only]
    unwanted = [_known(name) for name in skip]
    return [
        check
        for check in catalogue(pv_time=pv_time)
        if (not wanted or _is_among(check, wanted)) and not _is_among(check, unwanted)
    ]


def _is_promised(check: Check, pv_time: bool) -> bool:
    if pv_time:
        return not _is_among(check, _ONLY_WITHOUT)
    return _is_among(check, _WITHOUT_PV_TIME)


def _is_among(check: Check, names: Iterable[str]) -> bool:
    """Whether it is named there, by id or group."""
    return not {check.id, check.group}.isdisjoint(names)


def _known(name: str) -> str:
    names = [*CHECKS, *{check.group for check in CHECKS.values()}]
    if name in names:
        return name
    near = get_close_matches(name, names, cutoff=0.5)
    meant = f"did you mean {' or '.join(near)}" if near else "--list shows them"
    raise ValueError(f"no check or group {name!r}: {meant}")
