# SPDX-License-Identifier: MIT
"""The command line: one module per command, and here what is the same for all of them."""

import json
import os
import signal
import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from guestpv.cli.check import CheckCommand, check
from guestpv.cli.exporter import exporter
from guestpv.cli.info import info
from guestpv.cli.load import load, unload
from guestpv.cli.read import read
from guestpv.cli.sim import sim
from guestpv.cli.validate import validate
from guestpv.cli.watch import watch
from guestpv.errors import Error

_EXIT_CODES = {
    0: "done",
    1: "unexpected error, or the output could not be written",
    2: "wrong usage, or a record or event that does not fit this guest",
    3: "nothing to read from",
    4: "not permitted",
    5: "device or page image of another format or version, or cut short",
    6: "no such CPU",
    7: "no structure, or one that must not be interpreted",
    8: "busy",
    9: "the module could not be loaded or unloaded",
    10: "no PV-time on this machine",
    11: "a check of validate failed",
    130: "validate was interrupted, after what it had changed was undone",
}
_ERRORS = """\
 An error is one line on stderr, 'guestpv: WHAT. WHY: WHAT TO DO.', or with
 --json one object. Wrong usage is explained in several lines.
"""


class _Group(TyperGroup):
    """With the exit codes below its help, as they are: typer would fill lines with an epilog."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        codes = "".join(f" {code:>3}  {meaning}\n" for code, meaning in _EXIT_CODES.items())
        formatter.write(f" Exit codes, the same for every command but check:\n\n{codes}\n{_ERRORS}")


app = typer.Typer(
    name="guestpv",
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(info)
app.command()(load)
app.command()(unload)
app.command()(read)
app.command()(watch)
app.command()(validate)
app.command(cls=CheckCommand)(check)
app.command()(exporter)
app.command()(sim)


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
    # A reader that had enough (`guestpv watch | head`) ends this process as it ends any filter.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except Error as error:
        _fail(error)
    except Exception as error:
        if os.environ.get("GUESTPV_DEBUG"):
            raise
        _fail(_unexpected(error))


def _unexpected(error: Exception) -> Error:
    if isinstance(error, OSError) and error.strerror:
        return Error(f"{error.filename or 'output'}: input or output failed", error.strerror)
    return Error(
        f"Unexpected {type(error).__name__}: {error}",
        "This is a mistake in guestpv",
        "please report it with what GUESTPV_DEBUG=1 in the environment shows",
    )


def _fail(error: Error) -> NoReturn:
    # What is still in stdout's buffer can't be written if that is what failed; don't try again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if "--json" in sys.argv:
        print(
            json.dumps(
                {
                    "schema": "guestpv.error/1",
                    "exit_code": error.exit_code,
                    "what": error.what,
                    "why": error.why,
                    "fix": error.fix,
                }
            ),
            file=sys.stderr,
        )
    else:
        print(f"guestpv: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
