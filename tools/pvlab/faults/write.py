# SPDX-License-Identifier: MIT
"""Runs on the host: writes into a guest's memory until it is ended, then puts back what was there.

Arguments: the file of the memory, the address in it, how many bytes may change, and the program.
That uses `write(offset, content)` and `read(offset, size)`, and goes on for ever.
"""

import os
import signal
import sys


def main(path: str, address: int, size: int, program: str) -> None:
    memory = os.open(path, os.O_RDWR)

    def read(offset: int, size: int) -> bytes:
        return os.pread(memory, size, address + offset)

    def write(offset: int, content: bytes) -> None:
        os.pwrite(memory, content, address + offset)

    before = read(0, size)
    code = compile(program, "<program>", "exec")
    if child := os.fork():
        print(child)
        return

    # ssh's connection ends when the last writer of the command's output is gone.
    for stream in range(3):
        os.dup2(os.open(os.devnull, os.O_RDWR), stream)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        exec(code, {"read": read, "write": write})
    finally:
        write(0, before)


main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
