# SPDX-License-Identifier: MIT
"""A kernel that owns no stolen-time structures: Debian's source, built without CONFIG_PARAVIRT."""

import os
import shutil
from pathlib import Path

from . import debian, process

CONFIG = Path(__file__).parent / "claim.config"

# Neither built nor included by what is; leaving them packed saves most of the disk and the time.
UNNEEDED = (
    *(f"arch/{name}/*.[chS]" for name in ("alpha", "mips", "powerpc", "s390", "x86")),
    *(f"drivers/{name}/*.[ch]" for name in ("gpu", "infiniband", "media", "staging")),
    *(f"drivers/net/{name}/*.[ch]" for name in ("ethernet", "wireless")),
    *("Documentation/*.rst", "Documentation/devicetree", "sound/*.[ch]", "tools/testing"),
)


def build(source: str, suite: str, directory: Path) -> None:
    """Build the kernel, in its source tree, which then is the one to build modules in."""
    tree = directory / "build"
    tree.mkdir()
    with debian.apt(suite) as apt:
        apt.extract(directory / "deb", source)
    archive = directory / f"deb/usr/src/{source}.tar.xz"
    excluded = [f"--exclude={source}/{pattern}" for pattern in UNNEEDED]
    process.run("tar", "-C", tree, "--strip-components=1", "--wildcards", *excluded, "-xf", archive)
    shutil.rmtree(directory / "deb")

    make = ("make", "-C", str(tree), f"-j{os.cpu_count()}", "ARCH=arm64")
    cross = "CROSS_COMPILE=aarch64-linux-gnu-"
    process.run(*make, cross, f"KCONFIG_ALLCONFIG={CONFIG}", "allnoconfig")
    process.run(*make, cross, "Image", "modules")
    release = process.run(*make, "-s", "--no-print-directory", "kernelrelease").strip()
    (directory / "release").write_text(release)
    shutil.move(tree / "arch/arm64/boot/Image", directory / "Image")
    (directory / "modules").mkdir()
    for pattern in "*.o", "*.a", "vmlinux*", "System.map":
        for path in tree.rglob(pattern):
            if not path.is_dir():
                path.unlink()
