# SPDX-License-Identifier: MIT
"""A piece of work, timed by each tool, as one of several tasks that are all busy meanwhile.

TOGETHER=DIRECTORY:TASKS says where they meet, and how many they are. Run as

- ``pytest workload.py``, by pytest-benchmark;
- ``workload.py`` with options of pyperf's, by pyperf: with ``TIMER=corrected`` by its own timer;
- ``workload.py plain``, by whoever runs it.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

ROUNDS = 20
LOOPS = 300_000


def work() -> None:
    for _ in range(LOOPS):
        pass


@contextmanager
def together(*, busy: bool = True) -> Iterator[None]:
    """Begin when all tasks have come, and keep the vCPU busy until all have done their work."""
    place, tasks = os.environ["TOGETHER"].split(":")

    def have(what: str) -> bool:
        return len(list(Path(place).glob(f"{what}-*"))) >= int(tasks)

    Path(place, f"came-{os.getpid()}").touch()
    while not have("came"):
        time.sleep(0.01)
    yield
    Path(place, f"done-{os.getpid()}").touch()
    while busy and not have("done"):
        work()


def test_work(benchmark) -> None:
    with together():
        benchmark.pedantic(work, rounds=ROUNDS)


def time_by_pyperf() -> None:
    import pyperf

    from guestpv.plugins.pyperf import corrected

    runner = pyperf.Runner(processes=1, values=ROUNDS, warmups=0, loops=1)
    # Its first process starts a second one, which measures.
    with together() if "--worker" in sys.argv else nullcontext():
        if os.environ.get("TIMER") == "corrected":
            runner.bench_time_func("work", corrected(work))
        else:
            runner.bench_func("work", work)


def main() -> None:
    if sys.argv[1:] == ["plain"]:
        with together(busy=False):
            for _ in range(ROUNDS):
                work()
    else:
        time_by_pyperf()


if __name__ == "__main__":
    main()
