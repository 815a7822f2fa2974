# SPDX-License-Identifier: MIT
"""guestpv load, guestpv unload: the kernel module."""

from pathlib import Path
from typing import Annotated

import typer

from guestpv.cli.options import JsonOption
from guestpv.cli.records import write


def load(
    path: Annotated[
        Path | None,
        typer.Option("--module", metavar="PATH", help="A guestpv.ko to take instead."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Insert the kernel module, so that /dev/guestpv is there. Needs root.

    Takes the module that is installed for this kernel, or builds one from the sources that come
    with guestpv. Where the kernel owns the stolen-time structures (CONFIG_PARAVIRT=y), the module
    adopts them, and nothing is reset: their place is read from the kernel's type information.
    Where nobody owns them, the module claims them.
    """
    from guestpv.driver import module  # takes long to import, and the other commands do without

    loaded = module.load(path, lambda progress: typer.echo(f"guestpv: {progress}", err=True))
    if as_json:
        write(
            "guestpv.load/1",
            {
                "changed": loaded is not None,
                "module": str(loaded.path) if loaded else None,
                "built": loaded.built if loaded else None,
                "adopt_offset": loaded.adopt_offset if loaded else None,
            },
        )
    elif loaded is None:
        print("The module was loaded before; nothing to do.")
    else:
        built = ", which was built for this kernel" if loaded.built else ""
        owner = "nobody owned the structures, so it claimed them"
        if loaded.adopt_offset is not None:
            owner = "it adopted the structures that this kernel owns"
        print(f"Loaded {loaded.path}{built}: {owner}. Try 'guestpv watch'.")


def unload(as_json: JsonOption = False) -> None:
    """Remove the kernel module. Needs root."""
    from guestpv.driver import module

    removed = module.unload()
    if as_json:
        write("guestpv.unload/1", {"changed": removed})
    else:
        print("Unloaded." if removed else "The module is not loaded; nothing to do.")
