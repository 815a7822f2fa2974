# SPDX-License-Identifier: MIT
"""Names for the numbers of the index; a page image, or a later module, may hold unknown ones."""

from enum import IntEnum

from guestpv.page.abi import Fault, Reason


def name_of(kind: type[IntEnum], number: int) -> str:
    """As in ``online`` for 1 of State."""
    return next((member.name.lower() for member in kind if member == number), f"unknown {number}")


def fault_text(number: int) -> str:
    """Why a structure was refused, in words."""
    return _text(Fault, number)


def reason_text(number: int) -> str:
    """Why an epoch began, in words."""
    return _text(Reason, number)


def version_text(number: int) -> str:
    """A version of SMCCC, as in ``1.1`` for 0x10001 (DEN0028, SMCCC_VERSION)."""
    return f"{number >> 16}.{number & 0xFFFF}"


def _text(kind: type[Fault] | type[Reason], number: int) -> str:
    unknown = f"unknown {kind.__name__.lower()} {number}"
    return next((member.text for member in kind if member == number), unknown)
