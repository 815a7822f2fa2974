# SPDX-License-Identifier: MIT
"""Finding, building and refusing the module, as far as that goes without an arm64 kernel.

What needs the kernel is in tests/guest/test_module.py.
"""

import gzip
import lzma
import os
import platform
import subprocess
import sys
from errno import EINVAL, ENODEV, EOPNOTSUPP, EPERM, ESTALE, ETXTBSY
from pathlib import Path

import pytest

from guestpv.driver import build, kmsg, module
from guestpv.errors import ModuleError, PermissionDeniedError, UnsupportedError

OTHER_MACHINE = platform.machine() != "aarch64"


@pytest.mark.skipif(not OTHER_MACHINE, reason="this machine may have PV-time")
def test_other_architecture():
    with pytest.raises(UnsupportedError, match=platform.machine()):
        module.load()
    assert isinstance(module.why_not_here(), UnsupportedError)


@pytest.mark.parametrize(
    ("code", "error", "exit_code"),
    [
        (ENODEV, UnsupportedError, 10),
        (EOPNOTSUPP, UnsupportedError, 10),
        (EINVAL, ModuleError, 9),
        (ESTALE, ModuleError, 9),
        (EPERM, PermissionDeniedError, 4),
        (ETXTBSY, ModuleError, 9),
    ],
)
def test_refusal_by_the_kernel(code, error, exit_code):
    refusal = module._refusal(Path("guestpv.ko"), code, None)
    assert type(refusal) is error
    assert refusal.exit_code == exit_code
    assert refusal.why
    assert refusal.fix


def test_what_the_kernel_said_is_handed_on():
    said = "PV_TIME_FEATURES(0xc5000021) returned -1 (0xffffffffffffffff)"
    refusal = module._refusal(Path("guestpv.ko"), EOPNOTSUPP, said)
    assert said in str(refusal)
    assert "--source procfs" in str(refusal)


def test_kernel_that_booted_where_there_was_no_pv_time_is_to_boot_again():
    """And only then to ask for what the hypervisor may have by now."""
    said = f"PV_TIME_FEATURES vouches for PV_TIME_ST(0xc5000021), but {module._BEFORE_PV_TIME}"
    refusal = module._refusal(Path("guestpv.ko"), EOPNOTSUPP, said)
    assert refusal.fix.startswith("reboot the guest")
    assert refusal.fix.index("reboot") < refusal.fix.index("ask who")
    assert f'"{module._BEFORE_PV_TIME}"' in build._sources()["index.c"].read_text()


@pytest.mark.parametrize("suffix", ["", ".xz", ".gz", ".zst"])
def test_compressed_module_is_read(tmp_path, suffix):
    path = tmp_path / f"guestpv.ko{suffix}"
    if suffix:
        tool = {".xz": "xz", ".gz": "gzip", ".zst": "zstd"}[suffix]
        path.write_bytes(subprocess.run([tool, "-c"], input=b"ELF", capture_output=True).stdout)
    else:
        path.write_bytes(b"ELF")
    assert module._image(path) == b"ELF"
    with module._opened(path) as fd:
        assert os.pread(fd, 4, 0) == b"ELF"


@pytest.mark.parametrize(
    "name",
    [
        *("missing.ko", "missing.ko.xz", "garbage.ko.xz", "garbage.ko.gz", "garbage.ko.zst"),
        *("cut.ko.xz", "cut.ko.gz", "damaged.ko.gz"),
    ],
)
def test_module_that_cannot_be_read(tmp_path, name):
    if name.startswith("garbage"):
        (tmp_path / name).write_bytes(b"garbage")
    elif not name.startswith("missing"):
        compress = gzip.compress if name.endswith("gz") else lzma.compress
        whole = bytearray(compress(b"ELF" * 1000))
        if name.startswith("damaged"):
            whole[10:14] = b"\xff" * 4
        (tmp_path / name).write_bytes(whole[: -8 if name.startswith("cut") else None])
    with pytest.raises(ModuleError, match="not readable"):
        module._image(tmp_path / name)
    with pytest.raises(ModuleError, match="not readable"), module._opened(tmp_path / name):
        pass


