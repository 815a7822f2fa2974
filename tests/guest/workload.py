# SPDX-License-Identifier: MIT
"""A piece of work that a tool times, as one of as many TASKS, which are all busy meanwhile.

It begins when all have come, each of which leaves a file in the directory PLACE; and it keeps its
vCPU, which is named by VCPU if it is one of several, busy until all have done their part. Run as

- ``pytest workload.py``, it is timed by pytest-benchmark;
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
PLACE = Path(os.environ["PLACE"])
TASKS = int(os.environ["TASKS"])
VCPU = os.environ.get("VCPU")


def work() -> None:
    for _ in range(LOOPS):
        pass


@contextmanager
def together(*, busy: bool = True) -> Iterator[None]:
    """Begin when all tasks have come, and go on with nothing until all have done their work."""

    def number(what: str) -> int:
        return len(list(PLACE.glob(f"{what}-*")))

    (PLACE / f"came-{os.getpid()}").touch()
    while number("came") < TASKS:
        time.sleep(0.05)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {int(VCPU)} if VCPU else before)
    yield
    (PLACE / f"done-{os.getpid()}").touch()
    while busy and number("done") < TASKS:
        work()
    os.sched_setaffinity(0, before)


def test_work(benchmark) -> None:
    with together():
        benchmark.pedantic(work, rounds=ROUNDS)


def time_by_pyperf() -> None:
    import pyperf

    from guestpv.plugins.pyperf import corrected

    runner = pyperf.Runner(processes=1, values=ROUNDS, warmups=0, loops=1)
    # Its first process starts another, which measures.
    with together() if runner.parse_args().worker else nullcontext():
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
