# SPDX-License-Identifier: MIT
"""Metrics by HTTP, for whoever asks, without letting anybody take more than his share.

Each connection serves one request and has an end in time, its TLS handshake included. There are no
more than MOST_CONNECTIONS; whoever comes when there are goes before the one that has been there
longest, so that clients which only sit there keep nobody out. No request body is read.
"""

import asyncio
import binascii
import errno
import gzip
import logging
import socket
from base64 import b64decode
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from aiohttp import web
from aiohttp.web import BaseRequest, Response

from guestpv.agent.webconfig import Passwords, WatchedWebConfig, WebConfig

MOST_CONNECTIONS = 256
CONNECTION_S = 30.0
HANDSHAKE_S = 10.0
_MOST_WAITING_PASSWORDS = 16
_PLAIN = "text/plain; version=0.0.4; charset=utf-8"
_OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_ABOUT = (
    "guestpv exporter: stolen time of this guest's vCPUs, by Prometheus' rules.\n"
    "The metrics are at /metrics.\n"
)

_LOGGER = logging.getLogger("guestpv.agent.server")
_LOGGER.setLevel(logging.CRITICAL + 1)  # what clients send is no news

Render = Callable[[bool], bytes]
"""Metrics as text; as OpenMetrics if that is true."""


class _Connection(web.RequestHandler):
    """Says when it has ended."""

    def __init__(self, server: web.Server, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            server,
            loop=loop,
            logger=_LOGGER,
            access_log=_LOGGER,
            keepalive_timeout=0,
            lingering_time=1.0,
        )
        self.ended = loop.create_future()

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        if not self.ended.done():
            self.ended.set_result(None)


class MetricsServer:
    """Serves until it is cancelled."""

    def __init__(
        self, render: Render, renderer: ThreadPoolExecutor, web_config: WatchedWebConfig
    ) -> None:
        """*render* is called in the *renderer*, which has one thread."""
        self._render = render
        self._renderer = renderer
        self._web_config = web_config
        self._passwords = Passwords()
        self._waiting_passwords = 0
        self._rendering: dict[tuple[bool, ...], asyncio.Future[bytes]] = {}
        self._connections: dict[asyncio.Task[None], None] = {}  # the oldest first
        self._checker = ThreadPoolExecutor(1, "password")

    async def serve(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        server = web.Server(self._handle)
        listening.setblocking(False)
        try:
            while True:
                try:
                    accepted, _ = await loop.sock_accept(listening)
                except OSError as error:
                    self._make_room()
                    await asyncio.sleep(0.1 if error.errno in (errno.EMFILE, errno.ENFILE) else 0)
                    continue
                if len(self._connections) >= MOST_CONNECTIONS:
                    self._make_room()
                task = loop.create_task(self._connection(server, accepted))
                self._connections[task] = None
                task.add_done_callback(lambda task: self._connections.pop(task, None))
        finally:
            for task in self._connections:
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)
            self._checker.shutdown(wait=False, cancel_futures=True)

    def _make_room(self) -> None:
        if oldest := next(iter(self._connections), None):
            self._connections.pop(oldest)
            oldest.cancel()

    async def _connection(self, server: web.Server, accepted: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        connection = _Connection(server, loop)
        transport: asyncio.BaseTransport | None = None
        try:
            async with asyncio.timeout(CONNECTION_S):
                tls = self._web_config.get().tls
                transport, _ = await loop.connect_accepted_socket(
                    lambda: connection,
                    accepted,
                    ssl=tls,
                    ssl_handshake_timeout=HANDSHAKE_S if tls else None,
                    ssl_shutdown_timeout=1.0 if tls else None,
                )
                await connection.ended
        except (OSError, TimeoutError):  # ssl.SSLError is one of the former
            pass
        finally:  # without a transport, the loop has closed what it was given
            if isinstance(transport, asyncio.WriteTransport):
                with suppress(AttributeError):  # of TLS that was closed twice, which ends by itself
                    transport.abort()

    async def _handle(self, request: BaseRequest) -> Response:
        config = self._web_config.get()
        response = await self._respond(request, config)
        response.headers.update(config.headers)
        response.force_close()
        return response

    async def _respond(self, request: BaseRequest, config: WebConfig) -> Response:
        if config.users and (refusal := await self._refusal(request, config.users)):
            return refusal
        if request.method not in ("GET", "HEAD"):
            return _text(405, "Only GET and HEAD are served.\n", {"Allow": "GET, HEAD"})
        match request.path:
            case "/metrics":
                return await self._metrics(request)
            case "/":
                return _text(200, _ABOUT)
        return _text(404, "There is nothing here. The metrics are at /metrics.\n")

    async def _metrics(self, request: BaseRequest) -> Response:
        openmetrics = "application/openmetrics-text" in request.headers.get("Accept", "")
        encodings = request.headers.get("Accept-Encoding", "").replace(" ", "")
        compressed = "gzip" in encodings and "gzip;q=0" not in encodings
        headers = {
            "Content-Type": _OPENMETRICS if openmetrics else _PLAIN,
            "Vary": "Accept, Accept-Encoding",
        }
        if compressed:
            headers["Content-Encoding"] = "gzip"
        return Response(body=await self._rendered(openmetrics, compressed), headers=headers)

    async def _rendered(self, *how: bool) -> bytes:
        """Of those who ask for the same at the same time, all get the same."""
        rendering = self._rendering.get(how)
        if rendering is None:
            loop = asyncio.get_running_loop()
            rendering = loop.run_in_executor(self._renderer, self._render_as, how)
            self._rendering[how] = rendering
            rendering.add_done_callback(lambda _: self._rendering.pop(how))
        return await asyncio.shield(rendering)

    def _render_as(self, how: tuple[bool, ...]) -> bytes:
        openmetrics, compressed = how
        body = self._render(openmetrics)
        return gzip.compress(body, 1) if compressed else body

    async def _refusal(self, request: BaseRequest, users: Mapping[str, bytes]) -> Response | None:
        """None if a name and a password were given that fit; it is not said what does not."""
        name, password = _credentials(request.headers.get("Authorization", ""))
        if self._passwords.is_known(users, name, password):
            return None
        if self._waiting_passwords >= _MOST_WAITING_PASSWORDS:
            return _text(503, "Too many passwords are being checked.\n", {"Retry-After": "1"})
        self._waiting_passwords += 1
        try:
            right = await asyncio.get_running_loop().run_in_executor(
                self._checker, self._passwords.check, users, name, password
            )
        finally:
            self._waiting_passwords -= 1
        if right:
            return None
        asked = {"WWW-Authenticate": 'Basic realm="guestpv", charset="UTF-8"'}
        return _text(401, "Unauthorized\n", asked)


def _credentials(authorization: str) -> tuple[str, bytes]:
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return "", b""
    try:
        name, _, password = b64decode(encoded, validate=True).partition(b":")
        return name.decode(), password
    except (binascii.Error, ValueError):
        return "", b""


def _text(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(status=status, text=text, headers=headers)
