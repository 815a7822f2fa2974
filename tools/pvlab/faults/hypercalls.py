# SPDX-License-Identifier: MIT
"""Faults in the host's KVM: hypercalls answered wrongly, counts that stand still, go on, or lie.

The module pvfault makes them. It is in the host's kernel only while there is a fault.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from .. import kmod
from ..account import PLACE
from ..errors import LabError
from ..kernels import Kernel
from ..machine import Machine
from ..site import Site
from .lies import TRUTH, Lie

HERE = Path(__file__).parent
ANSWERS = 8  # as many as pvfault has places for
VCPUS = 64
ANY = -1

_INSERT = "grep -q '^pvfault ' /proc/modules || insmod $0"
_SET = (
    "cd /sys/module/pvfault/parameters && set -e &&"
    ' for word; do echo "${word#*=}" >"${word%%=*}"; done'
)


@dataclass(frozen=True, slots=True)
class WrongAnswer:
    """To which hypercall, with which argument, of which vCPU, and what. No call, no answer.

    The upper half of an argument matters only where it is given.
    """

    call: int = 0
    arg: int = ANY
    vcpu: int = ANY
    answer: int = 0
    register: int = 0


def module(kernel: Kernel) -> kmod.Build:
    """The module for a host's kernel."""
    files = [HERE / "Kbuild", *sorted(HERE.glob("*.[ch]"))]
    return kmod.build_from(HERE, files, "pvfault", kernel)


class HypercallFaults:
    """The faults of one host; there are none at first."""

    def __init__(self, host: Site) -> None:
        self._host = host
        self._answers = [WrongAnswer()] * ANSWERS
        self._masks: dict[str, list[int]] = {"freeze": [], "keep": [], "liars": []}
        self._lie = TRUTH

    @contextmanager
    def answering(self, wrong: WrongAnswer) -> Iterator[None]:
        """Answer a hypercall wrongly."""
        free = [place for place, other in enumerate(self._answers) if not other.call]
        if not free:
            raise LabError(f"there can be no more than {ANSWERS} wrong answers at a time")
        with self._module():
            self._answers[free[0]] = wrong
            try:
                self._apply()
                yield
            finally:
                self._answers[free[0]] = replace(wrong, call=0)
                self._apply()

    @contextmanager
    def masking(self, parameter: str, vcpu: int | None) -> Iterator[None]:
        """Have one of the faults that concern a count: that of one vCPU, or of all."""
        mask = (1 << VCPUS) - 1 if vcpu is None else 1 << vcpu
        with self._module():
            self._masks[parameter].append(mask)
            try:
                self._apply()
                yield
            finally:
                self._masks[parameter].remove(mask)
                self._apply()

    @contextmanager
    def lying(self, lie: Lie, vcpu: int | None) -> Iterator[None]:
        """Have the count of one vCPU, or of all, lie; there is one lie at a time."""
        if self._masks["liars"]:
            raise LabError("counts that lie already are not to lie in another way")
        self._lie = lie
        try:
            with self.masking("liars", vcpu):
                yield
        finally:
            self._lie = TRUTH

    @contextmanager
    def _module(self) -> Iterator[None]:
        """The module is in the host's kernel, until the last fault is over."""
        if not isinstance(self._host, Machine):
            raise LabError("only a host of the lab's own is made to answer hypercalls wrongly")
        self._run(_INSERT, str(PLACE / "pvfault.ko"))
        try:
            yield
        finally:
            if not any((*(each.call for each in self._answers), *map(any, self._masks.values()))):
                self._run("rmmod pvfault")

    def _apply(self) -> None:
        """Tell the module of the faults that there are now; what decides on one comes last."""
        calls, args, vcpus, answers, regs = zip(*map(astuple, self._answers), strict=True)
        values = {
            "arg": args,
            "vcpu": vcpus,
            "answer": [answer % (1 << 64) for answer in answers],
            "reg": regs,
            "call": calls,
            **{name: [value] for name, value in self._lie.parameters().items()},
            **{name: [_union(masks)] for name, masks in self._masks.items()},
        }
        words = [f"{name}={','.join(map(str, each))}" for name, each in values.items()]
        self._run(_SET, "sh", *words)

    def _run(self, script: str, *arguments: str) -> None:
        done = self._host.run(["sh", "-c", script, *arguments])
        if done.returncode != 0:
            raise LabError(f"pvfault: {done.stderr.strip()}")


def _union(masks: list[int]) -> int:
    union = 0
    for mask in masks:
        union |= mask
    return union
