# SPDX-License-Identifier: MIT
"""500 VMs with an exporter each, in one process: `python fleet.py DIRECTORY`.

Each has a page that a simulated hypervisor writes, and of the exporter all but a process of its
own: monitor, totals, registry, and a server at an address of its own. Where they are it says in
one line of JSON as soon as they serve, and it goes on until it is ended.
"""

import asyncio
import json
import resource
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from guestpv.agent.exporter import Exporter
from guestpv.agent.server import MetricsServer
from guestpv.agent.webconfig import WatchedWebConfig
from guestpv.cpulist import CpuList
from guestpv.simulation.machine import SimulatedMachine
from guestpv.simulation.script import Contention, Event, Reload, Restart, Revision, Scheduled

HOSTS, VMS_OF_A_HOST, VCPUS = 50, 10, 4
PORT = 9857
STEP_S = 0.5
TROUBLE_AFTER_S = 5.0
"""When what is to be found begins."""

FULL_HOST = "host07"
LIMITED, STARVED = "host12-vm3", "host20-vm5"
UNLOADED, RESTARTING, REVISED = "host30-vm1", "host33-vm8", "host40-vm2"


CONTENDED = [(0.0, Contention(percent=30))]
TROUBLES: dict[str, list[tuple[float, Event]]] = {
    **{f"{FULL_HOST}-vm{nth}": CONTENDED for nth in range(VMS_OF_A_HOST)},
    LIMITED: CONTENDED,
    STARVED: [(0.0, Contention(percent=30, cpus=CpuList.parse("2")))],
    UNLOADED: [(0.0, Reload(seconds=1e6))],
    REVISED: [(0.0, Revision(revision=1))],
    RESTARTING: [
        (0.0, Contention(percent=5)),  # so that there is a count to lose
        *((3.0 * nth, Restart(cpus=CpuList.parse("1"))) for nth in range(1, 100)),
    ],
}
"""What becomes of VMs, and how many seconds later."""


def script(vm: str) -> list[Scheduled]:
    return [
        Scheduled(TROUBLE_AFTER_S + after_s, type(event).__name__.lower(), event)
        for after_s, event in TROUBLES.get(vm, [])
    ]


async def serve(directory: Path) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, 2 * resource.getrlimit(resource.RLIMIT_NOFILE)[1:])
    thread = ThreadPoolExecutor(1)
    machines, jobs, targets = [], [], []
    for number in range(HOSTS * VMS_OF_A_HOST):
        on, nth = divmod(number, VMS_OF_A_HOST)
        host = f"host{on:02}"
        vm = f"{host}-vm{nth}"
        machine = SimulatedMachine(
            directory / vm,
            VCPUS,
            seed=number,
            percent=0.5,
            script=script(vm),
            step_ns=int(STEP_S * 1e9),
        )
        machines.append(machine)
        exporter = Exporter(str(machine.path), lambda text: None, process=False)
        exporter.thread = thread  # each has one of its own, where it has a process of its own
        server = MetricsServer(exporter.render, thread, WatchedWebConfig(None, print))
        address = f"127.1.{on}.{nth + 1}"
        jobs += [exporter.look(1), server.serve(socket.create_server((address, PORT)))]
        labels = {"host": host, "instance": vm}
        targets.append({"targets": [f"{address}:{PORT}"], "labels": labels})
    tasks = [asyncio.create_task(job) for job in [*jobs, go_on(machines)]]
    print(json.dumps({"targets": targets, "trouble_s": time.time() + TROUBLE_AFTER_S}), flush=True)
    await asyncio.gather(*tasks)


async def go_on(machines: list[SimulatedMachine]) -> None:
    next_s = time.monotonic()
    while True:
        next_s += STEP_S
        await asyncio.sleep(next_s - time.monotonic())
        for machine in machines:
            machine.advance(STEP_S)


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
