# SPDX-License-Identifier: MIT
"""Whether there is anything to judge in what the observers saw."""

from guestpv.validate.guest import Guest


def unwatched(guest: Guest) -> str | None:
    """Why nothing follows from it; None if something does."""
    watched = guest.watched
    if not len(watched.rows):
        return "there is no vCPU with a structure that this process may run on"
    if watched.slept_s:
        return f"the machine slept for {watched.slept_s:g} s while it was watched, twice"
    if not watched.rows["looks"].any():
        return "no count can be interpreted"
    return None
