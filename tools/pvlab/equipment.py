# SPDX-License-Identifier: MIT
"""What a host of the lab has beside its root: modules for its kernel, and the account of its guest.

Like a guest's payload it is a tar on a disk, unpacked over the root.
"""

import shutil
from functools import cache
from pathlib import Path

from . import account, kmod
from .cache import artefact
from .faults import hypercalls
from .kernels import Kernel
from .payload import pack

WAKE = Path(__file__).parent / "wake"


@cache
def equipment(kernel: Kernel) -> Path:
    """The tar for hosts that boot this kernel."""
    parts = [wake(kernel).module, hypercalls.module(kernel).module, account.SCRIPT]

    def build(directory: Path) -> None:
        root = directory / "root"
        place = root / account.PLACE.relative_to("/")
        place.mkdir(parents=True)
        for part in parts:
            shutil.copy(part, place)
        pack(root, directory / "equipment.tar")

    inputs: list[str | Path] = [Path(__file__), *parts]
    return artefact(f"equipment-{kernel.name}", inputs, build) / "equipment.tar"


def wake(kernel: Kernel) -> kmod.Build:
    """The module that gives a host its timers back when it goes on from a saved state."""
    return kmod.build_from(WAKE, [WAKE / "Kbuild", WAKE / "pvwake.c"], "pvwake", kernel)
