# SPDX-License-Identifier: MIT
"""What the lab raises."""


class LabError(Exception):
    """The lab could not do what was asked of it; the message says what happened."""


class NotReadyError(LabError):
    """A machine runs, and has not done in time what it is to do first of all."""


class RefusedError(LabError):
    """A machine works, and refused what it was asked to do: to begin anew would not help."""
