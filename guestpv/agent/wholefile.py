# SPDX-License-Identifier: MIT
"""A file that is all of its old content or all of its new, whenever it is looked at."""

import os
from contextlib import suppress
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Put *content* in the place of *path*, for everybody to read. Raises OSError if that can't be:
    the file is then what it was.

    It is written beside *path* first, as NAME.new. What else has that name is removed, and neither
    followed as a link nor waited for as a pipe.
    """
    new = path.with_name(f"{path.name}.new")
    try:
        new.unlink(missing_ok=True)
        with new.open("xb") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(content)
        new.replace(path)
    except OSError:
        with suppress(OSError):
            new.unlink()
        raise
