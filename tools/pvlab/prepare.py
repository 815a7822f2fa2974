# SPDX-License-Identifier: MIT
"""Everything that a run needs, made ready beforehand and side by side."""

from concurrent.futures import ThreadPoolExecutor

from . import process
from .image import root_image
from .initrd import initrd
from .kernels import Kernel
from .payload import payload


def prepare(*kernels: Kernel) -> None:
    """Build what is missing for machines with these kernels."""
    with ThreadPoolExecutor() as pool:
        parts = [pool.submit(root_image)]
        for kernel in dict.fromkeys(kernels):
            parts += [pool.submit(payload, kernel), pool.submit(initrd, kernel)]
        try:
            for part in parts:
                part.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            process.end_all()
            raise
