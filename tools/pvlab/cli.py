# SPDX-License-Identifier: MIT
"""The command line: ./tools/lab."""

import subprocess
import sys
from typing import Annotated

import typer

from . import kernels
from .errors import LabError
from .lab import Lab
from .progress import say

app = typer.Typer(
    name="lab",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A real KVM/arm64 host and a guest in it, on any machine.",
)


@app.command(context_settings={"ignore_unknown_options": True})
def run(
    command: Annotated[list[str], typer.Argument(help="What to run in the guest.")],
    kernel: Annotated[
        str, typer.Option(help="The guest's kernel; see `lab kernels`.")
    ] = "stock-6.1",
    vcpus: Annotated[int, typer.Option(min=1, help="How many vCPUs the guest has.")] = 2,
) -> None:
    """Run a command in a guest, and end with its exit code."""
    pty = sys.stdin.isatty() and sys.stdout.isatty()
    with Lab(kernel=kernel, vcpus=vcpus) as lab:
        code = subprocess.run(lab.argv(command, pty=pty)).returncode
    raise typer.Exit(code)


@app.command("kernels")
def list_kernels() -> None:
    """List the kernels that there are."""
    for kernel in kernels.KERNELS.values():
        typer.echo(f"{kernel.name:12} {kernel.what}")


def main() -> None:
    try:
        app()
    except LabError as error:
        say(str(error))
        sys.exit(125)
