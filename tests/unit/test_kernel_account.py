# SPDX-License-Identifier: MIT
"""How far the kernel's account and the hypervisor's may be apart before they differ."""

import numpy as np
import pytest

from guestpv.account.kernel import KernelAccount
from guestpv.source.procstat import TICK_NS, no_accounts

SECOND = 1_000_000_000
LONG = 100 * SECOND


def differs(kernel_ns: int, stolen_ns: int, first_slack_ns: int = 0, slack_ns: int = 0) -> bool:
    """After one interval in which the two counted so much."""
    first, now = (no_accounts((0,)) for _ in range(2))
    for account in first, now:
        account["present"] = account["steal_known"] = account["run_known"] = True
    first["slack_ns"] = first_slack_ns
    now["slack_ns"] = slack_ns
    now["steal_ns"] = kernel_ns
    compared = KernelAccount(first)
    compared.tick(now, np.array([stolen_ns]), np.array([False]))
    return bool(compared.differs[0])


@pytest.mark.parametrize("sign", [1, -1])
def test_three_ticks_are_not_a_difference(sign: int) -> None:
    stolen_ns = 10 * TICK_NS  # of which 5 % are less
    assert not differs(stolen_ns + sign * 3 * TICK_NS, stolen_ns)
    assert differs(stolen_ns + sign * (3 * TICK_NS + 1), stolen_ns)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_twentieth_is_not_a_difference(sign: int) -> None:
    assert not differs(LONG + sign * (LONG // 20), LONG)
    assert differs(LONG + sign * (LONG // 20 + 1000), LONG)


def test_a_twentieth_of_what_the_hypervisor_counted() -> None:
    assert differs(LONG, 0)
    assert differs(0, LONG)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("first_slack_ns", "slack_ns"), [(0, SECOND), (SECOND, 0)])
def test_what_was_stolen_while_the_two_were_read(
    sign: int, first_slack_ns: int, slack_ns: int
) -> None:
    """At either end: it may be on either side."""
    allowed_ns = 3 * TICK_NS + SECOND
    stolen_ns = 2 * SECOND
    for apart_ns, expected in (allowed_ns - 70_000_000, False), (allowed_ns + 80_000_000, True):
        kernel_ns = stolen_ns + sign * apart_ns
        assert differs(kernel_ns, stolen_ns, first_slack_ns, slack_ns) == expected


def test_counts_that_cannot_be_do_not_wrap() -> None:
    """Sums over several intervals, of a page or a hypervisor that says nonsense."""
    most_ns = 2**63 - 1
    accounts = [no_accounts((0,)) for _ in range(4)]
    for account in accounts:
        account["present"] = account["steal_known"] = True
    compared = KernelAccount(accounts[0])
    for account in accounts[1:]:
        compared.tick(account, np.array([most_ns]), np.array([False]))
        assert compared.differs[0]  # the kernel saw nothing of it
    assert not differs(0, most_ns, first_slack_ns=most_ns, slack_ns=most_ns)
