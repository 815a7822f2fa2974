# SPDX-License-Identifier: MIT
"""Since when a structure has had the revision and attributes that it has."""

import time

import numpy as np


def since_s(entry: np.void) -> float | None:
    """Unix time at which the module first saw them; None if it has not yet, or no longer does.

    The module looks once a second (its parameter check_ms), so it may be that much late.
    """
    if not entry["since_ns"] or not (entry["revision"] or entry["attributes"]):
        return None
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - int(entry["since_ns"]) / 1e9
    return time.time() - age_s


def since_text(entry: np.void) -> str:
    """To be put behind what is unknown; empty if the module has not seen it yet."""
    since = since_s(entry)
    if since is None:
        return ""
    return time.strftime(", since %Y-%m-%d %H:%M:%S", time.localtime(since))
