# SPDX-License-Identifier: MIT
"""A guest's memory as its host sees it, for a host that writes what it should not."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from ..errors import LabError
from ..site import Site

STRUCTURE = 16  # revision, attributes, stolen_time; what follows up to 64 bytes is padding

# Programs for `writing`: each is a loop without an end, as fast as Python is.

FLIPPING_REVISION = """
while True:
    write(0, b"\\1\\0\\0\\0")
    write(0, b"\\0\\0\\0\\0")
"""

# The low half first: where it overflows, the count is 2^32 ns too low for a moment. It has to last:
# on this CPU the vCPU that shall see it may be waiting.
TEARING_COUNT = """
import time
count = int.from_bytes(read(8, 8), "little")
while True:
    count += {by_ns}
    low, high = count & 0xFFFF_FFFF, count >> 32
    write(8, low.to_bytes(4, "little"))
    time.sleep(0.001)
    write(12, high.to_bytes(4, "little"))
"""

# From what stands there, since the host goes on counting meanwhile. On the last of its CPUs: where
# this vCPU does not run there, the count goes on while it runs.
CREEPING_COUNT = """
import os
os.sched_setaffinity(0, {{max(os.sched_getaffinity(0))}})
while True:
    write(8, (int.from_bytes(read(8, 8), "little") + {by_ns}).to_bytes(8, "little"))
"""

_READ = """
import sys
with open(sys.argv[1], "rb", 0) as memory:
    memory.seek(int(sys.argv[2]))
    print(memory.read(int(sys.argv[3])).hex())
"""
_WRITE = """
import sys
with open(sys.argv[1], "r+b", 0) as memory:
    memory.seek(int(sys.argv[2]))
    memory.write(bytes.fromhex(sys.argv[3]))
"""
_WRITER = (Path(__file__).parent / "write.py").read_text()
_END = "kill $0 || exit; while kill -0 $0 2>/dev/null; do sleep 0.02; done"


class GuestMemory:
    """The memory of a guest, by the addresses that the guest has for it."""

    def __init__(self, host: Site, qmp: Callable[..., object]) -> None:
        self._host = host
        self._qmp = qmp

    def read(self, ipa: int, size: int) -> bytes:
        return bytes.fromhex(self._python(_READ, *self._place(ipa), str(size)))

    def write(self, ipa: int, content: bytes) -> None:
        self._python(_WRITE, *self._place(ipa), content.hex())

    @contextmanager
    def writing(self, ipa: int, program: str, size: int) -> Iterator[None]:
        """Have a program write at `ipa`; afterwards its first `size` bytes are as before."""
        writer = self._python(_WRITER, *self._place(ipa), str(size), program).strip()
        try:
            yield
        finally:
            if self._host.run(["sh", "-c", _END, writer]).returncode != 0:
                raise LabError("the program that wrote into the guest's memory had ended by itself")

    def _place(self, ipa: int) -> tuple[str, str]:
        """The file that is the memory of the guest's QEMU, and where in it `ipa` is."""
        cpus = cast(list[dict[str, int]], self._qmp("query-cpus-fast"))
        answer = str(self._qmp("human-monitor-command", command_line=f"gpa2hva {ipa:#x}"))
        if " is 0x" not in answer:
            raise LabError(f"the guest has no memory at {ipa:#x}: {answer.strip()}")
        return f"/proc/{cpus[0]['thread-id']}/mem", str(int(answer.split(" is ")[1], 16))

    def _python(self, program: str, *arguments: str) -> str:
        # Isolated and without the site's packages, it starts in half the time.
        done = self._host.run(["python3", "-I", "-S", "-c", program, *arguments])
        if done.returncode != 0:
            raise LabError(f"the guest's memory: {done.stderr.strip()}")
        return done.stdout
