# SPDX-License-Identifier: MIT
"""The kernel module: find it, find what adoption needs, insert it, remove it."""

import ctypes
import gzip
import lzma
import os
import platform
import subprocess
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from errno import (
    EBUSY,
    EEXIST,
    EINVAL,
    EKEYREJECTED,
    ENODEV,
    ENOENT,
    ENOEXEC,
    ENOKEY,
    ENXIO,
    EOPNOTSUPP,
    EPERM,
    ESTALE,
    EWOULDBLOCK,
)
from pathlib import Path

from guestpv.driver import btf
from guestpv.driver.build import MODULES, build
from guestpv.driver.kmsg import KernelLog, last_refusal
from guestpv.errors import (
    MEANWHILE,
    BusyError,
    Error,
    ModuleError,
    NoSourceError,
    PermissionDeniedError,
    UnsupportedError,
)
from guestpv.page.abi import DEVICE

NAME = "guestpv"
_LOADED = Path("/sys/module", NAME)
_BTF = Path("/sys/kernel/btf/vmlinux")

_ASK = f"ask who runs the hypervisor for Arm PV-time {MEANWHILE}"
_REBOOT = f"reboot the guest, so that its kernel asks again; if it still got none, {_ASK}"
_REBUILD = "remove it, and 'guestpv load' builds one for this kernel"
_SIGN = "sign it with a key that this machine trusts, as DKMS can, or turn Secure Boot off"

# What the module says of a VM that booted on a host without PV-time, and then moved to one with it.
_BEFORE_PV_TIME = "this kernel got no structure by it when it booted"

_FINIT_MODULE = 273  # of arm64; libc has no function for it

# What finit_module(2) returns: the error, why (if the kernel log does not say), what to do.
_REFUSALS: dict[int, tuple[type[Error], str, str]] = {
    ENODEV: (UnsupportedError, "The firmware has no SMCCC 1.1 conduit", _ASK),
    EOPNOTSUPP: (UnsupportedError, "The hypervisor offers no stolen time", _ASK),
    EINVAL: (
        ModuleError,
        "The parameters do not suit this kernel",
        f"a kernel that owns the structures needs {_BTF} with its per-CPU variables "
        "(CONFIG_DEBUG_INFO_BTF=y, pahole 1.18 or later): it is the kernel that is too old",
    ),
    ESTALE: (ModuleError, "It was built for another kernel", _REBUILD),
    ENXIO: (
        ModuleError,
        "No structure could be trusted",
        "please report this line, if it does not say itself what is missing",
    ),
    ENOEXEC: (ModuleError, "It was built for another kernel", _REBUILD),
    EPERM: (
        PermissionDeniedError,
        "This process may not load modules",
        "do it outside of the container, or see kernel.modules_disabled and kernel_lockdown(7)",
    ),
    ENOKEY: (PermissionDeniedError, "It is not signed, and this machine wants that", _SIGN),
    EKEYREJECTED: (PermissionDeniedError, "Its signature is not trusted here", _SIGN),
}


@dataclass(frozen=True, slots=True)
class Loaded:
    """What load() did."""

    path: Path
    built: bool  # by guestpv, now or earlier; False if it was installed or given
    adopt_offset: int | None  # None: this kernel owns no structures, so nothing was adopted


def load(
    path: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
    *,
    probe: bool = False,
) -> Loaded | None:
    """Insert the module; None if that was done before.

    Takes *path*, or the module that is installed for the running kernel, or builds one. *say* is
    told of what takes long. With *probe* it loads whatever the hypervisor answers, shows that, and
    maps no structure. Raises UnsupportedError where there is no PV-time, ModuleError where
    the module can't be had or refuses, PermissionDeniedError for all but root.
    """
    _check_architecture()
    if is_loaded():
        return None
    _check_root("load")

    ready = path or _installed()
    module = ready or build(say)
    adopt_offset = _adopt_offset()
    params = f"probe={probe:d}"
    if adopt_offset is not None:
        build_of_kernel = f"{platform.release()} {platform.version()}"
        params += f' adopt_offset={adopt_offset} adopt_build="{build_of_kernel}"'
    if not insert(module, params):
        return None
    return Loaded(module, ready is None, adopt_offset)


def find(say: Callable[[str], None] = lambda _: None, name: str = NAME) -> Path:
    """The module that load() would take, or the other one of that name.

    Raises ModuleError if there is none and none is built, and UnsupportedError on another
    architecture.
    """
    _check_architecture()
    return _installed(name) or build(say, name)


def is_loaded() -> bool:
    """Whether the module is in the kernel, with a device that is to be seen or not."""
    return _LOADED.exists()


def is_like_loaded(module: Path) -> bool:
    """Whether *module* is built from the sources of the one that is loaded.

    Raises ModuleError if *module* can't be read.
    """
    try:
        srcversion = (_LOADED / "srcversion").read_bytes().strip()
    except FileNotFoundError:
        return False  # none is loaded, or the kernel does not tell
    return b"srcversion=" + srcversion + b"\0" in _image(module)


