# SPDX-License-Identifier: MIT
"""What readings mean over time."""
