# SPDX-License-Identifier: MIT
"""Settings of all unit tests."""

from hypothesis import settings

# A test machine whose time is stolen is no place for deadlines.
settings.register_profile("guestpv", deadline=None)
settings.load_profile("guestpv")
