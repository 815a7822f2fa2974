# SPDX-License-Identifier: MIT
"""A counter for each of many that come and go."""

import resource
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Generic, Self, TypeVar

from guestpv.errors import Error, NoSourceError
from guestpv.latency import perf
from guestpv.latency.bounds import NOTHING, Bounds
from guestpv.latency.counter import Counter

One = TypeVar("One", int, str)
"""What each is known by."""

_LEFT_TO_OTHERS = 512
"""So many file descriptors are not taken by counters: sources and clients need some, too."""


class Many(ABC, Generic[One]):
    """Follows them: those that are there are counted, those that are gone are forgotten."""

    most: ClassVar[int]
    """So many are counted, however many there are: each takes file descriptors, and time of the
    kernel whenever it begins or ends to run."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """*say* is told, once, why some can't be counted."""
        self.left_out = 0
        """How many more there were at the last read, and are not counted: beyond `most`, or not
        permitted."""
        self.refused: Error | None = None
        """Why some can't be counted: of the first of them."""
        self._counters: dict[One, Counter] = {}
        self._before: dict[One, Bounds] = {}  # what was stolen from others of the same name
        self._say = say
        # The soft limit is low for those who use select(2), which nobody here does.
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self._descriptors = hard - min(_LEFT_TO_OTHERS, hard // 2)

    @abstractmethod
    def _there(self) -> set[One]:
        """All that there are now."""

    def _is_another(self, one: One, counted: Counter) -> bool:
        """Whether it is another one, of the same name, than the one that is counted."""
        return False

    @abstractmethod
    def _count(self, one: One) -> Counter:
        """A counter for it, from now on."""

    @abstractmethod
    def _descriptors_each(self) -> int:
        """How many file descriptors one of them takes at most."""

    def read(self) -> dict[One, Bounds]:
        """What was stolen from each since it is counted; from none where the module is not loaded,
        which stays while there are any."""
        there = self._there()
        if not perf.PMU.exists():
            self.left_out = len(there)
            return {}
        for one in self._counters.keys() - there:
            self._counters.pop(one).close()
        for one in self._before.keys() - there:
            del self._before[one]
        for one, ended in list(self._counters.items()):
            if self._is_another(one, ended):
                self._before[one] = self._before.get(one, NOTHING).plus(ended.read())
                self._counters.pop(one).close()
        # Those that are counted stay so, however many come.
        for one in sorted(there - self._counters.keys()):
            if len(self._counters) == self.most or not self._descriptors_suffice():
                break
            try:
                self._counters[one] = self._count(one)
            except NoSourceError:
                there.discard(one)  # it has gone since
            except Error as error:
                self._explain(error)
        self.left_out = len(there) - len(self._counters)
        return {
            one: self._before.get(one, NOTHING).plus(each.read())
            for one, each in self._counters.items()
        }

    def _descriptors_suffice(self) -> bool:
        """Whether there are enough for one more."""
        each, so_far = self._descriptors_each(), len(self._counters)
        if (so_far + 1) * each <= self._descriptors:
            return True
        self._explain(
            Error(
                f"{so_far} are counted, and no more",
                f"Each takes {each} file descriptors, and this process may have"
                f" {self._descriptors} for them",
                "raise 'ulimit -Hn'",
            )
        )
        return False

    def _explain(self, error: Error) -> None:
        if not self.refused:
            self.refused = error
            self._say(str(error))

    def close(self) -> None:
        for each in self._counters.values():
            each.close()
        self._counters.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
