# SPDX-License-Identifier: MIT
"""guestpv exporter: metrics for Prometheus and OpenTelemetry."""

import ipaddress
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from guestpv.agent import service
from guestpv.agent.rules import write_rules
from guestpv.cli.options import CgroupOption, IntervalOption, SourceOption
from guestpv.errors import ModuleError

_SERVICE = "As a service"
DEFAULT_LISTEN = "127.0.0.1:9857"


def exporter(
    source: SourceOption = "auto",
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help=f"Where to serve; {DEFAULT_LISTEN}, or with --textfile or --otlp nowhere.",
        ),
    ] = None,
    web_config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="TLS and users, as Prometheus' exporters have them."),
    ] = None,
    textfile: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write guestpv.prom there, for node_exporter."),
    ] = None,
    otlp: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Send by OpenTelemetry's protocol, as to http://127.0.0.1:4318.",
        ),
    ] = None,
    interval: IntervalOption = 1.0,
    cgroup: CgroupOption = None,
    write: Annotated[
        Path | None,
        typer.Option(
            "--write-rules",
            metavar="DIR",
            help="Write alerting rules and a console for Prometheus, and a dashboard for Grafana,"
            " there, and end.",
        ),
    ] = None,
    install: Annotated[
        bool,
        typer.Option(
            "--install",
            help="Have systemd run it so, now and after each boot; give a group the device.",
            rich_help_panel=_SERVICE,
        ),
    ] = False,
    uninstall: Annotated[
        bool, typer.Option("--uninstall", help="Undo that.", rich_help_panel=_SERVICE)
    ] = False,
    root: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Install into the system in DIR, an image, which does not run.",
            rich_help_panel=_SERVICE,
        ),
    ] = None,
) -> None:
    """Give Prometheus or OpenTelemetry the stolen time of each vCPU, until Ctrl-C.

    It goes on, and says so in a metric, when the source can't be read, comes back, or is another.
    It listens on this machine alone unless told otherwise; with --textfile or --otlp and without
    --listen, not at all.
    """
    address = _address(listen or DEFAULT_LISTEN) if listen or not (textfile or otlp) else None
    if web_config and not address:
        raise typer.BadParameter("--web-config is of no use without --listen")
    if otlp:
        _check_endpoint(otlp)
    if (install and uninstall) or (root and not (install or uninstall)):
        raise typer.BadParameter("--root belongs to one of --install and --uninstall")
    if install and textfile:
        raise typer.BadParameter(
            "the service has a user of its own, who may not write to node_exporter's directory:"
            " have Prometheus ask at --listen instead of --textfile"
        )
    if install and cgroup:
        raise typer.BadParameter("the service may not count cgroups: run the exporter as root")
    if install and address and address[1] < 1024:
        raise typer.BadParameter("the service has no privileges: give --listen a port above 1023")
    if write:
        write_rules(write, _say)
        return
    if uninstall:
        service.uninstall(root, _say)
        return
    try:
        from guestpv.agent.exporter import run  # its packages are an extra

        if otlp:
            from guestpv.agent.otlp import Otlp  # so are its, another one
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("guestpv"):
            raise
        extra = "otel" if otlp else "exporter"
        raise ModuleError(
            "guestpv exporter: not started",
            f"It needs the Python package {error.name}, which is not installed",
            f"get it by {sys.executable} -m pip install 'guestpv[{extra}]'",
        ) from error
    if address and not web_config and not _is_local(address[0]):
        _say(f"whoever reaches {listen} can read the metrics: --web-config asks for a password")
    if install:
        service.install(_arguments(source, listen, web_config, otlp, interval), root, _say)
        return
    sender = Otlp(otlp) if otlp else None
    run(source, address, web_config, textfile, sender, interval, cgroup or (), _say)


def _arguments(
    source: str, listen: str | None, web_config: Path | None, otlp: str | None, interval: float
) -> list[str]:
    """What the service is run with: relative paths would be of another directory."""
    if source not in ("auto", "device", "procfs"):
        source = str(Path(source).absolute())
    given = [f"--source={source}", f"--interval={interval:g}"]
    if listen:
        given.append(f"--listen={listen}")
    if web_config:
        given.append(f"--web-config={web_config.absolute()}")
    if otlp:
        given.append(f"--otlp={otlp}")
    return given


def _say(text: str) -> None:
    with suppress(OSError):  # a log that is full, or read by nobody, is no reason to end
        typer.echo(f"guestpv: {text}", err=True)


def _address(text: str) -> tuple[str, int]:
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^:\[\]\s]*)):(\d{1,5})", text)
    if not found or not int(found[3]) <= 65535:
        raise typer.BadParameter(f"{text} is no address, as in {DEFAULT_LISTEN} or [::1]:9857")
    return found[1] or found[2] or "0.0.0.0", int(found[3])


def _check_endpoint(url: str) -> None:
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url or parts.query or parts.fragment:
        raise typer.BadParameter(f"--otlp {url} is no URL, as in http://127.0.0.1:4318")
    if parts.username is not None:
        raise typer.BadParameter(
            "--otlp takes no password, which others would see:"
            " set OTEL_EXPORTER_OTLP_HEADERS=authorization=…"
        )


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
