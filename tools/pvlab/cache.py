# SPDX-License-Identifier: MIT
"""Where artefacts are kept: each a directory, named by what it is made from, complete or absent.

Beside what it holds, each knows what it is for and which checkouts use it. When one takes the place
of another that no checkout has a use for any more, that one goes.
"""

import fcntl
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from .progress import step

PARTIAL = ".partial"
ABOUT = "about.json"
CHECKOUT = Path(__file__).resolve().parents[2]

_held: dict[Path, IO[str]] = {}
"""Locks on what this process uses: nobody removes it meanwhile."""


def cache_dir() -> Path:
    """The cache; the commands in tools/ pass on which."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "guestpv"
    return Path(os.environ.get("GUESTPV_CACHE", default)).absolute()


def digest(*inputs: str | Path) -> str:
    """A short name for these inputs: strings, files, and directories with all that is in them."""
    total = hashlib.sha256()
    for item in inputs:
        if isinstance(item, str):
            total.update(item.encode() + b"\0")
            continue
        for path in sorted(item.rglob("*")) if item.is_dir() else [item]:
            if path.is_file() and "__pycache__" not in path.parts:
                total.update(f"{item.name}/{path.relative_to(item)}".encode() + b"\0")
                total.update(path.read_bytes())
    return total.hexdigest()[:16]


def artefact(
    name: str,
    inputs: Sequence[str | Path],
    build: Callable[[Path], None],
    *,
    what: str = "",
    doing: str = "",
    is_bound: bool = False,
) -> Path:
    """The directory that `build` fills, built unless it is there already.

    It appears under its name only when it is complete. Whoever else wants the same one
    meanwhile waits for it; what an interrupted build left is removed by the next.

    what: what it is for, where that is not all in the name; it takes the place of those alike
    doing: what is said while it is built
    is_bound: whether it is of no use at another place, in a cache that was copied
    """
    complete = found(name, inputs)
    if complete and is_bound and Kept(complete).made_at != str(complete):
        Kept(complete).discard()
    elif complete:
        return complete
    complete = cache_dir() / f"{name}-{digest(*inputs)}"
    with _to_be_built(complete) as is_ours:
        if is_ours:
            partial = complete.with_name(complete.name + PARTIAL)
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            try:
                with step(doing or f"building {name}"):
                    build(partial)
                about = {"what": what, "checkouts": [str(CHECKOUT)], "made_at": str(complete)}
                (partial / ABOUT).write_text(json.dumps(about))
                partial.rename(complete)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    _hold(complete)
    for other in kept():
        if (other.name, other.what) == (name, what) and other.path != complete:
            other.give_up()
    return complete


def found(name: str, inputs: Sequence[str | Path]) -> Path | None:
    """An artefact that is there, and now is in use until this process ends."""
    complete = cache_dir() / f"{name}-{digest(*inputs)}"
    if complete not in _held:
        if not complete.exists():
            return None
        _hold(complete)
    try:
        os.utime(complete)
        Kept(complete).take()
    except OSError:  # it was removed just now, by other hands
        _held.pop(complete).close()
        return None
    return complete


def final(path: Path) -> Path:
    """What will be the path of something in an artefact when the artefact is complete."""
    return Path(*(part.removesuffix(PARTIAL) for part in path.parts))


@dataclass(frozen=True, slots=True)
class Kept:
    """An artefact in the cache, whoever made it."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name.rpartition("-")[0]

    @property
    def what(self) -> str:
        return str(self._about().get("what", ""))

    @property
    def checkouts(self) -> list[str]:
        """Those that used it and are still there."""
        paths = self._about().get("checkouts")
        return (
            [str(path) for path in paths if Path(path).exists()] if isinstance(paths, list) else []
        )

    @property
    def made_at(self) -> str:
        """Where it was when it was made."""
        return str(self._about().get("made_at", ""))

    @property
    def last_used(self) -> float:
        return self.path.stat().st_mtime

    @property
    def size(self) -> int:
        """How many bytes of the disk it takes."""
        return size_of(self.path)

    @property
    def is_stale(self) -> bool:
        """Whether no checkout that is there can use it: not even this one."""
        return self.path.name.endswith(PARTIAL) or not self.checkouts

    def take(self) -> None:
        """Note that this checkout uses it."""
        if str(CHECKOUT) not in self.checkouts:
            self._write([*self.checkouts, str(CHECKOUT)])

    def give_up(self) -> None:
        """Note that this checkout has no more use for it; it goes unless another has."""
        others = [path for path in self.checkouts if path != str(CHECKOUT)]
        if others:
            with suppress(FileNotFoundError):  # it was removed just now, by other hands
                self._write(others)
        else:
            self.remove()

    def discard(self) -> None:
        """Remove it though this process uses it, unless another does."""
        if lock := _held.pop(self.path, None):
            lock.close()
        self.remove()

    def remove(self) -> bool:
        """Remove it, unless it is in use; return whether it is gone."""
        if self.path in _held:
            return False
        lock = _lock_of(self.path)
        with lock.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            shutil.rmtree(self.path, ignore_errors=True)
            lock.unlink(missing_ok=True)
        return True

    def _about(self) -> dict[str, object]:
        try:
            about = json.loads((self.path / ABOUT).read_text())
        except (OSError, ValueError):
            return {}
        return about if isinstance(about, dict) else {}

    def _write(self, checkouts: list[str]) -> None:
        about = {**self._about(), "checkouts": checkouts}
        new = self.path / f"{ABOUT}.{threading.get_native_id()}"  # other threads write it, too
        used = self.path.stat()
        new.write_text(json.dumps(about))
        new.rename(self.path / ABOUT)
        os.utime(self.path, ns=(used.st_atime_ns, used.st_mtime_ns))


def kept() -> list[Kept]:
    """All artefacts, and what is left of some that were not completed."""
    directories = (path for path in cache_dir().glob("*") if path.is_dir())
    return [Kept(path) for path in sorted(directories) if not path.name.startswith("venv-")]


def size_of(directory: Path) -> int:
    total = 0
    for path in directory.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.lstat().st_blocks * 512
    return total


def _hold(path: Path) -> None:
    if path not in _held:
        lock = _lock_of(path).open("w")
        fcntl.flock(lock, fcntl.LOCK_SH)
        _held[path] = lock


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{final(path).name}.lock")


@contextmanager
def _to_be_built(path: Path) -> Iterator[bool]:
    """Wait until nobody else builds it; whether it is not there yet, and so ours to build.

    Not for the lock as such: whoever has built it holds on to it for as long as it is used.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while not path.exists():
        with _lock_of(path).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.1)
                continue
            # Else the lock went with what it was the lock of, or somebody was quicker.
            if os.fstat(lock.fileno()).st_nlink and not path.exists():
                yield True
                return
    yield False
