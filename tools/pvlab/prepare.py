# SPDX-License-Identifier: MIT
"""Everything that a run needs, made ready beforehand and side by side."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import process
from .equipment import equipment
from .image import root_image
from .initrd import initrd
from .kernels import Kernel
from .payload import payload


def _prepare_kernel(kernel: Kernel) -> Path:
    if not kernel.bootable:
        return kernel.directory()
    initrd(kernel)
    return payload(kernel)


def _prepare_host(kernel: Kernel) -> Path:
    initrd(kernel)
    return equipment(kernel)


def prepare(*kernels: Kernel, hosts: Sequence[Kernel]) -> None:
    """Build what is missing of all that guests with these kernels need, on hosts with those."""
    with ThreadPoolExecutor() as pool:
        parts = [pool.submit(root_image)]
        parts += [pool.submit(_prepare_host, kernel) for kernel in hosts]
        parts += [pool.submit(_prepare_kernel, kernel) for kernel in dict.fromkeys(kernels)]
        try:
            for part in parts:
                part.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            # Again, since a build whose step was ended makes way for one that waited for it.
            while not all(part.done() for part in parts):
                process.end_all()
                time.sleep(0.1)
            raise
