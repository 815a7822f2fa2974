# SPDX-License-Identifier: MIT
"""guestpv read: one snapshot of every vCPU."""

import numpy as np

from guestpv.cli.columns import SIMULATED, began_anew, objection, seconds
from guestpv.cli.options import CpuOption, JsonOption, SourceOption
from guestpv.cli.records import cpu_record, instance_record, source_record, write
from guestpv.cli.source import open_source
from guestpv.page.abi import Origin, Reason, State
from guestpv.page.names import name_of
from guestpv.source.procstat import Accounts, accounts, no_accounts
from guestpv.source.reader import Snapshot, Source


def read(
    source: SourceOption = "auto",
    cpu: CpuOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show each vCPU's stolen time, once.

    The count is the hypervisor's, in nanoseconds since the vCPU came online. KERNEL is what the
    kernel made of it, in ticks of 10 ms. If no vCPU that was asked for has a count, the exit code
    is 7.
    """
    with open_source(source) as reader:
        cpus = cpu.choose(reader.cpus) if cpu else reader.cpus
        chosen = np.isin(reader.cpus, cpus)
        rows = reader.snapshot()[chosen]
        kernel = no_accounts(cpus) if reader.source.kind == "image" else accounts(cpus)
        if as_json:
            _write_record(reader.source, rows, kernel)
        else:
            _print_table(reader.source, rows, kernel)
        if not rows["valid"].any():
            reader.read(cpus[0])  # raises what is wrong with it


def _write_record(source: Source, rows: Snapshot, kernel: Accounts) -> None:
    steals = [int(account["steal_ns"]) if account["steal_known"] else None for account in kernel]
    write(
        "guestpv.read/1",
        {
            "source": source_record(source),
            "instance": instance_record(int(rows["instance"][0])),
            "monotonic_ns": int(rows["monotonic_ns"][0]),
            "cpus": [
                cpu_record(row) | {"procstat_steal_ns": steal_ns}
                for row, steal_ns in zip(rows, steals, strict=True)
            ],
            "total": _total(rows, kernel),
        },
    )


def _total(rows: Snapshot, kernel: Accounts) -> dict[str, int | None]:
    """The sums of what is known, and None where nothing is."""
    counts = rows["stolen_ns"][rows["valid"]].tolist()  # NumPy's sum would end at 64 bits
    steals = kernel["steal_ns"][kernel["steal_known"]].tolist()
    return {
        "stolen_ns": sum(counts) if counts else None,
        "procstat_steal_ns": sum(steals) if steals else None,
    }


def _epoch(row: np.void) -> str:
    """With why it began, if that says anything."""
    if not began_anew(row):
        return str(row["epoch"])
    return f"{row['epoch']} {name_of(Reason, row['reason']).replace('_', ' ')}"


def _print_table(source: Source, rows: Snapshot, kernel: Accounts) -> None:
    from rich.console import Console  # takes long to import, and --json does without
    from rich.table import Table

    total = _total(rows, kernel)
    table = Table(
        box=None,
        show_footer=len(rows) > 1,
        title=f"{f'{SIMULATED} stolen' if source.simulated else 'Stolen'} time from {source.path}",
        title_justify="left",
    )
    table.add_column("CPU", "all", justify="right")
    table.add_column("STATE")
    table.add_column("STOLEN s", seconds(total["stolen_ns"], 9), justify="right")
    table.add_column("KERNEL s", seconds(total["procstat_steal_ns"], 2), justify="right")
    table.add_column("EPOCH")
    table.add_column("ORIGIN")
    for row, account in zip(rows, kernel, strict=True):
        table.add_row(
            str(row["cpu"]),
            name_of(State, row["state"]),
            seconds(row["stolen_ns"] if row["valid"] else None, 9),
            seconds(account["steal_ns"] if account["steal_known"] else None, 2),
            _epoch(row),
            objection(row) or name_of(Origin, row["origin"]),
        )
    Console(markup=False, emoji=False).print(table)
