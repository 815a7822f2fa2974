# SPDX-License-Identifier: MIT
"""/dev/guestpv gives one read-only mapping and refuses all else, as mmap(2) says."""

import ctypes
import errno
import mmap
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from guestpv.page import abi, layout

pytestmark = pytest.mark.usefixtures("loaded")

DEVICE = Path("/dev/guestpv")
PAGE = mmap.PAGESIZE


@pytest.fixture
def fd():
    fd = os.open(DEVICE, os.O_RDWR)
    yield fd
    os.close(fd)


@pytest.fixture
def header(fd):
    with mmap.mmap(fd, PAGE, mmap.MAP_SHARED, mmap.PROT_READ) as page:
        return np.frombuffer(bytes(page), layout.HEADER, count=1)[0]


def refusal(fd, length, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ, offset=0):
    with pytest.raises(OSError) as refused:
        mmap.mmap(fd, length, flags, prot, offset=offset)
    return errno.errorcode[refused.value.errno]


def test_only_root_may_open_it():
    assert stat.S_IMODE(DEVICE.stat().st_mode) == 0o400
    script = f"import os; os.setuid(65534); os.open('{DEVICE}', os.O_RDONLY)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "PermissionError" in done.stderr


@pytest.mark.parametrize("flags", [mmap.MAP_SHARED, mmap.MAP_PRIVATE])
def test_writable_mapping_is_refused(fd, flags):
    assert refusal(fd, PAGE, flags, mmap.PROT_READ | mmap.PROT_WRITE) == "EACCES"


def test_executable_mapping_is_refused(fd):
    assert refusal(fd, PAGE, prot=mmap.PROT_READ | mmap.PROT_EXEC) == "EPERM"


def test_mapping_beyond_the_end_is_refused(fd, header):
    size = int(header["size"])
    assert refusal(fd, size + PAGE) == "EINVAL"
    assert refusal(fd, PAGE, offset=size) == "EINVAL"
    assert refusal(fd, size, offset=PAGE) == "EINVAL"


def test_private_read_only_mapping_is_allowed(fd):
    with mmap.mmap(fd, PAGE, mmap.MAP_PRIVATE, mmap.PROT_READ) as page:
        assert page[:7] == b"GUESTPV"


@pytest.mark.parametrize("prot", [mmap.PROT_WRITE, mmap.PROT_EXEC])
@pytest.mark.parametrize("flags", [mmap.MAP_SHARED, mmap.MAP_PRIVATE])
def test_mprotect_cannot_undo_the_refusal(fd, flags, prot):
    libc = ctypes.CDLL(None, use_errno=True)
    with mmap.mmap(fd, PAGE, flags, mmap.PROT_READ) as page:
        view = np.frombuffer(page, np.uint8)
        address = ctypes.c_void_p(view.ctypes.data)
        assert libc.mprotect(address, ctypes.c_size_t(PAGE), mmap.PROT_READ | prot) == -1
        assert ctypes.get_errno() == errno.EACCES
        del view


def test_read_and_write_are_refused(fd):
    for call in (lambda: os.read(fd, 16), lambda: os.write(fd, b"x")):
        with pytest.raises(OSError) as refused:
            call()
        assert refused.value.errno == errno.EINVAL


def test_structures_stand_at_their_offsets_within_their_pages(fd, header):
    size, page_size = int(header["size"]), int(header["page_size"])
    with mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ) as mapping:
        entries = np.frombuffer(
            mapping, layout.ENTRY, int(header["nr_entries"]), int(header["header_size"])
        ).copy()
        online = entries[entries["state"] == abi.State.ONLINE]
        assert len(online) == os.cpu_count()
        for entry in online:
            offset = int(entry["offset"])
            assert offset % page_size == int(entry["ipa"]) % page_size
            assert mapping[offset : offset + 8] == bytes(8)  # revision and attributes
        # In the order of addresses, so what stands 64 bytes apart stays so.
        by_ipa = np.sort(online, order="ipa")
        same_page = np.diff(by_ipa["ipa"] // page_size) == 0
        assert (np.diff(by_ipa["offset"].astype(np.int64)) > 0).all()
        assert (np.diff(by_ipa["offset"])[same_page] == np.diff(by_ipa["ipa"])[same_page]).all()


def test_a_page_without_structures_is_a_bus_error_and_nothing_else(header):
    """All slots are mapped, but only those that hold structures can be touched."""
    script = (
        f"import mmap, os; m = mmap.mmap(os.open('{DEVICE}', os.O_RDONLY), {header['size']},"
        f" mmap.MAP_SHARED, mmap.PROT_READ); print(m[{header['size']} - 1])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True)
    assert done.returncode == -7  # SIGBUS


def test_module_stays_while_it_is_mapped(fd, header, command):
    with mmap.mmap(fd, int(header["size"]), mmap.MAP_SHARED, mmap.PROT_READ) as mapping:
        assert "in use" in command("unload", returncode=8).stderr
        assert mapping[:7] == b"GUESTPV"
