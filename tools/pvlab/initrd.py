# SPDX-License-Identifier: MIT
"""What a kernel of the lab starts from: busybox, a few modules, and /init."""

import shutil
from pathlib import Path

from . import debian, process
from .cache import artefact
from .kernels import Kernel

INIT = Path(__file__).parent / "init"


def initrd(kernel: Kernel) -> Path:
    def build(directory: Path) -> None:
        root = directory / "root"
        for name in "bin", "dev", "proc", "sys":
            (root / name).mkdir(parents=True)
        shutil.copy(_busybox(), root / "bin/busybox")
        shutil.copy(INIT, root / "init")
        (root / "init").chmod(0o755)
        shutil.copytree(kernel.directory() / "modules", root / "modules")
        process.run("sh", "-c", "find . | cpio --quiet -o -H newc -R 0:0 > ../initrd", cwd=root)
        shutil.rmtree(root)

    inputs: list[str | Path] = [Path(__file__), INIT, kernel.directory().name]
    return artefact(f"initrd-{kernel.name}", inputs, build) / "initrd"


def _busybox() -> Path:
    def build(directory: Path) -> None:
        with debian.apt("bookworm") as apt:
            apt.extract(directory, "busybox-static")

    return artefact("busybox", [], build) / "bin/busybox"
