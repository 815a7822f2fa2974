# SPDX-License-Identifier: MIT
"""Whose time it was."""
