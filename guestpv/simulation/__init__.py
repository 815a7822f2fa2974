# SPDX-License-Identifier: MIT
"""A hypervisor and a module that are none: a page image that goes on as theirs would."""
