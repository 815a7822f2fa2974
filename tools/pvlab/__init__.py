# SPDX-License-Identifier: MIT
"""The lab: a real KVM/arm64 host and a guest in it, on any machine, for people and for tests.

with Lab(kernel="stock-6.1", vcpus=2) as lab:
    print(lab.run(["cat", "/proc/stat"]).stdout)
"""

from .errors import LabError
from .faults import Lie
from .lab import Lab

__all__ = ["Lab", "LabError", "Lie"]
