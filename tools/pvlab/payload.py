# SPDX-License-Identifier: MIT
"""The project as a guest gets it: a tar on a disk of its own, unpacked over its root.

It holds the package as a user would install it (a wheel, cross-built), the modules for the
machine's kernel where DKMS would put them, and the tests that run in a guest, with the shipped
reader in C, built.
"""

import os
import shutil
import sys
from functools import cache
from pathlib import Path

from . import debian, kmod, process
from .cache import CHECKOUT, artefact
from .errors import LabError
from .image import PLATFORM_OPTIONS, SITE_PACKAGES, compile_python
from .kernels import Kernel

# Of every disk with a tar, however much is in it: a machine that goes on from a saved state may
# find another on it, and would not notice that the disk has grown.
SIZE = 16 << 20

UNPACK = "/bin/busybox tar -x -C / -f /dev/lab-payload"
"""How a machine gets what is on its disk."""


@cache
def payload(kernel: Kernel) -> Path:
    """The tar for guests that boot this kernel; the same for as long as this process lives."""
    module, package, example, tests = kmod.build(kernel).module, _package(), _example(), _tests()
    asking = module.with_name("guestpv_ask.ko")  # of the same build

    def build(directory: Path) -> None:
        root = directory / "root"
        shutil.copytree(package / "root", root)
        for test in tests:
            copy = root / "root" / test.relative_to(CHECKOUT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(test, copy)
        shutil.copy(example, root / "root/tests/guest")
        extra = root / "lib/modules" / kernel.release / "extra"
        extra.mkdir(parents=True)
        for each in module, asking:
            shutil.copy(each, extra)
        for name in "modules.order", "modules.builtin":
            (extra.parent / name).touch()
        process.run("/sbin/depmod", "-b", root, kernel.release)
        pack(root, directory / "payload.tar")

    inputs: list[str | Path] = [Path(__file__), kernel.release, module, package.name]
    inputs += [example, *tests]
    return artefact(f"payload-{kernel.name}", inputs, build) / "payload.tar"


def pack(root: Path, tar: Path) -> None:
    """Turn a directory into a disk with a tar."""
    process.run("tar", "-C", root, "--owner=0", "--group=0", "-cf", tar, ".")
    shutil.rmtree(root)
    if tar.stat().st_size > SIZE:
        raise LabError(f"{tar.name} has {tar.stat().st_size} bytes, and its disk {SIZE}")
    os.truncate(tar, SIZE)


def _tests() -> list[Path]:
    """The guest's tests and pytest's settings; `pytest tests/guest` works there as it does here."""
    return [CHECKOUT / "pyproject.toml", *sorted((CHECKOUT / "tests/guest").glob("*.py"))]


def _example() -> Path:
    """guestpv/examples/stolen.c as a program."""
    header, source = CHECKOUT / "kmod/uapi/guestpv.h", CHECKOUT / "guestpv/examples/stolen.c"

    def build(directory: Path) -> None:
        flags = ("-O2", "-Wall", "-Wextra", "-Werror", "-std=c11", f"-I{header.parent}")
        process.run("aarch64-linux-gnu-gcc", *flags, source, "-o", directory / "stolen")

    return artefact("example", [Path(__file__), header, source], build) / "stolen"


def _package() -> Path:
    """Where `root` is, with the package installed in it, and the `guestpv` command."""
    sources = [
        *(CHECKOUT / name for name in ("pyproject.toml", "README.md", "LICENSE")),
        *kmod.sources(),
        *(
            path
            for pattern in ("*.py", "*.pyi", "*.c", "*.h", "py.typed")
            for path in sorted((CHECKOUT / "guestpv").rglob(pattern))
        ),
    ]

    def build(directory: Path) -> None:
        checkout, wheels = directory / "checkout", directory / "wheels"
        for source in sources:
            copy = checkout / source.relative_to(CHECKOUT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, copy)
        pip = (sys.executable, "-m", "pip", "-q")
        cross = {
            "CC": "aarch64-linux-gnu-gcc",
            "LDSHARED": "aarch64-linux-gnu-gcc -shared",
            "CFLAGS": f"-I{_python_headers()}",
            "_PYTHON_HOST_PLATFORM": "linux-aarch64",
        }
        wheel = (*pip, "wheel", "--no-deps", "--no-build-isolation")
        process.run(*wheel, "-w", wheels, checkout, env=os.environ | cross)
        site = directory / "root" / SITE_PACKAGES
        install = (*pip, "install", "--no-deps", "--no-compile", *PLATFORM_OPTIONS)
        process.run(*install, "--platform=linux_aarch64", "--target", site, *wheels.glob("*.whl"))
        compile_python(directory / "root", SITE_PACKAGES)

        # pip wrote the path of this machine's Python into the command.
        command = directory / "root/usr/local/bin/guestpv"
        command.parent.mkdir(parents=True)
        (site / "bin/guestpv").rename(command)
        command.write_text("#!/usr/bin/python3\n" + command.read_text().split("\n", 1)[1])
        for scratch in checkout, wheels, site / "bin":
            shutil.rmtree(scratch)

    recipe = [Path(__file__), Path(__file__).parent / "image.py"]
    return artefact("package", recipe + sources, build)


def _python_headers() -> Path:
    """Where <aarch64-linux-gnu/python3.11/pyconfig.h> is, which Debian's Python.h asks for."""

    def build(directory: Path) -> None:
        with debian.apt("bookworm") as apt:
            apt.extract(directory, "libpython3.11-dev")

    return artefact("python-headers", [], build) / "usr/include"
