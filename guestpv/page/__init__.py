# SPDX-License-Identifier: MIT
"""What the device's page says. Nothing of this needs anything else of guestpv."""
