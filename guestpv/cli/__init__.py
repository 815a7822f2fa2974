# SPDX-License-Identifier: MIT
"""The command line: one module per command, and here what is the same for all of them."""

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from inspect import cleandoc
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from guestpv.cli import exitcodes
from guestpv.cli.failure import as_error, tell
from guestpv.errors import Error

_ERRORS = """\
 An error is one line on stderr, 'guestpv: WHAT. WHY: WHAT TO DO.', or with
 --json one object. Wrong usage is explained in several lines.
"""


_HOMES = {
    "info": "info",
    "load": "load",
    "unload": "load",
    "read": "read",
    "watch": "watch",
    "validate": "validate",
    "check": "check",
    "events": "events",
    "run": "run",
    "bench": "bench",
    "jitter": "jitter",
    "exporter": "exporter",
    "sim": "sim",
}


class _Commands(Mapping[str, Any]):
    """The commands by their names. The module of each is imported when the command is wanted."""

    def __getitem__(self, name: str) -> Any:
        module = import_module(f"guestpv.cli.{_HOMES[name]}")
        command = getattr(module, name)
        # Lines are as long as the terminal has it, and not as the source.
        paragraphs = cleandoc(command.__doc__ or "").split("\n\n")
        text = "\n\n".join(paragraph.replace("\n", " ") for paragraph in paragraphs)
        alone = typer.Typer(add_completion=False)
        alone.command(help=text, **getattr(module, "SETTINGS", {}))(command)
        return typer.main.get_command(alone)

    def __iter__(self) -> Iterator[str]:
        return iter(_HOMES)

    def __len__(self) -> int:
        return len(_HOMES)


class _Group(TyperGroup):
    """With the exit codes below its help, as they are: typer would fill lines with an epilog."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = _Commands()  # type: ignore[assignment]  # nobody adds to it

    def format_help(self, ctx: Any, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        codes = "".join(f" {code:>3}  {meaning}\n" for code, meaning in exitcodes.MEANINGS.items())
        formatter.write(
            f" Exit codes, the same for every command but check and run:\n\n{codes}\n{_ERRORS}"
        )


app = typer.Typer(
    name="guestpv",
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # slow to import, and seldom needed

        typer.echo(f"guestpv {version('guestpv')}")
        raise typer.Exit


@app.callback()
def guestpv(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Say which version this is.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Stolen time: what the hypervisor took from each vCPU of this guest, and when."""


def main() -> None:
    """Run the command line; ends the process with one of the documented exit codes."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # it was closed before this process began
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - it stays open
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # no report ends at what a terminal can't show
    # A reader that had enough (`guestpv watch | head`) ends this process as it ends any filter.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # while all this was imported
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        try:
            app(prog_name="guestpv")
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:  # before click has anything to do with it
        sys.exit(exitcodes.INTERRUPTED)
    except Exception as error:
        if not isinstance(error, Error) and os.environ.get("GUESTPV_DEBUG"):
            raise
        said = as_error(error)
        tell(said)
        sys.exit(said.exit_code)
