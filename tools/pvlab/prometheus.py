# SPDX-License-Identifier: MIT
"""A Prometheus on this machine, for as long as a test lasts: Debian's."""

import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import yaml

from .errors import LabError
from .packaged import program
from .process import bound, last_lines
from .site import free_port

READY_WITHIN_S = 60


@dataclass(frozen=True, slots=True)
class Series:
    """A series that a query gave: its labels, and its values by their Unix times in seconds.

    Where the query has nothing to say, there is no value.
    """

    labels: dict[str, str]
    values: dict[float, float]


class Prometheus:
    """A server with that configuration, from `with` to the end of its block."""

    def __init__(self, directory: Path, configuration: Mapping[str, object]) -> None:
        """*directory* is for its data, its log and the configuration, as prometheus.yml has it.

        Consoles that are there are served.
        """
        self._directory = directory
        self._configuration = configuration
        self._port = free_port()

    def __enter__(self) -> Self:
        configuration = self._directory / "prometheus.yml"
        configuration.write_text(yaml.safe_dump(dict(self._configuration)))
        self._log = self._directory / "prometheus.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                bound(
                    [
                        str(program("prometheus", "prometheus")),
                        f"--config.file={configuration}",
                        f"--storage.tsdb.path={self._directory / 'data'}",
                        f"--web.console.templates={self._directory}",
                        f"--web.listen-address=127.0.0.1:{self._port}",
                        "--log.level=warn",
                    ]
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    def query(self, query: str) -> list[Series]:
        """What a query gives now: of each series one value."""
        data = self.get("query", query=query)
        return [_series(one["metric"], [one["value"]]) for one in data["result"]]

    def query_range(self, query: str, start_s: float, end_s: float, step_s: float) -> list[Series]:
        """What it gives at each step from one Unix time to another."""
        data = self.get("query_range", query=query, start=start_s, end=end_s, step=step_s)
        return [_series(one["metric"], one["values"]) for one in data["result"]]

    def get(self, what: str, **parameters: object) -> Any:
        """The data of an answer of its HTTP API. Raises LabError if it has none."""
        path = f"/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        try:
            return json.loads(self._ask(path))["data"]
        except urllib.error.HTTPError as error:
            raise LabError(f"prometheus: {what}: {error.read().decode()}") from None

    def console(self, name: str) -> str:
        """The page that it makes of a console's template."""
        return self._ask(f"/consoles/{name}").decode()

    def _ask(self, path: str) -> bytes:
        url = f"http://127.0.0.1:{self._port}{path}"
        with urllib.request.urlopen(url, timeout=READY_WITHIN_S) as answer:
            return cast(bytes, answer.read())

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_WITHIN_S
        while True:
            try:
                self._ask("/-/ready")
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    said = last_lines(self._log.read_text(errors="replace"))
                    raise LabError(f"prometheus did not become ready:\n{said}") from None
            time.sleep(0.05)


def _series(labels: dict[str, str], values: list[tuple[float, str]]) -> Series:
    return Series(labels, {float(time_s): float(value) for time_s, value in values})