def unload() -> bool:
    """Remove the module; False if it is not there. Raises BusyError while it is in use."""
    if not _LOADED.exists():
        return False
    _check_root("unload")
    return remove()


def remove(name: str = NAME) -> bool:
    """Remove a module; False if it is not there. Raises as unload() does."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.delete_module(name.encode(), os.O_NONBLOCK) == 0:
        return True
    code = ctypes.get_errno()
    if code == ENOENT:
        return False
    if code in (EBUSY, EWOULDBLOCK):
        device = f"/dev/{name}"
        users = ", ".join(_users(device)) or "something"
        raise BusyError("Module in use", f"{device} is open in {users}", "stop that first")
    raise PermissionDeniedError("Module not unloaded", os.strerror(code), _REFUSALS[EPERM][2])


def why_not_here() -> Error | None:
    """The step at which discovery ended, so that there is no device; None if it did not begin."""
    if platform.machine() != "aarch64":
        return _other_architecture()
    what = f"{DEVICE}: no such device"
    if _LOADED.exists():
        why = "The module is loaded, but the device is not in this file system"
        return NoSourceError(what, why, f"let the container have {DEVICE} {MEANWHILE}")
    if refusal := last_refusal():
        why = f"The module was not loaded ({refusal})"
        return NoSourceError(what, why, f"see what 'sudo guestpv load' says {MEANWHILE}")
    return None


def _other_architecture() -> UnsupportedError:
    return UnsupportedError(
        "No PV-time on this machine",
        "Discovery ended at its first step, the architecture, which is "
        f"{platform.machine()} and not aarch64",
        f"use an arm64 guest {MEANWHILE}",
    )


def _check_architecture() -> None:
    if platform.machine() != "aarch64":
        raise _other_architecture()


def _check_root(command: str) -> None:
    if os.geteuid() != 0:
        raise PermissionDeniedError(
            f"Module not {command}ed", "Only root may do that", f"run 'sudo guestpv {command}'"
        )


def _installed(name: str = NAME) -> Path | None:
    """The module that DKMS or a package installed for the running kernel."""
    modules = MODULES / platform.release()
    for place in ("updates", "extra", "weak-updates"):
        for path in sorted((modules / place).rglob(f"{name}.ko*")):
            return path
    return None


def _adopt_offset() -> int | None:
    """What adoption needs. None without BTF, too: if the module needs it, the module says so."""
    try:
        return btf.adopt_offset(_BTF.read_bytes())
    except FileNotFoundError:
        return None


def insert(module: Path, params: str) -> bool:
    """Insert a module; False if one of its name is there. Raises as load() does."""
    libc = ctypes.CDLL(None, use_errno=True)
    with _opened(module) as fd, KernelLog(from_now=True) as log:
        # By its file: a policy that judges modules by where they come from (LoadPin, IMA) can.
        if libc.syscall(ctypes.c_long(_FINIT_MODULE), fd, params.encode(), 0) == 0:
            return True
        code = ctypes.get_errno()
        if code == EEXIST:
            return False
        raise _refusal(module, code, log.last_refusal())


@contextmanager
def _opened(module: Path) -> Iterator[int]:
    """The module as a file that the kernel can read: a compressed one is unpacked into memory."""
    if module.suffix in _DECOMPRESS:
        with open(os.memfd_create(module.name), "wb", buffering=0) as unpacked:
            unpacked.write(_image(module))
            yield unpacked.fileno()
        return
    try:
        file = module.open("rb")
    except OSError as error:
        raise _unreadable(module, error) from error
    with file:
        yield file.fileno()


def _image(module: Path) -> bytes:
    try:
        image = module.read_bytes()
        decompress = _DECOMPRESS.get(module.suffix)
        return decompress(image) if decompress else image
    except _NOT_READ as error:
        raise _unreadable(module, error) from error


def _zstd(image: bytes) -> bytes:
    done = subprocess.run(["zstd", "-dcq"], input=image, stdout=subprocess.PIPE, check=True)
    return done.stdout


_DECOMPRESS = {".gz": gzip.decompress, ".xz": lzma.decompress, ".zst": _zstd}
_NOT_READ = (OSError, EOFError, zlib.error, lzma.LZMAError, subprocess.CalledProcessError)


def _unreadable(module: Path, error: Exception) -> ModuleError:
    return ModuleError(f"{module}: not readable", str(error), "give another one with --module PATH")


def _refusal(module: Path, code: int, kernel_says: str | None) -> Error:
    unknown = (ModuleError, os.strerror(code), "'dmesg' may say more")
    error, why, fix = _REFUSALS.get(code, unknown)
    if kernel_says and _BEFORE_PV_TIME in kernel_says:
        fix = _REBOOT
    return error(f"{module}: refused by the kernel", kernel_says or why, fix)


def _users(device: str) -> Iterator[str]:
    """The processes that have the device mapped."""
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            if f"{device}\n" in maps.read_text(errors="replace"):
                name = (maps.parent / "comm").read_text(errors="replace").strip()
                yield f"{name} ({maps.parent.name})"
        except OSError:
            continue  # it ended meanwhile
