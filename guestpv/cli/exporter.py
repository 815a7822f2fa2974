# SPDX-License-Identifier: MIT
"""guestpv exporter: metrics for Prometheus and OpenTelemetry."""

import ipaddress
import re
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
            help=f"Where to serve; without it {DEFAULT_LISTEN}, or nowhere if it goes elsewhere.",
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
            metavar="URL", help="Send to this OpenTelemetry collector, by OTLP over HTTP."
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
    elsewhere = textfile or otlp
    address = _address(listen or DEFAULT_LISTEN) if listen or not elsewhere else None
    endpoint = _endpoint(otlp) if otlp else None
    if cgroup and not (address or textfile):
        raise typer.BadParameter("cgroups are for Prometheus: add --listen or --textfile")
    if web_config and not address:
        raise typer.BadParameter("--web-config is of no use without --listen")
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
    extra = "otel" if endpoint else "exporter"
    try:
        from guestpv.agent.exporter import run  # its packages are an extra

        if endpoint:
            import guestpv.agent.otlp  # noqa: F401 - and so are these
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("guestpv"):
            raise
        raise ModuleError(
            "guestpv exporter: not started",
            f"It needs Python packages that are not installed: {error.name}",
            f"install them: pip install 'guestpv[{extra}]'",
        ) from error
    if address and not web_config and not _is_local(address[0]):
        _say(f"whoever reaches {listen} can read the metrics: --web-config asks for a password")
    if install:
        arguments = _arguments(source, listen, web_config, endpoint, interval)
        service.install(arguments, root, _say)
        return
    run(source, address, web_config, textfile, endpoint, interval, cgroup or (), _say)


def _arguments(
    source: str,
    listen: str | None,
    web_config: Path | None,
    endpoint: str | None,
    interval: float,
) -> list[str]:
    """What the service is run with: relative paths would be of another directory."""
    if source not in ("auto", "device", "procfs"):
        source = str(Path(source).absolute())
    given = [f"--source={source}", f"--interval={interval:g}"]
    if listen:
        given.append(f"--listen={listen}")
    if web_config:
        given.append(f"--web-config={web_config.absolute()}")
    if endpoint:
        given.append(f"--otlp={endpoint}")
    return given


def _say(text: str) -> None:
    typer.echo(f"guestpv: {text}", err=True)


def _address(text: str) -> tuple[str, int]:
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^:\[\]\s]*)):(\d{1,5})", text)
    if not found or not int(found[3]) <= 65535:
        raise typer.BadParameter(f"{text} is no address, as in {DEFAULT_LISTEN} or [::1]:9857")
    return found[1] or found[2] or "0.0.0.0", int(found[3])


def _endpoint(text: str) -> str:
    """Without a slash in the end: the SDK's path comes behind it."""
    try:
        url = urlsplit(text)
        serves = url.scheme in ("http", "https") and url.hostname and url.port != 0
    except ValueError:  # of the port
        serves = False
    if not serves or url.query or url.fragment:
        raise typer.BadParameter(f"{text} is no endpoint, as in http://collector:4318")
    if url.username is not None:
        raise typer.BadParameter(
            "whoever is on this machine can read a password there:"
            " OTEL_EXPORTER_OTLP_HEADERS in the environment is for that"
        )
    return text.rstrip("/")


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
