# SPDX-License-Identifier: MIT
"""Building the kernel modules for the kernel that runs, from the sources in this package."""

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from guestpv.errors import ModuleError

CACHE = Path("/var/cache/guestpv")
MODULES = Path("/lib/modules")

NAMES = ("guestpv_ask", "guestpv")
"""The modules that one build makes."""

_SOURCES = ("*.c", "*.h", "uapi/*.h", "Kbuild", "Makefile")


def build(say: Callable[[str], None], name: str = "guestpv") -> Path:
    """The module *name*, built unless it was before from the same sources for this kernel.

    *say* is told before a build begins. Raises ModuleError if headers or tools are missing, or
    if the build fails.
    """
    sources = _sources()
    digest = hashlib.sha256(platform.version().encode())
    for source in sources.values():
        digest.update(source.read_bytes())
    which = f"{platform.release()}-{digest.hexdigest()[:16]}.ko"
    module = CACHE / f"{name}-{which}"
    if module.exists():
        return module

    headers = MODULES / platform.release() / "build"
    _check_tools(headers)
    say(f"building the modules for {platform.release()}")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as directory:
        for name, source in sources.items():
            copy = Path(directory, name)
            copy.parent.mkdir(exist_ok=True)
            shutil.copy(source, copy)
        _make(headers, directory)
        for each in NAMES:
            os.replace(Path(directory, f"{each}.ko"), CACHE / f"{each}-{which}")
    return module


def _sources() -> dict[str, Path]:
    """Paths by name. Installed, kmod is inside the package; in a checkout, beside it."""
    package = Path(__file__).parents[1]
    kmod = next(d for d in (package / "kmod", package.parent / "kmod") if (d / "Kbuild").exists())
    paths = sorted(path for pattern in _SOURCES for path in kmod.glob(pattern))
    return {str(path.relative_to(kmod)): path for path in paths if not path.match("*.mod.c")}


def _check_tools(headers: Path) -> None:
    missing = [tool for tool in ("make", "gcc") if not shutil.which(tool)]
    if not (headers / "Makefile").exists():
        missing.append(f"linux-headers-{platform.release()}")
    if missing:
        raise ModuleError(
            f"No module for this kernel, {platform.release()}",
            f"None is installed, and to build one, {' and '.join(missing)} is missing",
            f"run 'apt install {' '.join(missing)}', or give a module with --module PATH",
        )


def _make(headers: Path, directory: str) -> None:
    log = CACHE / "build.log"
    with log.open("wb") as output:
        made = subprocess.run(
            ["make", "-C", headers, f"M={directory}", "modules"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    if made.returncode != 0:
        lines = log.read_text(errors="replace").splitlines()
        error = next((line for line in lines if "error" in line.lower()), "no reason")
        raise ModuleError(
            f"The module could not be built with {headers}", f"make said: {error}", f"see {log}"
        )
