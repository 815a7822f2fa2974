# SPDX-License-Identifier: MIT
"""Which guestpv tells this."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("guestpv")
except PackageNotFoundError:  # it is run from a checkout
    VERSION = "unknown"
