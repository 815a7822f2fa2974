# SPDX-License-Identifier: MIT
"""The module in the kernel: built, loaded, and what it and the kernel announce."""
