# SPDX-License-Identifier: MIT
"""A guest that a Prometheus on this machine scrapes, and what the host took from it meanwhile.

All is twice as fast as where guests are monitored: a scrape every 7 s instead of one in 15 s, and
the exporter and the module look more often, too. Not faster, for a guest takes some seconds to be
moved or to reload the module, and of an interval in which a scrape is missing rate() leaves out a
part.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from pvlab import Lab
from pvlab.prometheus import Prometheus

SCRAPED_EACH_S = 7
WINDOW_S = 35
STEP_S = 1
"""Of rate(): what becomes of a rule's 5 minutes when all is so fast."""

EXPORTERS = {
    9857: "guestpv exporter --listen 127.0.0.1:9857 --interval 0.1",
    9100: "prometheus-node-exporter --web.listen-address 127.0.0.1:9100"
    " --collector.disable-defaults --collector.cpu",
}
_LOOK_OFTEN = "echo 100 >/sys/module/guestpv/parameters/check_ms"
_IN_BACKGROUND = "nohup setsid {} >/dev/null 2>&1 </dev/null & echo $!"
_READY_WITHIN_S = 60

Times = npt.NDArray[np.float64]
"""Unix times in seconds."""

Shares = npt.NDArray[np.float64]
"""Of a vCPU's time; as many as there are times, NaN where there is nothing to say."""


def in_background(lab: Lab, command: str) -> str:
    """Start a command in the guest; its process ID."""
    return lab.run(["sh", "-c", _IN_BACKGROUND.format(command)]).stdout.strip()


def keep_busy(lab: Lab, cpu: int) -> str:
    """Have a CPU of the guest's run something for ever; its process ID."""
    return in_background(lab, f"nice -n 19 taskset -c {cpu} sh -c 'while :; do :; done'")


def switch(lab: Lab, cpu: int, online: bool) -> None:
    path = f"/sys/devices/system/cpu/cpu{cpu}/online"
    lab.run(["sh", "-c", f"echo {online:d} >{path}"]).check_returncode()


@contextmanager
def scraped(lab: Lab, directory: Path) -> Iterator[Prometheus]:
    """guestpv's exporter and node_exporter run in the guest, and each was scraped twice."""
    lab.run(["sh", "-c", _LOOK_OFTEN]).check_returncode()
    targets = []
    for port, command in EXPORTERS.items():
        in_background(lab, command)
        targets.append(f"127.0.0.1:{lab.guest.forward(port)}")
    configuration = {
        "global": {"scrape_interval": f"{SCRAPED_EACH_S}s", "scrape_timeout": f"{SCRAPED_EACH_S}s"},
        "scrape_configs": [{"job_name": "guest", "static_configs": [{"targets": targets}]}],
    }
    ready = f"min(sum_over_time(up[{2 * SCRAPED_EACH_S}s])) == 2"
    with Prometheus(directory, configuration) as prometheus:
        deadline = time.monotonic() + _READY_WITHIN_S
        while not prometheus.query(ready):
            assert time.monotonic() < deadline, prometheus.query("up")
            time.sleep(0.2)
        yield prometheus


