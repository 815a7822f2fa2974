# SPDX-License-Identifier: MIT
"""Rules for Prometheus and a dashboard for Grafana, over the exporter's metrics."""

from collections.abc import Callable
from importlib import resources
from pathlib import Path

from guestpv.errors import Error, PermissionDeniedError

FILES = ("guestpv.rules.yml", "guestpv-dashboard.json")


def write_rules(directory: Path, say: Callable[[str], None]) -> None:
    """Write them into *directory*. What was changed there is not written over: Error is raised, and
    nothing is written."""
    shipped = resources.files("guestpv.agent") / "prometheus"
    contents = {directory / name: (shipped / name).read_bytes() for name in FILES}
    try:
        for path, content in contents.items():
            if path.exists() and path.read_bytes() != content:
                raise Error(
                    f"{path}: left as it is",
                    "It is another, or was changed",
                    "move it away, or have them written to another directory",
                )
        for path, content in contents.items():
            path.write_bytes(content)
            say(f"{path}: written")
    except OSError as error:
        kind = PermissionDeniedError if isinstance(error, PermissionError) else Error
        why = error.strerror or str(error)
        raise kind(f"{error.filename}: not written", why, "name a directory of yours") from error
