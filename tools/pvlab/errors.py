# SPDX-License-Identifier: MIT
"""The lab's one exception."""


class LabError(Exception):
    """The lab could not do what was asked of it; the message says what happened."""