@dataclass
class Story:
    """What happens to a guest, and how long its vCPUs have waited, by its host's account."""

    lab: Lab
    events: list[tuple[float, str]] = field(default_factory=list)
    """Unix times, and what began then."""
    _times_s: list[float] = field(default_factory=list)
    _waited_ns: list[list[int]] = field(default_factory=list)
    _before_move_ns: list[int] = field(default_factory=list)

    def event(self, what: str) -> None:
        self.look()
        self.events.append((self._times_s[-1], what))

    def go_on(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.look()
            time.sleep(0.5)

    def look(self) -> None:
        before_s = time.time()
        waited_ns = self.lab.vcpu_run_delay_ns()
        self._times_s.append((before_s + time.time()) / 2)
        base_ns = self._before_move_ns or [0] * len(waited_ns)
        self._waited_ns.append([sum(each) for each in zip(base_ns, waited_ns, strict=True)])

    def move(self) -> None:
        """Migrate the guest: its vCPUs are other threads then."""
        self.lab.qmp("stop")
        self.look()
        self._before_move_ns = self._waited_ns[-1]
        self.lab.move()

    @property
    def taken_s(self) -> list[float]:
        """Of each vCPU, all that the host took from it in the whole story."""
        first, *_, last = self._waited_ns
        return [(after - before) / 1e9 for before, after in zip(first, last, strict=True)]

    @property
    def steps(self) -> Times:
        """The times at which its series are looked at."""
        return np.arange(self._times_s[0], self._times_s[-1], STEP_S)

    def await_pause(self, prometheus: Prometheus) -> None:
        """Until nobody is to be scraped for a while: of two, for half of an interval at least."""
        while time.time() - min(_scraped_s(prometheus)) > SCRAPED_EACH_S / 2:
            self.look()

    def share_taken(self, vcpu: int) -> Shares:
        """By the host's account, over the same windows as `rate` has them."""
        waited_s = np.array(self._waited_ns)[:, vcpu] / 1e9
        until, since = (
            np.interp(self.steps - back_s, self._times_s, waited_s) for back_s in (0, WINDOW_S)
        )
        return (until - since) / WINDOW_S

    def rate(self, prometheus: Prometheus, selector: str) -> dict[int, Shares]:
        """What Prometheus makes of a counter, by its label `cpu`."""
        query = f"rate({selector}[{WINDOW_S}s])"
        first_s, last_s = self.steps[[0, -1]]
        found = prometheus.query_range(query, first_s, last_s, STEP_S)
        rates = {}
        for series in found:
            said = np.full(len(self.steps), np.nan)
            for time_s, value in series.values.items():
                said[round((time_s - first_s) / STEP_S)] = value
            rates[int(series.labels["cpu"])] = said
        return rates

    def after(self, what: str, *, later_s: float = 0) -> slice:
        """The steps whose windows begin after that event, or so much later."""
        (began_s,) = (time_s for time_s, event in self.events if event == what)
        return slice(int(np.searchsorted(self.steps, began_s + later_s + WINDOW_S)), None)


def _scraped_s(prometheus: Prometheus) -> list[float]:
    """When each was scraped last: Unix times in seconds."""
    last = prometheus.query("timestamp(up)")
    return [value for one in last for value in one.values.values()]


@dataclass(frozen=True)
class Line:
    """In a panel of a picture."""

    label: str
    shares: Shares
    color: str
    style: str = "-"


def draw(path: Path, story: Story, panels: dict[str, list[Line]]) -> None:
    """A picture of a story: panels by their titles, one above the other."""
    settings = {"svg.fonttype": "none", "svg.hashsalt": path.name, "font.size": 10}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(9.6, 2.5 * len(panels) + 0.5), layout="constrained")
        above, *_ = axes = np.atleast_1d(figure.subplots(len(panels), sharex=True, sharey=True))
        for axis, (title, lines) in zip(axes, panels.items(), strict=True):
            axis.set_title(title, loc="left", pad=20 if axis is above else 6)
            for line in lines:
                axis.plot(
                    story.steps - story.steps[0],
                    100 * line.shares,
                    line.style,
                    color=line.color,
                    label=line.label,
                )
            for time_s, what in story.events:
                axis.axvline(time_s - story.steps[0], color="0.6", linewidth=0.8)
                if axis is above:
                    axis.annotate(
                        what,
                        (time_s - story.steps[0], 1.0),
                        xycoords=("data", "axes fraction"),
                        xytext=(0, 3),
                        textcoords="offset points",
                        color="0.3",
                        fontsize=8,
                    )
            axis.set_ylim(-5, 130)  # room for the legend
            axis.set_yticks(range(0, 101, 25))
            axis.set_ylabel("% of a vCPU's time")
            axis.grid(axis="y", linewidth=0.4)
            axis.legend(loc="upper left", fontsize=8, ncols=len(lines))
        axes[-1].set_xlabel("seconds")
        figure.savefig(path.with_suffix(".png"))
        figure.savefig(path, metadata={"Date": None})
