# SPDX-License-Identifier: MIT
"""What every machine of the lab is made of, whoever emulates or virtualizes it."""

from dataclasses import dataclass
from pathlib import Path

from .initrd import initrd
from .kernels import Kernel
from .payload import payload


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine, as the arguments of the QEMU that runs it."""

    name: str
    kernel: Kernel
    root: str  # the root image, or the disk that holds it
    console: Path
    key: str
    cpus: int
    memory: str
    forwards: tuple[str, ...]  # of TCP ports, as QEMU's hostfwd

    def arguments(self) -> list[str]:
        command_line = (
            f"console=ttyAMA0 panic=-1 loglevel=4 lab.name={self.name} lab.key={self.key}"
        )
        return [
            *("-nodefaults", "-display", "none", "-no-reboot"),
            *("-smp", str(self.cpus), "-m", self.memory),
            *("-kernel", str(self.kernel.directory() / "Image")),
            *("-initrd", str(initrd(self.kernel))),
            *("-append", command_line),
            *("-chardev", f"file,id=console,path={self.console}", "-serial", "chardev:console"),
            *("-device", "virtio-rng-device"),
            *("-netdev", ",".join(("user,id=net,restrict=on", *self.forwards))),
            *("-device", "virtio-net-device,netdev=net"),
            *_disk("root", self.root),
            *_disk("payload", str(payload(self.kernel))),
        ]


def _disk(serial: str, path: str) -> list[str]:
    options = f"if=none,id={serial},format=raw,readonly=on,file.locking=off,file={path}"
    return ["-drive", options, "-device", f"virtio-blk-device,drive={serial},serial={serial}"]
