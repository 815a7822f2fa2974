# SPDX-License-Identifier: MIT
"""A VM that was forked, and is told so: the device that tells it (vmgenid) is stood in for.

Behind it is the kernel's own notifier, and all that listens to that.
"""

import base64
from pathlib import Path

from pvlab import Lab, kmod
from pvlab.kernels import kernel

VMFORK = Path(__file__).parent / "vmfork"


def bring(lab: Lab, running: str) -> None:
    """Have the stand-in in the guest, which runs this kernel: one that vmgenid has a driver in."""
    sources = [VMFORK / "Kbuild", VMFORK / "vmfork.c"]
    module = kmod.build_from(VMFORK, sources, "vmfork", kernel(running)).module
    sent = base64.b64encode(module.read_bytes()).decode()
    lab.run(["sh", "-c", "base64 -d > /tmp/vmfork.ko"], input=sent).check_returncode()


def tell(lab: Lab) -> None:
    lab.run(["sh", "-c", "insmod /tmp/vmfork.ko && rmmod vmfork"]).check_returncode()
