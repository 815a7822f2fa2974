# SPDX-License-Identifier: MIT
"""Loading: whatever the way, the kernel is not harmed, and a refusal is one line that says why."""

import errno
import gzip
import os
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("unloaded")

MODULE = f"/lib/modules/{os.uname().release}/extra/guestpv.ko"
BUILD = f"{os.uname().release} {os.uname().version}"
LOADED = Path("/sys/module/guestpv")
KERNEL_OWNS = Path("/sys/kernel/btf/vmlinux").exists()  # of the lab's kernels, those with BTF do

adopts = pytest.mark.skipif(not KERNEL_OWNS, reason="nothing to adopt on this kernel")
claims = pytest.mark.skipif(KERNEL_OWNS, reason="this kernel owns the structures")


def insmod(*params):
    """insmod's exit code and message; the errno stands in it as its text."""
    done = subprocess.run(["insmod", MODULE, *params], capture_output=True, text=True)
    return done.returncode, done.stderr


def refused(error, *params):
    code, message = insmod(*params)
    assert code != 0
    # insmod has a text of its own for this one
    assert ("Invalid parameters" if error == errno.EINVAL else os.strerror(error)) in message
    assert not LOADED.exists()


@pytest.fixture
def offset(parameters):
    return int(parameters[0].removeprefix("adopt_offset="))


@adopts
@pytest.mark.parametrize(
    "params",
    [
        (),
        ("adopt_offset=64",),
        (f'adopt_build="{BUILD}"',),
        ("adopt_offset=0", f'adopt_build="{BUILD}"'),
        ("adopt_offset=63", f'adopt_build="{BUILD}"'),
        ("adopt_offset=1099511627776", f'adopt_build="{BUILD}"'),
    ],
)
def test_without_what_adoption_needs_it_is_refused(params, new_log_lines):
    refused(errno.EINVAL, *params)
    (line,) = new_log_lines()
    assert line.startswith("guestpv: not loaded: ")
    assert "guestpv load" in line


@adopts
def test_offset_of_another_build_is_refused(offset, new_log_lines):
    other = BUILD.replace(os.uname().release, "6.1.0-0-arm64")
    refused(errno.ESTALE, f"adopt_offset={offset}", f'adopt_build="{other}"')
    (line,) = new_log_lines()
    assert other in line
    assert BUILD in line


@adopts
@pytest.mark.parametrize("shift", [8, -8, 4096, -(1 << 20), 15 << 20])
def test_wrong_offset_of_this_build_is_refused_not_followed(offset, shift, new_log_lines):
    refused(errno.ENXIO, f"adopt_offset={offset + shift}", f'adopt_build="{BUILD}"')
    (line,) = new_log_lines()
    assert line.startswith("guestpv: not loaded: ")


@claims
def test_adoption_where_nothing_is_owned_is_refused(new_log_lines):
    refused(errno.EINVAL, "adopt_offset=64", f'adopt_build="{BUILD}"')
    (line,) = new_log_lines()
    assert "CONFIG_PARAVIRT" in line


def test_nonsense_value_is_refused():
    refused(errno.EINVAL, "adopt_offset=nonsense")


@claims
def test_nobody_owns_so_plain_insmod_claims():
    assert insmod() == (0, "")
    assert Path("/dev/guestpv").exists()


def test_inserting_twice_is_refused(loaded):
    code, message = insmod()
    assert code != 0
    assert os.strerror(errno.EEXIST) in message


def test_load_and_unload_are_idempotent(command):
    command("load")
    command("load")
    assert LOADED.exists()
    command("unload")
    command("unload")
    assert not LOADED.exists()
    assert not Path("/dev/guestpv").exists()


def test_compressed_module_is_loaded(tmp_path, command):
    compressed = tmp_path / "guestpv.ko.gz"
    compressed.write_bytes(gzip.compress(Path(MODULE).read_bytes()))
    command("load", "--module", str(compressed))
    assert LOADED.exists()


def test_it_comes_and_goes_twenty_times(parameters, new_log_lines):
    """Each error path and exit path gives back what it took: a leak shows as a failure here."""
    for _ in range(20):
        assert insmod(*parameters) == (0, "")
        subprocess.run(["rmmod", "guestpv"], check=True)
    assert not [line for line in new_log_lines() if "WARN" in line or "BUG" in line]
