# SPDX-License-Identifier: MIT
"""Kernel modules, built on this machine for a kernel of the lab: guestpv's, and others."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import process
from .cache import CHECKOUT, artefact
from .kernels import Kernel

# What make says of this machine rather than of the module.
_OF_THE_MACHINE = ("the compiler differs", "pahole version differs")


@dataclass(frozen=True, slots=True)
class Build:
    """A module, and what make and the compiler said while they built it."""

    module: Path
    log: str

    def warnings(self) -> list[str]:
        return [
            line
            for line in self.log.splitlines()
            if "warning" in line.lower() and not any(known in line for known in _OF_THE_MACHINE)
        ]


def sources() -> list[Path]:
    """The module's source files, without what a build in place may have left beside them."""
    found = (
        path
        for pattern in ("*.[ch]", "uapi/*.h", "Kbuild", "Makefile", "dkms.conf")
        for path in (CHECKOUT / "kmod").glob(pattern)
    )
    return sorted(path for path in found if not path.name.endswith(".mod.c"))


def build(kernel: Kernel, *options: str) -> Build:
    """Build the module for a kernel; options are make's, such as `C=1` or `W=1`."""
    return build_from(CHECKOUT / "kmod", sources(), "guestpv", kernel, *options)


def build_from(
    tree: Path, files: Sequence[Path], name: str, kernel: Kernel, *options: str
) -> Build:
    """Build the module `name` from files of a source tree."""

    def make(directory: Path) -> None:
        for source in files:
            copy = directory / source.relative_to(tree)
            copy.parent.mkdir(exist_ok=True)
            shutil.copy(source, copy)
        log = process.run(
            *("make", "-C", kernel.directory() / "build", f"M={directory}", "ARCH=arm64"),
            *("CROSS_COMPILE=aarch64-linux-gnu-", "CC=aarch64-linux-gnu-gcc", *options),
        )
        (directory / "build.log").write_text(log)

    inputs: list[str | Path] = [Path(__file__), kernel.directory().name, *options, *files]
    of = f"{tree.name}-{kernel.name}"
    directory = artefact(of, inputs, make, what=" ".join(options))
    return Build(directory / f"{name}.ko", (directory / "build.log").read_text())
