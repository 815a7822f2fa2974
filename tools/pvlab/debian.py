# SPDX-License-Identifier: MIT
"""Debian packages of any release and architecture, got without touching the machine's own apt.

apt-get does the work, with lists and state of its own. What the machine's configuration says of
proxies and the like still applies, and the mirror is the one that the machine uses.
"""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from . import process
from .errors import LabError

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


@cache
def mirror() -> str:
    """The URI from which this machine gets Debian 12."""
    targets = process.run(
        "apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages"
    )
    for line in targets.splitlines():
        release, _, uri = line.partition(" ")
        if release == "bookworm":
            return uri
    raise LabError(
        "apt on this machine has no source for Debian 12 (bookworm), from whose mirror the lab"
        " would get its packages: add one to /etc/apt/sources.list.d"
    )


@cache
def host_architecture() -> str:
    return process.run("dpkg", "--print-architecture").strip()


class Apt:
    """The packages of one release for one architecture, as apt sees them from a directory."""

    def __init__(self, directory: Path, suite: str, architecture: str) -> None:
        for part in "state/lists/partial", "cache/archives/partial", "debs":
            (directory / part).mkdir(parents=True)
        self._debs = directory / "debs"
        sources, status = directory / "sources.list", directory / "status"
        sources.write_text(f"deb [signed-by={KEYRING}] {mirror()} {suite} main\n")
        status.touch()
        options = {
            "Dir::Etc::SourceList": sources,
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::State": directory / "state",
            "Dir::State::status": status,
            "Dir::Cache": directory / "cache",
            "APT::Architecture": architecture,
            "APT::Architectures": architecture,
            "APT::Sandbox::User": "",
            "Acquire::Languages": "none",
        }
        self._options = [f"-o{name}={value}" for name, value in options.items()]
        process.run("apt-get", *self._options, "-qq", "update")

    def dependencies(self, package: str) -> list[str]:
        """The names of the packages that one depends on, first alternatives only."""
        record = process.run("apt-cache", *self._options, "show", "--no-all-versions", package)
        found = re.search(r"^Depends: (.*)$", record, re.MULTILINE)
        return re.findall(r"(?:^|, )([^ ,|]+)", found[1]) if found else []

    def dependency(self, package: str, pattern: str) -> str:
        """The one of a package's dependencies that the pattern matches whole."""
        for name in self.dependencies(package):
            if re.fullmatch(pattern, name):
                return name
        raise LabError(f"{package} depends on nothing like {pattern}")

    def extract(self, root: Path, *packages: str) -> None:
        """Unpack packages below a directory; nothing of them is run."""
        process.run("apt-get", *self._options, "-qq", "download", *packages, cwd=self._debs)
        for deb in self._debs.glob("*.deb"):
            process.run("dpkg-deb", "--extract", deb, root)
            deb.unlink()


@contextmanager
def apt(suite: str, architecture: str = "arm64") -> Iterator[Apt]:
    """The packages of a release as they are now, for the time of one build."""
    with tempfile.TemporaryDirectory(prefix="guestpv-apt-") as directory:
        yield Apt(Path(directory), suite, architecture)
