# SPDX-License-Identifier: MIT
"""The kernels of the lab: what a machine boots, and what the module is built against."""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import debian, process
from .cache import artefact
from .errors import LabError

# What /init needs for its root file system, its network, and the files that it shares with us.
MODULES = (
    *("virtio_mmio", "virtio_blk", "virtio_net", "virtio-rng"),
    *("ext4", "overlay", "9p", "9pnet_virtio"),
)


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel. Its directory holds Image, initrd and build/, the tree for building modules."""

    name: str
    what: str
    bootable: bool
    build: Callable[[Path], None]
    recipe: Path

    def directory(self) -> Path:
        """Where it is, made now if it is not there yet."""
        inputs = [self.name, self.recipe, Path(__file__), Path(__file__).parent / "init"]
        return artefact(f"kernel-{self.name}", list(inputs), self.build)

    @property
    def release(self) -> str:
        """What `uname -r` says in it."""
        return (self.directory() / "release").read_text()


def _stock(suite: str) -> Callable[[Path], None]:
    """Debian's kernel as it is, with its headers."""

    def build(directory: Path) -> None:
        unpacked = directory / "unpacked"
        with debian.apt(suite) as apt:
            image = apt.dependency("linux-image-arm64", r"linux-image-.*-arm64")
            apt.extract(unpacked, image)
        release = image.removeprefix("linux-image-")
        (directory / "release").write_text(release)
        shutil.copy(unpacked / f"boot/vmlinuz-{release}", directory / "Image")
        process.run("/sbin/depmod", "-b", unpacked, release)
        make_initrd(directory, _needed_modules(unpacked, release))
        shutil.rmtree(unpacked)

    return build


def _needed_modules(root: Path, release: str) -> list[Path]:
    """Paths of the modules that /init loads, in the order in which they can be loaded."""
    needed: dict[Path, None] = {}
    for name in MODULES:
        lines = process.run("/sbin/modprobe", "-d", root, "-S", release, "--show-depends", name)
        for line in lines.splitlines():
            if line.startswith("insmod "):
                needed[Path(line.split()[1])] = None
    return list(needed)


def make_initrd(directory: Path, modules: list[Path]) -> None:
    """Put together what the kernel starts from: busybox, modules, and /init."""
    root = directory / "initrd.root"
    for name in "bin", "dev", "proc", "sys", "modules.d":
        (root / name).mkdir(parents=True)
    shutil.copy(_busybox(), root / "bin/busybox")
    shutil.copy(Path(__file__).parent / "init", root / "init")
    (root / "init").chmod(0o755)
    for module in modules:
        shutil.copy(module, root / "modules.d")
    (root / "modules").write_text("".join(f"modules.d/{path.name}\n" for path in modules))
    process.run("sh", "-c", "find . | cpio --quiet -o -H newc -R 0:0 > ../initrd", cwd=root)
    shutil.rmtree(root)


def _busybox() -> Path:
    def build(directory: Path) -> None:
        with debian.apt("bookworm") as apt:
            apt.extract(directory, "busybox-static")

    return artefact("busybox", [], build) / "bin/busybox"


KERNELS = {
    kernel.name: kernel
    for kernel in (
        Kernel("stock-6.1", "Debian 12's", True, _stock("bookworm"), Path(__file__)),
        Kernel("stock-6.12", "Debian 13's", True, _stock("trixie"), Path(__file__)),
    )
}


def kernel(name: str) -> Kernel:
    try:
        return KERNELS[name]
    except KeyError:
        raise LabError(f"no kernel '{name}'; there are: {', '.join(KERNELS)}") from None
