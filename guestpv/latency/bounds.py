# SPDX-License-Identifier: MIT
"""A time that need not be known exactly."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bounds:
    """Nanoseconds: at least so many, and at most so many; plain ints."""

    least_ns: int
    most_ns: int

    @property
    def exact(self) -> bool:
        """Whether the two are the same."""
        return self.least_ns == self.most_ns

    def plus(self, other: "Bounds") -> "Bounds":
        """Both together."""
        return Bounds(self.least_ns + other.least_ns, self.most_ns + other.most_ns)

    def since(self, earlier: "Bounds") -> "Bounds":
        """What was added, where both bounds only grow."""
        return Bounds(self.least_ns - earlier.least_ns, self.most_ns - earlier.most_ns)

    def within(self, most_ns: int) -> "Bounds":
        """No more than that, since there was no more time."""
        return Bounds(min(self.least_ns, most_ns), min(self.most_ns, most_ns))

    def taken_from(self, whole_ns: int) -> "Bounds":
        """What is left of a time of which this is a part."""
        return Bounds(max(whole_ns - self.most_ns, 0), max(whole_ns - self.least_ns, 0))

    def __str__(self) -> str:
        if self.exact:
            return f"{self.least_ns} ns"
        return f"{self.least_ns} to {self.most_ns} ns"


NOTHING = Bounds(0, 0)
