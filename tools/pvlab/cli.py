# SPDX-License-Identifier: MIT
"""The command line: ./tools/lab."""

import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from .cache import cache_dir, kept, size_of
from .errors import LabError
from .hypervisor import HYPERVISORS
from .kernels import KERNELS, kernel
from .lab import Lab
from .picture import draw
from .prepare import prepare
from .progress import say

# As timeout(1) and env(1) end, so that a script can tell the lab's troubles from the command's.
TIMED_OUT, LAB_FAILED = 124, 125

app = typer.Typer(
    name="lab",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A real KVM/arm64 host and a guest in it, on any machine.",
)

KernelOption = Annotated[
    str, typer.Option("--kernel", "-k", help="The guest's kernel; 'lab kernels' lists them.")
]
VcpusOption = Annotated[int, typer.Option(min=1, max=64, help="How many vCPUs the guest has.")]
StealOption = Annotated[
    int,
    typer.Option(min=0, max=90, help="Percentage of a busy vCPU's time that the host takes away."),
]
StealAfterOption = Annotated[
    float, typer.Option(min=0, help="Seconds after which the host begins to take it.")
]
HypervisorOption = Annotated[
    str, typer.Option(help=f"What serves the guest: {' or '.join(HYPERVISORS)} (plain emulation).")
]
StealTimeOption = Annotated[
    bool, typer.Option("--steal-time/--no-steal-time", help="Whether PV-time is offered.")
]

LoadOption = Annotated[bool, typer.Option("--load", help="Load the kernel module first.")]
AppendOption = Annotated[
    str, typer.Option(metavar="WORDS", help="More for the guest's kernel command line.")
]
HostKernelOption = Annotated[
    str,
    typer.Option(
        help=f"The host's kernel: {', '.join(k.name for k in KERNELS.values() if k.hosts)}."
    ),
]
IcountOption = Annotated[
    bool,
    typer.Option(
        "--icount", help="A host of one CPU, whose time is that of the instructions it executes."
    ),
]
BootOption = Annotated[
    bool, typer.Option("--boot", help="Boot, even where a saved machine would serve.")
]


@app.command(context_settings={"allow_interspersed_args": False})
def run(
    command: Annotated[list[str], typer.Argument(help="What to run in the guest, after '--'.")],
    kernel_name: KernelOption = "stock-6.1",
    vcpus: VcpusOption = 2,
    steal: StealOption = 0,
    steal_after: StealAfterOption = 0,
    hypervisor: HypervisorOption = "kvm",
    steal_time: StealTimeOption = True,
    load: LoadOption = False,
    append: AppendOption = "",
    host_kernel: HostKernelOption = "stock-6.1",
    icount: IcountOption = False,
    boot: BootOption = False,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="Seconds after which the command is given up.")
    ] = None,
) -> None:
    """Run a command in a guest, and end with its exit code.

    124 means that it was given up after --timeout, 125 that the lab itself failed.
    """
    pty = sys.stdin.isatty() and sys.stdout.isatty()
    with Lab(
        kernel=kernel_name,
        vcpus=vcpus,
        steal=steal,
        steal_after_s=steal_after,
        hypervisor=hypervisor,
        steal_time=steal_time,
        load=load,
        append=append,
        host_kernel=host_kernel,
        icount=icount,
        boot=boot,
    ) as lab:
        try:
            with terminal_as_it_is() if pty else nullcontext():
                code = subprocess.run(lab.guest.argv(command, pty=pty), timeout=timeout).returncode
        except subprocess.TimeoutExpired:
            say(str(lab.guest.failure(f"the command did not end within {timeout:g} s")))
            raise typer.Exit(TIMED_OUT) from None
        if code == 255:
            lab.guest.check()
    raise typer.Exit(code)


@app.command()
def shell(
    kernel_name: KernelOption = "stock-6.1",
    vcpus: VcpusOption = 2,
    steal: StealOption = 0,
    steal_after: StealAfterOption = 0,
    hypervisor: HypervisorOption = "kvm",
    steal_time: StealTimeOption = True,
    load: LoadOption = False,
    append: AppendOption = "",
    host_kernel: HostKernelOption = "stock-6.1",
    icount: IcountOption = False,
    boot: BootOption = False,
) -> None:
    """Open a shell in a guest."""
    run(
        ["bash", "-l"],
        kernel_name,
        vcpus,
        steal,
        steal_after,
        hypervisor,
        steal_time,
        load,
        append,
        host_kernel,
        icount,
        boot,
    )


