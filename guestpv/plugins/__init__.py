# SPDX-License-Identifier: MIT
"""Plug-ins of tools that measure time: pytest-benchmark, pyperf, and pytest's timing tests."""
