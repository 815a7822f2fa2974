# SPDX-License-Identifier: MIT
"""What a machine is given is what stands in the checkout now."""

import shutil
import tarfile

import pytest

from pvlab import cache, kmod, payload
from pvlab.cache import CHECKOUT
from pvlab.kernels import kernel

PACKAGE = "./usr/local/lib/python3.11/dist-packages/guestpv/page/names.py"
MODULE = "extra/guestpv.ko"
GUEST_TEST = "./root/tests/guest/conftest.py"


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A copy of the checkout that is taken for the checkout."""
    for part in "guestpv", "kmod", "tests/guest":
        shutil.copytree(CHECKOUT / part, tmp_path / part)
    for part in "pyproject.toml", "README.md", "LICENSE":
        shutil.copy(CHECKOUT / part, tmp_path)
    for module in kmod, payload, cache:
        monkeypatch.setattr(module, "CHECKOUT", tmp_path)
    return tmp_path


def content(name):
    """A file of the payload as it would be made now."""
    path = payload.payload.__wrapped__(kernel("stock-6.1"))
    with tarfile.open(path) as tar:
        (member,) = [member for member in tar if member.name.endswith(name)]
        file = tar.extractfile(member)
        assert file
        return file.read()


@pytest.mark.parametrize(
    ("changed", "addition", "arrives_in"),
    [
        ("guestpv/page/names.py", "\nCHANGED = True\n", PACKAGE),
        ("kmod/clock.c", '\nMODULE_INFO(changed, "yes");\n', MODULE),
        ("tests/guest/conftest.py", "\nCHANGED = True\n", GUEST_TEST),
    ],
)
def test_a_change_arrives(checkout, changed, addition, arrives_in):
    before = content(arrives_in)
    with (checkout / changed).open("a") as source:
        source.write(addition)
    assert content(arrives_in) != before
