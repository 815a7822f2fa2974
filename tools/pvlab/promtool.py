# SPDX-License-Identifier: MIT
"""Prometheus' own judge of metrics and rules, from Debian's package, which is not installed: that
would start a server."""

import shutil
from pathlib import Path

from . import debian
from .cache import artefact

SUITE = "bookworm"


def promtool() -> Path:
    """The program."""
    return artefact("promtool", [SUITE, debian.host_architecture()], _build) / "promtool"


def _build(directory: Path) -> None:
    root = directory / "root"
    with debian.apt(SUITE, debian.host_architecture()) as apt:
        apt.extract(root, "prometheus")
    (root / "usr/bin/promtool").rename(directory / "promtool")
    shutil.rmtree(root)
