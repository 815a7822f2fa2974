# SPDX-License-Identifier: MIT
"""The exporter as a service of systemd, and the group that may read the device."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

import guestpv
from guestpv.agent.wholefile import write_whole
from guestpv.errors import (
    Error,
    ModuleError,
    NoSourceError,
    PermissionDeniedError,
    UnsupportedError,
)

UNIT = "guestpv-exporter.service"
FILES = {
    UNIT: Path("etc/systemd/system"),
    "70-guestpv.rules": Path("etc/udev/rules.d"),
    "guestpv.conf": Path("etc/sysusers.d"),
}
"""What is installed, and where, below the root directory."""

_MARK = "# Written by 'guestpv exporter --install'"
_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # from the service, by its unit

Say = Callable[[str], None]


def install(arguments: Sequence[str], root: Path | None, say: Say) -> None:
    """Have the exporter run with *arguments*, now and after each boot.

    With *root*, in a system that is there but does not run, as an image does. What was installed
    before is replaced. Raises Error if that can't be; nothing is started then.
    """
    if root is None:
        _check_that_it_runs_here()
    elif not root.is_dir():
        raise NoSourceError("The service was not installed", f"{root} is no directory")
    command = " ".join(
        map(_quoted, [sys.executable, "-P", "-m", "guestpv", "exporter", *arguments])
    )
    for path in _paths(root):
        _check_own(path)
    for path in _paths(root):
        content = (resources.files("guestpv.agent") / "system" / path.name).read_text()
        _write(path, content.replace("@COMMAND@", command))
        say(f"{path}: written")
    at = [] if root is None else [f"--root={root}"]
    _run("systemd-sysusers", *at, str(_paths(root)[2]) if root is None else "guestpv.conf")
    if root is None:
        _run("udevadm", "control", "--reload")
        _run("udevadm", "trigger", "--settle", "--subsystem-match=misc", "--sysname-match=guestpv")
        _run("systemctl", "daemon-reload")
    _run("systemctl", *at, "--quiet", "enable", UNIT)
    if root is None:
        _run("systemctl", "restart", UNIT)
        say(f"{UNIT}: running, and will be after each boot; the module is not loaded by it")
    else:
        say(f"{UNIT}: enabled in {root}")
    say("the group guestpv may read the device: give it to whoever should")


def uninstall(root: Path | None, say: Say) -> None:
    """Undo install(). The group stays: files may be its own. What is not there is no error."""
    for path in _paths(root):
        _check_own(path)
    if not any(path.exists() for path in _paths(root)):
        say("nothing is installed")
        return
    at = [] if root is None else [f"--root={root}"]
    if _paths(root)[0].exists():
        now = ["--now"] if root is None else []
        _run("systemctl", *at, "--quiet", *now, "disable", UNIT)
    for path in _paths(root):
        if path.exists():
            _unlink(path)
            say(f"{path}: removed")
    if root is None:
        _run("systemctl", "daemon-reload")
        _run("udevadm", "control", "--reload")
        say("the device is root's alone again when the module is loaded next")


def _paths(root: Path | None) -> list[Path]:
    return [(root or Path("/")) / directory / name for name, directory in FILES.items()]


def _check_that_it_runs_here() -> None:
    what = "The service was not installed"
    if not Path("/run/systemd/system").is_dir():
        raise UnsupportedError(
            what,
            "This machine does not run systemd",
            "have its own way of starting services run 'guestpv exporter',"
            " or install into a system that does by --root DIR",
        )
    for path in Path(sys.executable), Path(guestpv.__file__):
        hidden = [place for place in _HIDDEN if path.is_relative_to(place)]
        hidden += [str(place) for place in path.parents if not place.stat().st_mode & 0o001]
        if hidden:
            raise PermissionDeniedError(
                what,
                f"It has a user of its own, to whom {path} is hidden, as is all of {hidden[0]}",
                "install guestpv where everybody may read it, as in /opt/guestpv",
            )
    alone = [sys.executable, "-P", "-c", "import guestpv.agent.exporter"]
    done = subprocess.run(alone, cwd="/", env={}, capture_output=True, text=True)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["it ended"])[-1]
        raise ModuleError(
            what,
            f"{sys.executable} does not find all of guestpv without the environment of this shell"
            f" ({why})",
            f"install it there: {sys.executable} -m pip install 'guestpv[exporter]'",
        )


def _check_own(path: Path) -> None:
    """Whether there is nothing, or what an earlier install() wrote."""
    try:
        own = path.read_text().startswith(_MARK)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _failed(path, error) from error
    if not own:
        raise Error(
            f"{path}: left as it is",
            "It is there, and was not written by 'guestpv exporter --install'",
            "move it away first",
        )


def _write(path: Path, content: str) -> None:
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_whole(path, content.encode())
    except OSError as error:
        raise _failed(path, error) from error


def _unlink(path: Path) -> None:
    try:
        path.unlink()
    except OSError as error:
        raise _failed(path, error) from error


def _failed(path: Path, error: OSError) -> Error:
    why = error.strerror or str(error)
    if isinstance(error, PermissionError):
        return PermissionDeniedError(f"{path}: not changed", why, "run it as root")
    return Error(f"{path}: not changed", why)


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise UnsupportedError(
            f"{command[0]}: not found", "It is a part of systemd", "install systemd"
        ) from error
    if done.returncode:
        why = " ".join((done.stderr or done.stdout).split()) or f"It ended with {done.returncode}"
        fix = f"'journalctl -u {UNIT}' says more" if "restart" in command else ""
        raise Error(f"{' '.join(command)}: failed", why.rstrip("."), fix)


def _quoted(argument: str) -> str:
    """As one word of ExecStart= (systemd.service(5), systemd.syntax(7))."""
    escaped = argument.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return '"' + escaped.replace("%", "%%").replace("$", "$$") + '"'
