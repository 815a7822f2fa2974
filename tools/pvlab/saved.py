# SPDX-License-Identifier: MIT
"""Machines as they were, in the cache, and how a run goes on from there.

A host with its running guest inside is saved whole: the host's memory as a file with holes, and
the state of its devices as QEMU migrates it. To go on, QEMU maps that file privately: each run
writes to pages of its own, and nobody to the file. Two kinds are kept:

- `booted`: the guest has booted, and has nothing of the project yet;
- `ready`: it has the project as it stands in the checkout, the module if it is to be loaded, and
  what a command of the run's has prepared.
  It is made from `booted` when something of the project has changed, without a new boot.

What is saved holds no key, nor anything else that is one run's: no run was let in yet.
"""

import hashlib
import json
import mmap
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from . import migration
from .cache import artefact, cache_dir, found
from .errors import LabError
from .machine import Memory
from .machines import Furnishing, Machines
from .progress import say

_HERE = Path(__file__).parent
RECIPE = [_HERE / f"{name}.py" for name in ("console", "machine", "machines", "migration", "saved")]
BLOCK = 1 << 16
_ZEROS = bytes(BLOCK)


class Saved:
    """What is saved, or will be, of machines like these."""

    def __init__(self, machines: Machines, furnishing: Furnishing) -> None:
        self.furnishing = furnishing
        self._is_possible = machines.are_emulated
        spec, description = machines.spec, _description(machines)
        self._booted = _Entry(f"booted-{spec.kernel}", [description, *RECIPE], str(spec))
        self._ready = _Entry(
            f"ready-{spec.kernel}",
            [description, *RECIPE, machines.payload.parent.name, str(furnishing)],
            f"{spec}{furnishing}",
        )

    def booted(self) -> Path | None:
        return found(self._booted.name, self._booted.inputs)

    def ready(self) -> Path | None:
        return found(self._ready.name, self._ready.inputs)

    def save_booted(self, machines: Machines) -> None:
        if self._is_possible:
            _save(machines, self._booted)

    def save_ready(self, machines: Machines) -> None:
        if self._is_possible:
            _save(machines, self._ready)


@dataclass(frozen=True, slots=True)
class _Entry:
    """Where in the cache: see artefact."""

    name: str
    inputs: list[str | Path]
    what: str


def _description(machines: Machines) -> str:
    """All that the machines are, but for where the files are and what of the project they get."""
    lines = [shlex.join(machine.description()) for machine in machines.all]
    text = "\n".join([qemu_version(), *lines])
    for own in str(machines.payload), str(machines.run.directory), str(cache_dir()):
        text = text.replace(own, "")
    return text


@cache
def qemu_version() -> str:
    done = subprocess.run(["qemu-system-aarch64", "--version"], capture_output=True, text=True)
    return done.stdout


def _save(machines: Machines, entry: _Entry) -> None:
    """Save the machines as they are now; they go on after it. That it fails is no misfortune."""
    outermost = machines.all[0]

    def build(directory: Path) -> None:
        try:
            migration.save(outermost, directory / "state")
            _copy(outermost.memory, directory / "memory", outermost.memory_mb << 20)
            for machine in machines.all:
                shutil.copy(machine.console.log, directory)
            sums = {part: _sum(directory / part) for part in ("state", "memory")}
            (directory / "sums.json").write_text(json.dumps(sums))
        finally:
            outermost.qmp("cont")

    try:
        artefact(entry.name, entry.inputs, build, what=entry.what, doing="saving it for later runs")
    except (OSError, LabError) as error:
        say(f"{error}\nlab: what was booted could not be saved, and goes on")


def restore(machines: Machines, directory: Path, *, to_be_saved: bool = False) -> Future[None]:
    """Have the machines go on from what was saved. They run, and have not been let in, after it.

    to_be_saved: whether they will be saved again
    Returns what raises LabError if the files are not what was saved; it is known a little later.
    """
    outermost = machines.all[0]
    try:
        sums = json.loads((directory / "sums.json").read_text())
        sizes = {part: int(sums[part][0]) for part in ("state", "memory")}
        for part, size in sizes.items():
            if (directory / part).stat().st_size != size:
                raise LabError(f"{directory / part} is not as long as it was when it was saved")
        for machine in machines.all:
            machine.console.follow(directory / machine.console.log.name)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LabError(f"{directory} is not whole: {error}") from None

    checking = ThreadPoolExecutor(1)
    checked = checking.submit(_check, directory, sums)
    checking.shutdown(wait=False)
    memory = Memory(directory / "memory", shared=False)
    if to_be_saved:
        memory = Memory(machines.run.memory(outermost.name))
        _copy(directory / "memory", memory.path, outermost.memory_mb << 20)
    outermost.resume(directory / "state", memory)
    for machine in machines.all[1:]:
        outermost.wake()
        outermost.open_ports()
        machine.goes_on()
    return checked


def _check(directory: Path, sums: dict[str, list[object]]) -> None:
    for part in "state", "memory":
        if _sum(directory / part) != sums[part]:
            raise LabError(f"{directory / part} is not what was saved: it was damaged since")


def _sum(path: Path) -> list[object]:
    """The size of a file, and a sum over what is not zero in it, wherever its holes are."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as content:
            for start, end in _data(file.fileno(), size):
                for at in range(start, end, BLOCK):
                    block = content[at : min(at + BLOCK, size)]
                    if block != _ZEROS[: len(block)]:
                        total.update(at.to_bytes(8, "little"))
                        total.update(block)
    return [size, total.hexdigest()]


def _copy(source: Path, target: Path, size: int) -> None:
    """Copy a file of that size, but for what is zero."""
    with source.open("rb") as old, target.open("r+b" if target.exists() else "xb") as new:
        new.truncate(size)
        with mmap.mmap(old.fileno(), 0, prot=mmap.PROT_READ) as content:
            for start, end in _data(old.fileno(), size):
                for at in range(start, end, BLOCK):
                    block = content[at : at + BLOCK]
                    if block != _ZEROS[: len(block)]:
                        os.pwrite(new.fileno(), block, at)


def _data(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Where a file has data, from multiples of BLOCK on."""
    end = 0
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError:  # there is none any more
            return
        end = -(-os.lseek(descriptor, start, os.SEEK_HOLE) // BLOCK) * BLOCK
        yield start // BLOCK * BLOCK, min(end, size)