def test_who_has_the_device_mapped(tmp_path):
    """Whatever else they have mapped and what they call themselves: names are bytes."""
    device = tmp_path / "device"
    not_utf8 = os.fsencode(tmp_path / "caf") + b"\xe9"
    script = f"""
import mmap, sys
pages = []
for path in {os.fsencode(device)!r}, {not_utf8!r}:
    with open(path, "a+b") as file:
        file.truncate(4096)
        pages.append(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
with open("/proc/self/comm", "wb") as name:
    name.write(b"caf\\xe9")
print("mapped", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as user:
        assert user.stdout.readline() == b"mapped\n"
        assert list(module._users(str(device))) == [f"caf\N{REPLACEMENT CHARACTER} ({user.pid})"]
        user.stdin.close()
    assert list(module._users(str(device))) == []


@pytest.mark.parametrize("place", ["updates/dkms", "extra", "weak-updates"])
@pytest.mark.parametrize("name", build.NAMES)
def test_installed_module_is_found(tmp_path, monkeypatch, place, name):
    monkeypatch.setattr(module, "MODULES", tmp_path)
    assert module._installed(name) is None
    path = tmp_path / platform.release() / place / f"{name}.ko.xz"
    path.parent.mkdir(parents=True)
    path.touch()
    assert module._installed(name) == path
    (other,) = {*build.NAMES} - {name}
    assert module._installed(other) is None


# The build


@pytest.fixture
def headers(tmp_path, monkeypatch):
    """Kernel headers of which make copies a source, and an empty cache."""
    headers = tmp_path / platform.release() / "build"
    headers.mkdir(parents=True)
    (headers / "Makefile").write_text(
        "modules:\n\tcp $(M)/main.c $(M)/guestpv.ko\n\tcp $(M)/ask.c $(M)/guestpv_ask.ko\n"
    )
    monkeypatch.setattr(build, "MODULES", tmp_path)
    monkeypatch.setattr(build, "CACHE", tmp_path / "cache")
    return headers


def test_module_is_built_once(headers):
    said = []
    built = build.build(said.append)
    assert "guestpv_init" in built.read_text()
    assert len(said) == 1
    assert build.build(said.append) == built
    asks = build.build(said.append, "guestpv_ask")
    assert "guestpv_ask_init" in asks.read_text()
    assert len(said) == 1
    kept = sorted(path.name for path in built.parent.iterdir())
    assert kept == ["build.log", built.name, asks.name]


def test_module_of_other_sources_is_another(headers, monkeypatch):
    built = build.build(lambda _: None)
    sources = build._sources()
    sources["Kbuild"] = headers / "Makefile"
    monkeypatch.setattr(build, "_sources", lambda: sources)
    assert build.build(lambda _: None) != built


def test_sources_are_all_that_a_build_needs():
    names = set(build._sources())
    assert {"Kbuild", "Makefile", "main.c", "core.h", "uapi/guestpv.h"} <= names
    assert all(Path(name).suffix in (".c", ".h", "") for name in names)


def test_failed_build_leaves_its_log_and_nothing_else(headers):
    (headers / "Makefile").write_text("modules:\n\t@echo main.c:7: error: broken; exit 1\n")
    with pytest.raises(ModuleError, match=r"main\.c:7: error: broken") as refused:
        build.build(lambda _: None)
    assert str(build.CACHE / "build.log") in refused.value.fix
    assert [path.name for path in build.CACHE.iterdir()] == ["build.log"]


def test_missing_headers_and_tools_are_named(headers, monkeypatch):
    (headers / "Makefile").unlink()
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ModuleError) as refused:
        build.build(lambda _: None)
    assert f"apt install make gcc linux-headers-{platform.release()}" in refused.value.fix


# The kernel log


@pytest.fixture
def refusal_in(monkeypatch):
    """The last refusal in records as /dev/kmsg has them."""

    def last_refusal(*records):
        log = kmsg.KernelLog()
        remaining = iter(records)
        monkeypatch.setattr(log, "_record", lambda: next(remaining, None))
        return log.last_refusal()

    return last_refusal


def test_last_refusal_is_the_newest(refusal_in):
    """A record is a prefix, the text, and lines about the device."""
    refusal = refusal_in(
        b"6,1,100,-;guestpv: not loaded: SMCCC_ARCH_FEATURES(0xc5000020) returned -1\n",
        b"6,2,200,-;usb 1-1: guestpv: not loaded: no\n SUBSYSTEM=usb\n",
        b"3,3,300,-;guestpv: not loaded: PV_TIME_FEATURES(0xc5000021) returned -1\n DEVICE=x\n",
        b"6,4,400,-;guestpv: loading out-of-tree module taints kernel.\n",
    )
    assert refusal == "PV_TIME_FEATURES(0xc5000021) returned -1"


def test_refusal_is_over_once_the_module_loads(refusal_in):
    refused = b"3,1,100,-;guestpv: not loaded: adopt_offset and adopt_build are needed\n"
    loaded = b"6,2,200,-;guestpv: 4 stolen-time structures in 1 pages\n"
    by_a_process = b"14,3,300,-;guestpv: 4 stolen-time structures in 1 pages\n"
    assert refusal_in(refused, loaded) is None
    assert refusal_in(loaded, refused) == "adopt_offset and adopt_build are needed"
    assert refusal_in(refused, by_a_process) == "adopt_offset and adopt_build are needed"


def test_module_says_that_it_loaded_as_is_expected():
    assert 'pr_info("%u stolen-time structures in ' in build._sources()["index.c"].read_text()


def test_this_kernels_log_can_be_read():
    """Whether it may be is another matter; that it never waits or fails is not."""
    with kmsg.KernelLog() as log:
        log.last_refusal()
        assert log.last_refusal() is None  # all was read
    with kmsg.KernelLog(from_now=True) as log:
        assert log.last_refusal() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may write to the kernel log")
def test_process_that_writes_a_refusal_is_not_believed():
    with kmsg.KernelLog(from_now=True) as log:
        Path("/dev/kmsg").write_text("guestpv: not loaded: (written by a test of guestpv)\n")
        assert log.last_refusal() is None
