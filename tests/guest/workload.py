# SPDX-License-Identifier: MIT
"""A piece of work that a tool times, as one of several tasks, which are all busy meanwhile.

It is done in phases. A phase begins when there is a file ``go-PHASE`` in the directory PLACE, and
as many tasks as it says have come; each writes a line into the pipe ``done``, if there is one, when
it has done its part, and keeps its vCPU busy until all have. PHASES names those in which this task
takes part. Run as

- ``pytest workload.py``, it is timed by pytest-benchmark;
- ``workload.py`` with options of pyperf's, by pyperf: with ``TIMER=corrected`` by its own timer;
- ``workload.py plain PHASE``, by whoever runs it.
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
PHASES = os.environ["PHASES"].split(",")


def work() -> None:
    for _ in range(LOOPS):
        pass


@contextmanager
def together(phase: str, *, busy: bool = True) -> Iterator[None]:
    """Begin when all tasks have come, and go on with nothing until all have done their work."""

    def number(what: str) -> int:
        return len(list(PLACE.glob(f"{what}-{phase}-*")))

    (PLACE / f"came-{phase}-{os.getpid()}").touch()
    while not (go := PLACE / f"go-{phase}").exists():
        time.sleep(0.05)
    tasks = int(go.read_text())
    while number("came") < tasks:
        time.sleep(0.05)
    yield
    (PLACE / f"done-{phase}-{os.getpid()}").touch()
    if (done := PLACE / "done").exists():
        done.write_text(f"{phase}\n")
    while busy and number("done") < tasks:
        work()


def pytest_generate_tests(metafunc) -> None:
    metafunc.parametrize("phase", PHASES)


def test_work(benchmark, phase) -> None:
    with together(phase):
        benchmark.pedantic(work, rounds=ROUNDS)


def time_by_pyperf() -> None:
    import pyperf

    from guestpv.plugins.pyperf import corrected

    runner = pyperf.Runner(processes=1, values=ROUNDS, warmups=0, loops=1)
    args = runner.parse_args()
    # Its first process starts one for each phase, which measures.
    with together(PHASES[args.worker_task]) if args.worker else nullcontext():
        for phase in PHASES:
            if os.environ.get("TIMER") == "corrected":
                runner.bench_time_func(phase, corrected(work))
            else:
                runner.bench_func(phase, work)


def main() -> None:
    match sys.argv[1:]:
        case ["plain", phase]:
            with together(phase, busy=False):
                for _ in range(ROUNDS):
                    work()
        case _:
            time_by_pyperf()


if __name__ == "__main__":
    main()
