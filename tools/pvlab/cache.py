# SPDX-License-Identifier: MIT
"""Where artefacts are kept: each a directory, named by what it is made from, complete or absent."""

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .progress import step

UNUSED_AFTER_S = 24 * 3600
PARTIAL = ".partial"
CHECKOUT = Path(__file__).resolve().parents[2]


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


def artefact(name: str, inputs: Sequence[str | Path], build: Callable[[Path], None]) -> Path:
    """The directory that `build` fills, built unless it is there already.

    It appears under its name only when it is complete. Whoever else wants the same one
    meanwhile waits for it; what an interrupted build left is removed by the next.
    """
    complete = cache_dir() / f"{name}-{digest(*inputs)}"
    if _is_there(complete):
        return complete
    with _locked(complete):
        if _is_there(complete):
            return complete
        partial = complete.with_name(complete.name + PARTIAL)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            with step(f"building {name}"):
                build(partial)
            partial.rename(complete)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    _remove_unused(name, complete)
    return complete


def final(path: Path) -> Path:
    """What will be the path of something in an artefact when the artefact is complete."""
    return Path(*(part.removesuffix(PARTIAL) for part in path.parts))


def _is_there(complete: Path) -> bool:
    """Whether an artefact is there; if so, note that it was used just now."""
    try:
        os.utime(complete)
    except FileNotFoundError:
        return False
    return True


def _remove_unused(name: str, successor: Path) -> None:
    """Remove what an artefact of this name was in earlier days, so that the cache does not grow."""
    for other in cache_dir().glob(f"{name}-{'[0-9a-f]' * 16}"):
        if other != successor and time.time() - other.stat().st_mtime > UNUSED_AFTER_S:
            shutil.rmtree(other, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f".{path.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
