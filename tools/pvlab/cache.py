# SPDX-License-Identifier: MIT
"""Where artefacts are kept: each a directory, named by what it is made from, complete or absent."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .progress import step

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
                total.update(str(path.relative_to(item)).encode() + b"\0" + path.read_bytes())
    return total.hexdigest()[:16]


def artefact(name: str, inputs: list[str | Path], build: Callable[[Path], None]) -> Path:
    """The directory that `build` fills, built unless it is there already.

    It appears under its name only when it is complete. Whoever else wants the same one
    meanwhile waits for it; what an interrupted build left is removed by the next.
    """
    final = cache_dir() / f"{name}-{digest(*inputs)}"
    if final.exists():
        return final
    with _locked(final):
        if final.exists():
            return final
        partial = final.with_name(f"{final.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            with step(f"building {name}"):
                build(partial)
            partial.rename(final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return final


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f"{path.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
