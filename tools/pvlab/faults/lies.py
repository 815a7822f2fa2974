# SPDX-License-Identifier: MIT
"""What a count may say instead of what was stolen, as the module pvfault makes it say."""

from dataclasses import dataclass

PPB = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Lie:
    """What a count tells instead of the truth; with nothing given, it is the truth.

    Lies about what is stolen:
    counts_halted: all the time in which the vCPU's thread does not run, whatever the reason
    counts_all: what is stolen from any vCPU is told of each
    lose_every: one slice in so many is not counted; a slice is 1 ms or more
    cap_ns: no more than this of a slice is counted

    Lies about the count:
    scale: what is counted of what is stolen, up to 4; 0.001 are microseconds
    creep: what is added of the time that passes, at each exit of the vCPU
    freeze_after_ns: after growing by so much it stands still
    late_ns: it is published so much later, at the first exit of the vCPU after that
    bits: how many it has, before it begins at 0 again
    big_endian: its bytes are swapped
    """

    counts_halted: bool = False
    counts_all: bool = False
    lose_every: int = 0
    cap_ns: int = 0
    scale: float = 1.0
    creep: float = 0.0
    freeze_after_ns: int = 0
    late_ns: int = 0
    bits: int = 64
    big_endian: bool = False

    def parameters(self) -> dict[str, int]:
        """Those of the module, by name."""
        return {
            "halted": int(self.counts_halted),
            "summed": int(self.counts_all),
            "lose_every": self.lose_every,
            "cap_ns": self.cap_ns,
            "scale_ppb": round(self.scale * PPB),
            "creep_ppb": round(self.creep * PPB),
            "freeze_after_ns": self.freeze_after_ns,
            "late_ns": self.late_ns,
            "bits": self.bits,
            "swap_bytes": int(self.big_endian),
            "at_exits": int(bool(self.creep or self.late_ns)),
        }


TRUTH = Lie()
