# SPDX-License-Identifier: MIT
"""Rules for Prometheus, a dashboard for Grafana, and the same as a console of Prometheus, over the
exporter's metrics."""

import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from guestpv.agent.wholefile import write_whole
from guestpv.errors import Error, PermissionDeniedError

RULES, DASHBOARD, CONSOLE = "guestpv.rules.yml", "guestpv-dashboard.json", "guestpv.html"
FILES = (RULES, DASHBOARD, CONSOLE)


def content(name: str) -> str:
    """One of FILES as it is written out: the console has the dashboard in it."""
    shipped = resources.files("guestpv.agent") / "prometheus"
    text = (shipped / name).read_text("utf-8")
    if name != CONSOLE:
        return text
    dashboard = json.dumps(json.loads(content(DASHBOARD)))
    # What ends a script, or begins an action of the server's templates, is in strings alone.
    for special in "<", "{{":
        dashboard = dashboard.replace(special, f"\\u{ord(special[0]):04x}{special[1:]}")
    return text.replace("@DASHBOARD@", dashboard)


def write_rules(directory: Path, say: Callable[[str], None]) -> None:
    """Write them into *directory*. What was changed there is not written over: Error is raised, and
    nothing is written."""
    contents = {directory / name: content(name).encode() for name in FILES}
    path = directory
    try:
        for path, new in contents.items():
            if path.exists() and not (path.is_file() and path.read_bytes() == new):
                raise Error(
                    f"{path}: left as it is",
                    "It is another, or was changed",
                    "move it away, or have them written to another directory",
                )
        for path, new in contents.items():
            write_whole(path, new)
            say(f"{path}: written")
    except OSError as error:
        kind = PermissionDeniedError if isinstance(error, PermissionError) else Error
        why = error.strerror or str(error)
        fix = "name a directory that is there, and yours"
        raise kind(f"{path}: not written", why, fix) from error
