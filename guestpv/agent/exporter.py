# SPDX-License-Identifier: MIT
"""The exporter: looks at the source, and gives Prometheus what it saw, by HTTP or as a file.

And sends it to OpenTelemetry.
"""

import asyncio
import errno
import signal
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from guestpv.agent.cgroups import CgroupCollector
from guestpv.agent.metrics import MonitorCollector
from guestpv.agent.monitor import Monitor
from guestpv.agent.notify import notify
from guestpv.agent.server import MetricsServer
from guestpv.agent.textfile import Textfile
from guestpv.agent.webconfig import WatchedWebConfig
from guestpv.errors import BusyError, Error, PermissionDeniedError
from guestpv.latency.cgroups import Cgroups

WRITE_S = 15.0
"""How often a textfile is written: as often as node_exporter is usually asked."""

_BACKLOG = 128

Say = Callable[[str], None]


class Exporter:
    """What looks and what shows it, in a thread of its own: so a scrape never waits for another
    client, and no client for an index that is being changed."""

    def __init__(self, source: str, say: Say, *, process: bool) -> None:
        """With *process*, the metrics have those of this process, too."""
        self.thread = ThreadPoolExecutor(1, "look")
        self.registry = CollectorRegistry()
        self.monitor = Monitor(source, say)
        self.monitor.look()
        self.registry.register(MonitorCollector(self.monitor))
        if process:
            ProcessCollector(registry=self.registry)

    def render(self, openmetrics: bool) -> bytes:
        if openmetrics:
            return bytes(generate_openmetrics(self.registry))  # type: ignore[no-untyped-call]
        return generate_latest(self.registry)

    async def look(self, interval_s: float) -> None:
        """Between scrapes, so that of a count that restarts no more than that is unknown."""
        while True:
            await asyncio.sleep(interval_s)
            await asyncio.get_running_loop().run_in_executor(self.thread, self.monitor.look)

    async def write(self, textfile: Textfile, say: Say) -> None:
        said = ""
        while True:
            loop = asyncio.get_running_loop()
            metrics = await loop.run_in_executor(self.thread, self.render, False)
            try:
                textfile.write(metrics)
                said = ""
            except Error as error:
                if str(error) != said:
                    say(said := str(error))
            await asyncio.sleep(WRITE_S)


def run(
    source: str,
    listen: tuple[str, int] | None,
    web_config: Path | None,
    textfile: Path | None,
    otlp: str | None,
    interval_s: float,
    cgroups: Sequence[str],
    say: Say,
) -> None:
    """Runs until SIGTERM or SIGINT. Raises Error if it can't begin."""
    with ExitStack() as stack:
        watched = WatchedWebConfig(web_config, say)
        listening = stack.enter_context(_listening(*listen)) if listen else None
        written = stack.enter_context(Textfile(textfile)) if textfile else None
        # node_exporter has the metrics of a process already: its own.
        exporter = Exporter(source, say, process=listening is not None)
        stack.callback(exporter.thread.shutdown, wait=True, cancel_futures=True)
        if otlp:
            from guestpv.agent.otlp import Otlp  # its packages are an extra

            stack.enter_context(Otlp(otlp, source, exporter.monitor, exporter.thread, say))
        if cgroups:
            counted = stack.enter_context(Cgroups(cgroups, say))
            exporter.registry.register(CgroupCollector(counted))
        if web_config:
            Gauge(
                "guestpv_web_config_current",
                "Whether the web configuration could be used when it last changed.",
                registry=exporter.registry,
            ).set_function(lambda: watched.is_current)
        if listening:
            host, port = listening.getsockname()[:2]
            scheme = "https" if watched.get().tls else "http"
            named = f"[{host}]" if ":" in host else host
            say(f"metrics at {scheme}://{named}:{port}/metrics")
        asyncio.run(_run(exporter, listening, watched, written, interval_s, say))


async def _run(
    exporter: Exporter,
    listening: socket.socket | None,
    web_config: WatchedWebConfig,
    textfile: Textfile | None,
    interval_s: float,
    say: Say,
) -> None:
    stop = asyncio.Event()
    for number in signal.SIGTERM, signal.SIGINT:
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    jobs = [exporter.look(interval_s), _until(stop)]
    if listening:
        server = MetricsServer(exporter.render, exporter.thread, web_config)
        jobs.append(server.serve(listening))
    if textfile:
        jobs.append(exporter.write(textfile, say))
    tasks = [asyncio.create_task(job) for job in jobs]
    notify("READY=1")
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    notify("STOPPING=1")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()  # raises what ended it, if it was not told to


async def _until(stop: asyncio.Event) -> None:
    await stop.wait()


def _listening(host: str, port: int) -> socket.socket:
    named = f"{host}:{port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(_BACKLOG)
        except BaseException:
            listening.close()
            raise
    except (OSError, UnicodeError) as error:
        number = error.errno if isinstance(error, OSError) else None
        why = getattr(error, "strerror", None) or str(error)
        match number:
            case errno.EADDRINUSE:
                raise BusyError(
                    f"{named}: not listened at",
                    "Another program does",
                    "end that one, or give --listen another port",
                ) from error
            case errno.EACCES:
                raise PermissionDeniedError(
                    f"{named}: not listened at", why, "give --listen a port above 1023"
                ) from error
        raise Error(
            f"{named}: not listened at", why, "give --listen an address of this machine"
        ) from error
    return listening
