# SPDX-License-Identifier: MIT
"""guestpv in a lab's guest, as often as it is asked for, with imports that are made once.

Where it is often asked for, the lab begins with them: `Lab(prepare=START)`.
"""

import shlex
import subprocess

from pvlab import Lab

COMMAND = ("python3", "-I", "-S", "/root/tests/guest/forkserver.py")
"""See tests/guest/forkserver.py."""
GUESTPV = shlex.join([*COMMAND, "guestpv"])
"""For a line of shell."""
START = (*COMMAND, "--start")


def guestpv(
    lab: Lab, *arguments: str, input: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command; the first in a guest may have to wait for the imports."""
    done = lab.run([*COMMAND, "guestpv", *arguments], input=input)
    done.args = ["guestpv", *arguments]
    return done
