# SPDX-License-Identifier: MIT
"""The modules: the guest's, built against every kernel that it is meant for, and the hosts'."""

import platform
import subprocess

import pytest
from elftools.elf.elffile import ELFFile

from guestpv.driver import build
from pvlab import equipment, kmod
from pvlab.faults import hypercalls
from pvlab.kernels import KERNELS, kernel

WITHOUT_SPARSE = ["newest"]
"""Debian's newest headers come without the script by which make finds sparse."""
CHECKED = "W=1", "C=2"
"""How make is told to warn of more, and to run sparse on all: one build for each kernel."""


def test_builds_without_a_warning(kernel_name):
    assert kmod.build(kernel(kernel_name), *CHECKED).warnings() == []


def test_sparse_finds_nothing(kernel_name):
    checked = kmod.build(kernel(kernel_name), *CHECKED)
    assert ("CHECK" in checked.log) == (kernel_name not in WITHOUT_SPARSE)
    assert checked.warnings() == []
    assert "error:" not in checked.log


@pytest.mark.parametrize("host", [each.name for each in KERNELS.values() if each.hosts])
def test_the_hosts_build_without_a_warning(host):
    assert hypercalls.module(kernel(host)).warnings() == []
    assert equipment.wake(kernel(host)).warnings() == []


def test_checkpatch_finds_nothing():
    script = kernel("claim-6.1").directory() / "build/scripts/checkpatch.pl"
    options = ["--no-tree", "--strict", "--terse", "--max-line-length=100", "--file"]
    files = [path for path in kmod.sources() if path.suffix in (".c", ".h")]
    files += [*hypercalls.HERE.glob("*.c"), *equipment.WAKE.glob("*.c")]
    checked = subprocess.run([script, *options, *files], capture_output=True, text=True)
    assert (checked.stdout + checked.stderr, checked.returncode) == ("", 0)


def test_only_where_nobody_owns_the_structures_can_the_module_call_pv_time_st(kernel_name):
    """The trap, kept out by construction: the code that would spring it is not linked."""
    built = kmod.build(kernel(kernel_name))
    claims, adopts = ("claim.o" in built.log, "adopt.o" in built.log)
    assert (claims, adopts) == ("claim" in kernel_name, "claim" not in kernel_name)


@pytest.mark.parametrize("name", ["stock-6.12", "newest"])
def test_ftrace_can_patch_every_function(name):
    """Since 6.3 it writes a pointer before each, and takes the kernel down where it can't."""
    module = kmod.build(kernel(name)).module
    with module.open("rb") as file:
        elf = ELFFile(file)
        symbols = elf.get_section_by_name(".symtab")
        patched = elf.get_section_by_name(".rela__patchable_function_entries")
        places = [
            (elf.get_section(symbol["st_shndx"]), symbol["st_value"] + entry["r_addend"])
            for entry in patched.iter_relocations()
            for symbol in [symbols.get_symbol(entry["r_info_sym"])]
        ]
    assert len(places) > 10
    for section, offset in places:
        assert section["sh_addralign"] % 8 == 0, section.name
        assert offset % 8 == 0, (section.name, hex(offset))


@pytest.fixture
def running_kernel(monkeypatch, tmp_path):
    """As if this machine ran claim-6.1 and had its headers, where a distribution has them."""
    claim = kernel("claim-6.1")
    headers = tmp_path / "modules" / claim.release / "build"
    headers.parent.mkdir(parents=True)
    headers.symlink_to(claim.directory() / "build")
    monkeypatch.setattr(build, "MODULES", tmp_path / "modules")
    monkeypatch.setattr(build, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(platform, "release", lambda: claim.release)
    monkeypatch.setenv("ARCH", "arm64")
    monkeypatch.setenv("CROSS_COMPILE", "aarch64-linux-gnu-")
    return claim.release


def test_load_builds_what_is_not_installed(running_kernel):
    said = []
    module = build.build(said.append)
    info = subprocess.run(["/sbin/modinfo", module], capture_output=True, text=True).stdout
    assert f"vermagic:       {running_kernel} " in info
    assert said == [f"building the modules for {running_kernel}"]
    assert build.build(pytest.fail) == module  # it is kept
