# SPDX-License-Identifier: MIT
"""Single programs of Debian's packages, which are not installed: that would start servers."""

import shutil
from pathlib import Path

from . import debian
from .cache import artefact

SUITE = "bookworm"


def program(package: str, name: str) -> Path:
    """As in ``program("prometheus", "promtool")``, of this machine's architecture."""

    def build(directory: Path) -> None:
        root = directory / "root"
        with debian.apt(SUITE, debian.host_architecture()) as apt:
            apt.extract(root, package)
        (root / "usr/bin" / name).rename(directory / name)
        shutil.rmtree(root)

    return artefact(name, [package, SUITE, debian.host_architecture()], build) / name
