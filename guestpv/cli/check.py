# SPDX-License-Identifier: MIT
"""guestpv check: one line and an exit code, as Nagios and whatever imitates it expect them."""

import os
import re
import time
from collections.abc import Sequence
from enum import IntEnum
from typing import Annotated, Any, NoReturn

import numpy as np
import typer
from typer.core import TyperCommand

from guestpv.account.share import Share, Shares
from guestpv.cli.columns import SIMULATED
from guestpv.cli.failure import as_error, tell
from guestpv.cli.options import CpuOption, JsonOption, SourceOption, duration
from guestpv.cli.records import source_record, write
from guestpv.cli.source import open_source
from guestpv.errors import Error
from guestpv.source.reader import Reader

_LOOK_S = 1.0


class Status(IntEnum):
    """The exit codes of monitoring plugins."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


class CheckCommand(TyperCommand):
    """Whatever goes wrong is UNKNOWN, in one line on stdout: 1 and 2 would be verdicts."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        as_json = "--json" in args
        try:
            return super().make_context(info_name, args, parent, **extra)
        except Exception as error:
            if not hasattr(error, "format_message"):  # no usage error: click's own way to exit
                raise
            _unknown(error.format_message(), as_json)

    def invoke(self, ctx: Any) -> Any:
        as_json = bool(ctx.params.get("as_json"))
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            if not isinstance(error, Error) and os.environ.get("GUESTPV_DEBUG"):
                raise
            _unknown(str(as_error(error)), as_json)


def _unknown(text: str, as_json: bool) -> NoReturn:
    try:
        _say(Status.UNKNOWN, text, as_json, {})
    except OSError as error:
        tell(as_error(error))
    raise SystemExit(Status.UNKNOWN)


def _percent(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%?", text)
    if not found or float(found[1]) > 100:
        raise typer.BadParameter(f"{text} is no percentage, as in 5%")
    return float(found[1])


SETTINGS = {"cls": CheckCommand}


def check(
    most: Annotated[
        float,
        typer.Option(
            "--max", metavar="PERCENT", parser=_percent, help="CRITICAL if more is stolen."
        ),
    ],
    warn: Annotated[
        float | None,
        typer.Option(metavar="PERCENT", parser=_percent, help="WARNING if more is stolen."),
    ] = None,
    time_s: Annotated[
        float,
        typer.Option(
            "--for",
            metavar="TIME",
            parser=duration("10ms", "24h"),
            help="How long to watch, as in 60s or 5m.",
        ),
    ] = "5s",  # type: ignore[assignment] # parsed, as what a user gives
    total: Annotated[
        bool, typer.Option("--total", help="Judge all vCPUs together, not the worst of them.")
    ] = False,
    source: SourceOption = "auto",
    cpu: CpuOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say in one line whether too much is stolen: for health checks, deploy gates and monitors.

    Exit codes are those of monitoring plugins (Nagios, Icinga and the like): 0 OK, 1 WARNING,
    2 CRITICAL, 3 UNKNOWN, which is also for errors and wrong usage. The worst vCPU decides, since
    one that loses half of its time disappears in the mean of 64. Where something is not known, as
    of a count that restarted, the verdict is UNKNOWN unless it would be the same either way.
    """
    if warn is not None and warn > most:
        _unknown(f"--warn {warn:g} is more than --max {most:g}", as_json)
    with open_source(source) as reader:
        cpus = cpu.choose(reader.cpus) if cpu else reader.cpus
        shares = _watch(reader, time_s)
        _judge(reader, shares, cpus, total, (most if warn is None else warn, most), as_json)


def _watch(reader: Reader, time_s: float) -> Shares:
    """Looks in between, so that of a count that restarts no more than that is unknown."""
    ends_s = time.monotonic() + time_s
    shares = Shares(reader.snapshot(), reader.source.resolution_ns)
    while (left_s := ends_s - time.monotonic()) > 0:
        time.sleep(min(left_s, _LOOK_S))
        shares.update(reader.snapshot())
    return shares


def _judge(
    reader: Reader,
    shares: Shares,
    cpus: Sequence[int],
    total: bool,
    limits: tuple[float, float],
    as_json: bool,
) -> None:
    rows = np.flatnonzero(np.isin(reader.cpus, cpus))
    by_cpu = {reader.cpus[row]: shares.of(rows[at : at + 1]) for at, row in enumerate(rows)}
    online = {number: share for number, share in by_cpu.items() if share}
    together = shares.of(rows)
    if not together:
        _unknown("no vCPU that is judged was online", as_json)
    status = _status([together] if total else list(online.values()), limits)
    worst = max(online, key=lambda number: _how_bad(online[number], status))
    name, share = ("all vCPUs", together) if total else (f"cpu{worst}", online[worst])
    warn, most = (f"{limit:g}" for limit in limits)
    watched_s = shares.watched_ns / 1e9
    text = f"{name} lost {_range(share)} in {watched_s:.3g} s; vCPUs online: {len(online)}"
    limited = f"{_value(share)};{warn};{most};0"
    data = f"steal_total={limited}"
    if not total:
        data = f"steal_worst={limited} steal_total={_value(together)};;;0"
    if reader.source.simulated:
        text = f"{SIMULATED}: {text}"
    record = {
        "source": source_record(reader.source),
        "max_percent": limits[1],
        "warn_percent": limits[0],
        "watched_ns": shares.watched_ns,
        "judged": "total" if total else "worst",
        "share": _record(share),
        "total": _record(together),
        "cpus": [{"cpu": number, **_record(one)} for number, one in by_cpu.items()],
    }
    _say(status, text, as_json, record, data)
    raise typer.Exit(status)


def _status(shares: list[Share], limits: tuple[float, float]) -> Status:
    """The verdict, if it is the same whatever is not known."""
    low = max(_verdict(share.low_percent, limits) for share in shares)
    high = max(_verdict(share.high_percent, limits) for share in shares)
    return low if low == high else Status.UNKNOWN


def _verdict(percent: float, limits: tuple[float, float]) -> Status:
    warn, most = limits
    return Status.CRITICAL if percent > most else Status.WARNING if percent > warn else Status.OK


def _how_bad(share: Share, status: Status) -> float:
    return share.high_percent if status == Status.UNKNOWN else share.low_percent


def _range(share: Share) -> str:
    if share.unknown_ns or share.error_ns:
        return f"{share.low_percent:.2f} to {share.high_percent:.2f} %"
    return f"{share.percent:.2f} %"


def _value(share: Share) -> str:
    """As performance data; U is how plugins say that it could not be determined."""
    return "U" if share.unknown_ns else f"{share.percent:.3f}%"


def _record(share: Share | None) -> dict[str, Any]:
    """null where it was not online, and where it is not known."""
    if share is None:
        return {"percent": None, "low_percent": None, "high_percent": None, "online_ns": 0}
    return {
        "percent": None if share.unknown_ns else share.percent,
        "low_percent": share.low_percent,
        "high_percent": share.high_percent,
        "online_ns": share.online_ns,
    }


def _say(status: Status, text: str, as_json: bool, record: dict[str, Any], data: str = "") -> None:
    if as_json:
        write("guestpv.check/1", {"status": status.name, "text": text, **record})
        return
    # What is behind a bar is performance data, and what is behind a newline is not shown.
    line = f"STEAL {status.name} - {' '.join(text.split()).replace('|', '!')}"
    line = line.encode("ascii", "backslashreplace").decode()
    print(f"{line} | {data}" if data else line, flush=True)
