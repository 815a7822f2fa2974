# SPDX-License-Identifier: MIT
"""The exporter: looks at the source, and gives Prometheus what it saw, by HTTP or as a file, or
sends it by OpenTelemetry's protocol."""

import asyncio
import errno
import signal
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector
from prometheus_client.core import Metric

from guestpv.agent import textformat
from guestpv.agent.cgroups import CgroupCollector
from guestpv.agent.metrics import MonitorCollector
from guestpv.agent.monitor import Monitor
from guestpv.agent.notify import notify
from guestpv.agent.server import MetricsServer
from guestpv.agent.textfile import Textfile
from guestpv.agent.webconfig import WatchedWebConfig
from guestpv.errors import BusyError, Error, NoSourceError, PermissionDeniedError
from guestpv.latency.cgroups import Cgroups
from guestpv.latency.perf import require_pmu

if TYPE_CHECKING:
    from guestpv.agent.otlp import Otlp

GIVE_S = 15.0
"""How often metrics are given that nobody asks for: as often as exporters usually are asked."""

_BACKLOG = 128

Say = Callable[[str], None]
Made = TypeVar("Made")


class Exporter:
    """What looks and what shows it, in a thread of its own: so a scrape never waits for another
    client, and no client for an index that is being changed."""

    def __init__(self, source: str, say: Say, *, process: bool) -> None:
        """With *process*, the metrics have those of this process, too."""
        self.thread = ThreadPoolExecutor(1, "look")
        self.registry = CollectorRegistry()
        self._monitor = Monitor(source, say)
        self._monitor.look()
        self.registry.register(MonitorCollector(self._monitor))
        if process:
            ProcessCollector(registry=self.registry)

    def render(self, openmetrics: bool) -> bytes:
        return textformat.render(self.registry, openmetrics)

    async def look(self, interval_s: float) -> None:
        """Between scrapes, so that of a count that restarts no more than that is unknown."""
        while True:
            await asyncio.sleep(interval_s)
            await asyncio.get_running_loop().run_in_executor(self.thread, self._monitor.look)

    def collect(self) -> list[Metric]:
        return list(self.registry.collect())

    async def give(self, make: Callable[[], Made], take: Callable[[Made], None], say: Say) -> None:
        """What *make* makes of the metrics, to *take*, which may last, and may raise Error: that is
        said once, until it has gone well again."""
        goes_well = True
        while True:
            loop = asyncio.get_running_loop()
            made = await loop.run_in_executor(self.thread, make)
            try:
                await asyncio.to_thread(take, made)
                goes_well = True
            except Error as error:
                if goes_well:
                    say(str(error))
                goes_well = False
            await asyncio.sleep(GIVE_S)


def run(
    source: str,
    listen: tuple[str, int] | None,
    web_config: Path | None,
    textfile: Path | None,
    otlp: "Otlp | None",
    interval_s: float,
    cgroups: Sequence[str],
    say: Say,
) -> None:
    """Runs until SIGTERM, SIGINT or SIGHUP. Raises Error if it can't begin."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # any client could end it, by going early
    with ExitStack() as stack:
        watched = WatchedWebConfig(web_config, say)
        listening = stack.enter_context(_listening(*listen)) if listen else None
        written = stack.enter_context(Textfile(textfile)) if textfile else None
        # node_exporter has the metrics of a process already: its own.
        exporter = Exporter(source, say, process=listening is not None)
        stack.callback(exporter.thread.shutdown, wait=True, cancel_futures=True)
        if cgroups:
            counted = stack.enter_context(Cgroups(cgroups, say))
            exporter.registry.register(CgroupCollector(counted))
            try:
                require_pmu()
            except NoSourceError as error:  # it may come yet
                say(f"no cgroup is counted so far: {error}")
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
        asyncio.run(_run(exporter, listening, watched, written, otlp, interval_s, say))


async def _run(
    exporter: Exporter,
    listening: socket.socket | None,
    web_config: WatchedWebConfig,
    textfile: Textfile | None,
    otlp: "Otlp | None",
    interval_s: float,
    say: Say,
) -> None:
    stop = asyncio.Event()
    for number in signal.SIGTERM, signal.SIGINT, signal.SIGHUP:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # by nohup(1)
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    jobs = [exporter.look(interval_s), _until(stop)]
    if listening:
        server = MetricsServer(exporter.render, exporter.thread, web_config)
        jobs.append(server.serve(listening))
    if textfile:
        jobs.append(exporter.give(lambda: exporter.render(False), textfile.write, say))
    if otlp:
        jobs.append(exporter.give(exporter.collect, otlp.send, say))
    tasks = [asyncio.create_task(job) for job in jobs]
    notify("READY=1")
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    notify("STOPPING=1")
    for task in tasks:
        task.cancel()
    if otlp:
        otlp.close()  # which ends what is being sent, too
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
