# SPDX-License-Identifier: MIT
"""Debian's headers of an arm64 kernel, made to serve on this machine, whatever it is.

Debian builds them for /usr/src, for a machine of the kernel's own release and for the release's
own compiler. Here they stand in the cache, and Debian 12's cross compiler uses them.
"""

import re
from pathlib import Path

from . import debian, process
from .cache import final

# What the kernel was configured for and Debian 12's compiler lacks, or needs more than headers.
# Nothing of it changes a structure's layout. That the compiler aligns every function has to be
# denied to make and to the sources: they then keep off what it would not align, which ftrace
# could not patch.
ALIGNMENT = "CC_HAS_(MIN|SANE)_FUNCTION_ALIGNMENT"
BEYOND_DEBIAN_12 = {
    "include/config/auto.conf": f"{ALIGNMENT}|DEBUG_INFO_BTF_MODULES",
    "include/generated/autoconf.h": f"{ALIGNMENT}|CC_HAS_COUNTED_BY(_PTR)?",
}


def unpack(directory: Path, suite: str, apt: debian.Apt, flavour: str = "arm64") -> str:
    """Unpack a release's headers; `directory/build` is their tree. Return the kernel's release."""
    package = apt.dependency(f"linux-headers-{flavour}", rf"linux-headers-\d.*-{flavour}")
    release = package.removeprefix("linux-headers-")
    common = apt.dependency(package, r"linux-headers-.*-common(-rt)?")
    root = directory / "headers"
    apt.extract(root, package, common)
    with debian.apt(suite, debian.host_architecture()) as native:
        native.extract(root, apt.dependency(package, r"linux-kbuild-.*"))
        native.extract(root / "libc", "libc6")

    tree = root / "usr/src" / package
    (directory / "build").symlink_to(tree.relative_to(directory))
    (tree / "Makefile").write_text(f"KBUILD_OUTPUT = $(CURDIR)\ninclude ../{common}/Makefile\n")
    for file, options in BEYOND_DEBIAN_12.items():
        lines = (tree / file).read_text().splitlines(keepends=True)
        kept = (line for line in lines if not re.search(rf"\bCONFIG_({options})\b", line))
        (tree / file).write_text("".join(kept))
    _give_own_libc(root)
    return release


def _give_own_libc(root: Path) -> None:
    """Let the tools in linux-kbuild run with the C library of their release, newer than ours."""
    loader = next(root.glob("libc/**/*-linux-gnu/ld-linux-*.so.*"))
    interpreter = final(root) / loader.relative_to(root)
    for path in root.glob("usr/lib/linux-kbuild-*/**/*"):
        if path.is_file() and not path.is_symlink() and path.read_bytes()[:4] == b"\x7fELF":
            libraries = interpreter.parent
            process.run(
                "patchelf", "--set-interpreter", interpreter, "--set-rpath", libraries, path
            )
