# SPDX-License-Identifier: MIT
"""Who reads the counts: from the device, from a page image, or from /proc/stat."""