@app.command()
def picture(
    path: Annotated[Path, typer.Argument(help="The SVG file to write.")],
) -> None:
    """Draw the README's picture: the screen of 'guestpv watch' in a guest, at its end."""
    draw(path)


@app.command()
def build(
    kernels: Annotated[
        list[str] | None, typer.Argument(help="Kernels; all that there are if none is named.")
    ] = None,
) -> None:
    """Build ahead of time what runs need."""
    prepare(*(kernel(name) for name in kernels or KERNELS), hosts=[kernel("stock-6.1")])


@app.command("kernels")
def list_kernels() -> None:
    """List the kernels that there are."""
    width = max(map(len, KERNELS))
    for each in KERNELS.values():
        typer.echo(f"{each.name:{width}} {each.what}{'' if each.bootable else ' (not to boot)'}")


@app.command()
def status() -> None:
    """Show what is in the cache: what for, how large, when it was used last, by how many checkouts.

    What no checkout uses any more is stale: 'lab clean --stale' removes it.
    """
    table = Table("ARTEFACT", "WHAT FOR", "SIZE", "LAST USED", "CHECKOUTS", box=None)
    total = 0
    for entry in kept():
        try:
            last_used = entry.last_used
        except FileNotFoundError:  # it was removed just now, by other hands
            continue
        total += entry.size
        table.add_row(
            entry.path.name,
            entry.what,
            f"{entry.size / 1e6:,.0f} MB",
            ago(time.time() - last_used),
            "stale" if entry.is_stale else str(len(entry.checkouts)),
        )
    # What it is for has words for a kernel in it, which may look like markup.
    console = Console(width=None if sys.stdout.isatty() else 160, markup=False)
    console.print(table)
    console.print(f"{total / 1e9:.1f} GB in {cache_dir()}")


@app.command()
def clean(
    stale: Annotated[
        bool, typer.Option("--stale", help="Only what no checkout has a use for any more.")
    ] = False,
) -> None:
    """Remove the cache with all that was built, but for what is in use."""
    cache = cache_dir()
    total = size_of(cache)
    entries = [(entry, entry.size) for entry in kept() if entry.is_stale or not stale]
    freed = [size for entry, size in entries if entry.remove()]
    left = len(entries) - len(freed)
    if stale or left:
        say(f"removed {len(freed)} artefacts: {sum(freed) / 1e6:.0f} MB; {left} are in use")
        return
    shutil.rmtree(cache, ignore_errors=True)
    say(f"removed {cache}: {total / 1e6:.0f} MB")


@contextmanager
def terminal_as_it_is() -> Iterator[None]:
    """Its modes are put back: ssh does that when it ends, and can't when it is killed."""
    modes = termios.tcgetattr(sys.stdin)
    try:
        yield
    finally:
        with suppress(termios.error):  # it is gone
            termios.tcsetattr(sys.stdin, termios.TCSANOW, modes)


def ago(seconds: float) -> str:
    """How long it has been, in the largest unit of which there is one."""
    for unit, name in (86400, "d"), (3600, "h"), (60, "min"):
        if seconds >= unit:
            return f"{seconds / unit:.0f} {name}"
    return "now"


def main() -> None:
    """Run a command; whichever way it is ended, nothing of it stays."""
    ways = signal.SIGINT, signal.SIGTERM, signal.SIGHUP

    def end(number: int, _: object) -> NoReturn:
        for way in ways:  # or another one, as of a terminal that is closed, would cut it short
            signal.signal(way, signal.SIG_IGN)
        say(f"ended by {signal.Signals(number).name}")
        sys.exit(128 + number)

    for way in ways:
        signal.signal(way, end)
    try:
        app(prog_name="lab")
    except (LabError, OSError) as error:
        say(str(error))
        sys.exit(LAB_FAILED)
