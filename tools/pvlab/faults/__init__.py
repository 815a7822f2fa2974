# SPDX-License-Identifier: MIT
"""What a hypervisor may do wrong, done on purpose: faults of the host, each over when it is."""

from .hypercalls import HypercallFaults, WrongAnswer
from .lies import Lie

__all__ = ["HypercallFaults", "Lie", "WrongAnswer"]
