# SPDX-License-Identifier: MIT
"""guestpv in a lab's guest, as often as it is asked for, whose imports are made once.

They take an emulated guest some seconds, which tests of many commands have no use for. Each command
is a process of its own all the same: a fork of the one that has imported what they all do, with the
arguments, input and output of who asks for it.
"""

import subprocess

from pvlab import Lab

PLACE = "/run/guestpv-preloaded"
NOBODY = 99
"""How the client ends where no server listens. No command ends like that."""

SERVER = f"""
import os, socket, sys
import rich.console
import guestpv.cli.info, guestpv.cli.load, guestpv.cli.read, guestpv.cli.validation
from guestpv.__main__ import main
server = socket.socket(socket.AF_UNIX)
server.bind({PLACE!r})
server.listen()
while True:
    client, _ = server.accept()
    words, given, _, _ = socket.recv_fds(client, 1 << 16, 3)
    pid = os.fork()
    if not pid:
        for own, file in enumerate(given):
            os.dup2(file, own)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)
        sys.argv = ["guestpv", *words.decode().split(chr(0))]
        main()
    for file in given:
        os.close(file)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    client.send(bytes([code & 255]))
    client.close()
"""
CLIENT = f"""
import socket, sys
server = socket.socket(socket.AF_UNIX)
if server.connect_ex({PLACE!r}):
    sys.exit({NOBODY})
socket.send_fds(server, [chr(0).join(sys.argv[1:]).encode()], [0, 1, 2])
sys.exit(server.recv(1)[0])
"""
START = f"""
setsid python3 -c "$0" </dev/null >/dev/null 2>&1 &
until test -S {PLACE}; do sleep 0.2; done
"""


def guestpv(
    lab: Lab, *arguments: str, input: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command; the first in a guest, or after its reboot, waits for the imports."""
    command = ["python3", "-I", "-S", "-c", CLIENT, *arguments]
    done = lab.run(command, input=input)
    if done.returncode == NOBODY:
        lab.run(["sh", "-c", START, SERVER], timeout=60).check_returncode()
        done = lab.run(command, input=input)
    done.args = ["guestpv", *arguments]
    return done
