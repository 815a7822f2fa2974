# SPDX-License-Identifier: MIT
"""The project as a guest gets it: a tar on a disk of its own, unpacked over the root at boot."""

import tarfile
from pathlib import Path

from .cache import artefact
from .kernels import Kernel


def payload(kernel: Kernel) -> Path:
    def build(directory: Path) -> None:
        with tarfile.open(directory / "payload.tar", "w"):
            pass

    return artefact(f"payload-{kernel.name}", [Path(__file__)], build) / "payload.tar"
