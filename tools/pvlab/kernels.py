# SPDX-License-Identifier: MIT
"""The kernels of the lab: what a machine boots, and what the module is built against."""

import lzma
import shutil
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from . import claim, debian, headers, process
from .cache import artefact
from .errors import LabError

# What every machine needs for its disks and its network, and a host for its guest's console.
MODULES = ("virtio_mmio", "virtio_blk", "virtio_net", "virtio-rng", "ext4", "overlay")
MODULES_FOR_HOSTS = ("virtio_console",)


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel of the lab, in a directory of the cache.

    It holds `release`, what `uname -r` says; `build`, the tree to build modules in; and if it can
    be booted, `Image`, and `modules`, what an initrd has to load, in that order; what only a host
    needs is in `modules/host`. If it `hosts`, its KVM can serve the lab's guests.
    """

    name: str
    what: str
    recipe: tuple[Path, ...]
    build: Callable[[Path], None]
    bootable: bool = True
    hosts: bool = False

    def directory(self) -> Path:
        """Where it is, made now if it is not there yet."""
        # The programs that come with Debian's headers have their place in them: see headers.py.
        return artefact(f"kernel-{self.name}", self.recipe, self.build, is_bound=True)

    @property
    def release(self) -> str:
        return (self.directory() / "release").read_text()


def _stock(suite: str, flavour: str = "arm64") -> Callable[[Path], None]:
    """Debian's kernel as it is, with its headers."""

    def build(directory: Path) -> None:
        unpacked = directory / "unpacked"
        with debian.apt(suite) as apt:
            release = headers.unpack(directory, suite, apt, flavour)
            # From Debian 14 on the image package only names those that hold image and modules.
            image = f"linux-image-{release}"
            parts = [name for name in apt.dependencies(image) if name.endswith(f"-{release}")]
            apt.extract(unpacked, image, *parts)
        (directory / "release").write_text(release)
        if not (unpacked / "lib").exists():
            (unpacked / "lib").symlink_to("usr/lib")
        places = f"boot/vmlinuz-{release}", f"lib/modules/{release}/vmlinuz"
        (found,) = (unpacked / place for place in places if (unpacked / place).exists())
        shutil.copy(found, directory / "Image")
        process.run("/sbin/depmod", "-b", unpacked, release)
        kept = _keep_modules(directory / "modules", unpacked, release, MODULES, set())
        _keep_modules(directory / "modules/host", unpacked, release, MODULES_FOR_HOSTS, kept)
        shutil.rmtree(unpacked)

    return build


def _headers_only(suite: str) -> Callable[[Path], None]:
    """The headers of Debian's kernel: to build against, not to boot."""

    def build(directory: Path) -> None:
        with debian.apt(suite) as apt:
            (directory / "release").write_text(headers.unpack(directory, suite, apt))

    return build


def _keep_modules(
    directory: Path, root: Path, release: str, names: Sequence[str], have: Set[Path]
) -> Set[Path]:
    """Copy what these modules need and have not got yet, so named that `*.ko` is in load order."""
    directory.mkdir()
    needed: dict[Path, None] = {}
    for name in names:
        lines = process.run("/sbin/modprobe", "-d", root, "-S", release, "--show-depends", name)
        for line in lines.splitlines():
            if line.startswith("insmod "):
                needed[Path(line.split()[1])] = None
    for number, path in enumerate(path for path in needed if path not in have):
        content = path.read_bytes()
        if path.suffix == ".xz":
            content = lzma.decompress(content)
        (directory / f"{number:02}-{path.name.removesuffix('.xz')}").write_bytes(content)
    return needed.keys()


_HERE = Path(__file__).parent
_RECIPE = (_HERE / "kernels.py", _HERE / "headers.py")
_CLAIM_RECIPE = (_HERE / "claim.py", _HERE / "claim.config")


def _claim(version: str, suite: str) -> Kernel:
    return Kernel(
        f"claim-{version}",
        f"the source of Debian's {version}, without CONFIG_PARAVIRT",
        _CLAIM_RECIPE,
        partial(claim.build, f"linux-source-{version}", suite),
    )


KERNELS = {
    kernel.name: kernel
    for kernel in (
        Kernel("stock-6.1", "Debian 12's", _RECIPE, _stock("bookworm"), hosts=True),
        Kernel("stock-6.12", "Debian 13's", _RECIPE, _stock("trixie"), hosts=True),
        Kernel(
            "stock-6.12-16k",
            "Debian 13's with pages of 16 KiB",
            _RECIPE,
            _stock("trixie", "arm64-16k"),
        ),
        Kernel("rt-6.12", "Debian 13's with PREEMPT_RT", _RECIPE, _stock("trixie", "rt-arm64")),
        Kernel("newest", "Debian unstable's", _RECIPE, _stock("sid"), hosts=True),
        _claim("6.1", "bookworm"),
        _claim("6.12", "trixie"),
        Kernel(
            "build-5.10", "Debian 11's headers", _RECIPE, _headers_only("bullseye"), bootable=False
        ),
    )
}


def kernel(name: str) -> Kernel:
    try:
        return KERNELS[name]
    except KeyError:
        raise LabError(f"no kernel '{name}'; there are: {', '.join(KERNELS)}") from None
