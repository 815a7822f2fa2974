# SPDX-License-Identifier: MIT
"""The root file system that host and guest share: Debian's packages and Python's wheels, read-only.

Nothing of it is configured or run while it is made, so a foreign architecture needs no emulation:
the few files that maintainer scripts would have written are written here.
"""

import shutil
import sys
import tomllib
from pathlib import Path

from . import debian, process
from .cache import CHECKOUT, artefact

PACKAGES = (
    "base-files",
    "base-passwd",
    "bash",
    "busybox-static",
    "coreutils",
    "dash",
    "dropbear-bin",
    "findutils",
    "grep",
    "iproute2",
    "kmod",
    "linux-perf",
    "mount",
    "ncurses-base",
    "procps",
    "prometheus-node-exporter",
    "python3",
    "qemu-system-arm",
    "rt-tests",
    "sed",
    "strace",
    "util-linux",
)
UNNEEDED = ("doc", "doc-base", "info", "iso-codes", "locale", "lintian", "man", "xml")
PLATFORM_OPTIONS = (
    *(f"--platform=manylinux{version}_aarch64" for version in ("_2_28", "_2_17", "2014")),
    *("--python-version=3.11", "--only-binary=:all:"),
)
SITE_PACKAGES = Path("usr/local/lib/python3.11/dist-packages")


def requirements() -> list[str]:
    """What the project and its tests in the guest need from elsewhere."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    own = {f"{project['name']}[{extra}]": extras[extra] for extra in extras}
    needed: list[str] = list(project["dependencies"])
    for requirement in extras["guest-test"]:
        needed += own.get(requirement, [requirement])  # no index has the project itself
    return needed


def root_image() -> Path:
    """The ext4 image."""
    return artefact("root", [Path(__file__), *requirements()], _build) / "root.ext4"


def _build(directory: Path) -> None:
    root = directory / "root"
    process.run(
        "mmdebstrap",
        "--mode=chrootless",  # nothing is run in it, so root is not needed
        "--variant=extract",
        "--architectures=arm64",
        f"--include={','.join(PACKAGES)}",
        "bookworm",
        root,
        f"deb [signed-by={debian.KEYRING}] {debian.mirror()} bookworm main",
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR": str(directory)},
    )
    for name in UNNEEDED:
        shutil.rmtree(root / "usr/share" / name, ignore_errors=True)
    _configure(root)
    _install_wheels(root / SITE_PACKAGES)
    compile_python(root, "usr/lib/python3.11", "usr/lib/python3", SITE_PACKAGES)
    image = directory / "root.ext4"
    process.run("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", root, image, "1G")
    shutil.rmtree(root)


def compile_python(root: Path, *directories: str | Path) -> None:
    """Make byte code that is never checked against its source: looking takes a guest seconds."""
    process.run(
        *(sys.executable, "-m", "compileall", "-q", "-j", "2"),
        *("--invalidation-mode", "unchecked-hash", "-s", root, "-p", "/"),
        *(root / directory for directory in directories),
    )


def _configure(root: Path) -> None:
    """What base-passwd, libc-bin and the login shell would have set up when installed."""
    for name in "passwd", "group":
        shutil.copy(root / f"usr/share/base-passwd/{name}.master", root / f"etc/{name}")
    (root / "etc/profile").write_text(
        "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
        "PS1='\\h:\\w\\$ '\n"
    )
    (root / "etc/shells").write_text("/bin/sh\n/bin/bash\n")
    (root / "etc/dropbear").mkdir(exist_ok=True)
    process.run("/sbin/ldconfig", "-r", root)


def _install_wheels(directory: Path) -> None:
    process.run(
        *(sys.executable, "-m", "pip", "install", "-q", "--no-compile", "--target", directory),
        *(*PLATFORM_OPTIONS, *requirements()),
    )
    # Entry points were given the path of this machine's Python; in the guest, `python -m` serves.
    shutil.rmtree(directory / "bin", ignore_errors=True)
