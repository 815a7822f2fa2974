# SPDX-License-Identifier: MIT
"""The module, built on this machine against every kernel that it is meant for."""

import subprocess

import pytest

from pvlab import kmod
from pvlab.kernels import KERNELS, kernel

every_kernel = pytest.mark.parametrize("name", list(KERNELS))


@every_kernel
def test_builds_without_a_warning(name):
    assert kmod.build(kernel(name), "W=1").warnings() == []


# Debian's newest headers come without the script by which make finds sparse.
@pytest.mark.parametrize("name", [name for name in KERNELS if name != "build-newest"])
def test_sparse_finds_nothing(name):
    checked = kmod.build(kernel(name), "C=2")
    assert "CHECK" in checked.log
    assert checked.warnings() == []
    assert "error:" not in checked.log


def test_checkpatch_finds_nothing():
    script = kernel("claim-6.1").directory() / "build/scripts/checkpatch.pl"
    options = ["--no-tree", "--strict", "--terse", "--max-line-length=100", "--file"]
    files = [path for path in kmod.sources() if path.suffix in (".c", ".h")]
    checked = subprocess.run([script, *options, *files], capture_output=True, text=True)
    assert (checked.stdout + checked.stderr, checked.returncode) == ("", 0)


@every_kernel
def test_only_where_nobody_owns_the_structures_can_the_module_call_pv_time_st(name):
    """The trap, kept out by construction: the code that would spring it is not linked."""
    built = kmod.build(kernel(name))
    claims, adopts = ("claim.o" in built.log, "adopt.o" in built.log)
    assert (claims, adopts) == (("claim" in name), ("claim" not in name))
