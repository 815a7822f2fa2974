# SPDX-License-Identifier: MIT
"""pyperf: what was stolen from each run, in its metadata; and a timer without it.

::

    python3 -m pyperf timeit --hook guestpv 'sorted(range(1000))'

A hook can't change what was measured. A script can have the host's share left out::

    from guestpv.plugins.pyperf import corrected

    runner = pyperf.Runner()
    runner.bench_time_func("sort", corrected(sort))
"""

import sys
import time
from collections.abc import Callable
from itertools import repeat
from typing import ClassVar

from guestpv.errors import Error

DISTURBED_PERCENT = 1.0
"""Of a run from which more was stolen, a line on stderr says so."""

_TRIES = 10


class Hook:
    """Measures around each value of a run: from this thread, and from all that it starts.

    A run's metadata have ``guestpv_stolen_ns``, ``guestpv_unknown_ns`` (up to so much more),
    ``guestpv_wall_ns`` and ``guestpv_stolen_percent`` (at least); or, where nothing is known,
    ``guestpv``, which says why.
    """

    _said: ClassVar[bool] = False  # in this process, for warmups or values

    def __init__(self) -> None:
        from guestpv.latency import clock

        self._sum = clock.Elapsed(0, 0, 0)
        try:
            self._clock: clock.Clock | None = clock.of_this_thread(tree=True)
        except Error as error:
            self._clock, self._why = None, str(error)

    def __enter__(self) -> None:
        if self._clock is not None:
            self._begin = self._clock.elapsed()

    def __exit__(self, *_: object) -> None:
        if self._clock is not None:
            passed = self._clock.elapsed().since(self._begin)
            self._sum = type(passed)(*map(sum, zip(self._sum, passed, strict=True)))

    def teardown(self, metadata: dict[str, str | int | float]) -> None:
        """pyperf calls it once the values are there."""
        if self._clock is None:
            metadata["guestpv"] = f"what was stolen is not known: {self._why}"
            return
        self._clock.close()
        percent = self._sum.least_percent
        metadata["guestpv_wall_ns"] = self._sum.wall_ns
        metadata["guestpv_stolen_ns"] = self._sum.stolen_ns
        metadata["guestpv_unknown_ns"] = self._sum.unknown_ns
        metadata["guestpv_stolen_percent"] = round(percent, 3)
        if self._sum.most_percent > DISTURBED_PERCENT and not Hook._said:
            Hook._said = True
            most = self._sum.most_percent
            share = f"{percent:.1f}" + (f" to {most:.1f}" if self._sum.unknown_ns else "")
            print(
                f"guestpv: the hypervisor took {share} % of a run: its values are that much too"
                " long, unless guestpv.plugins.pyperf.corrected times them",
                file=sys.stderr,
            )


def corrected(func: Callable[..., object]) -> Callable[..., float]:
    """A function for `pyperf.Runner.bench_time_func`: times *func*, without what was stolen.

    Where nothing is known of stolen time it times as pyperf does. A value of which it is not known
    what was stolen is measured again; Error if it never becomes known.
    """

    def time_func(loops: int, *args: object) -> float:
        from guestpv.latency import clock

        try:
            unstolen = clock.of_this_thread()
        except Error:
            begin = time.perf_counter()
            for _ in repeat(None, loops):
                func(*args)
            return time.perf_counter() - begin
        with unstolen:
            for _ in range(_TRIES):
                before = unstolen.elapsed()
                for _ in repeat(None, loops):
                    func(*args)
                passed = unstolen.elapsed().since(before)
                if not passed.unknown_ns:
                    return max(passed.wall_ns - passed.stolen_ns, 1) / 1e9
        raise Error(
            "pyperf: no value measured",
            f"Of {_TRIES} in a row it is not known what was stolen",
            "'guestpv validate' says whether the count can be trusted",
        )

    return time_func
