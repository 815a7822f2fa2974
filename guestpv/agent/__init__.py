# SPDX-License-Identifier: MIT
"""What tells monitoring systems of stolen time, for as long as a machine runs."""
