# SPDX-License-Identifier: MIT
"""guestpv.layout says what kmod/uapi/guestpv.h says, and the header can be included alone."""

import re
import subprocess
from enum import IntEnum
from pathlib import Path

import numpy as np
import pytest

from guestpv import layout

HERE = Path(__file__).parent
UAPI = HERE.parents[1] / "kmod/uapi"

DTYPES = {"header": layout.HEADER, "entry": layout.ENTRY, "stolen_time": layout.STOLEN_TIME}
CONSTANTS = [
    "MAGIC",
    "ABI_VERSION",
    "PV_TIME_FEATURES",
    "PV_TIME_ST",
    "PV_TIME_ST_DRAFT",
    "NOT_CALLED",
]


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, ...]]:
    program = tmp_path_factory.mktemp("layout") / "facts"
    strict = ["-std=c11", "-Wall", "-Wextra", "-Werror"]
    source = HERE / "layout_facts.c"
    subprocess.run(["cc", *strict, "-I", UAPI, source, "-o", program], check=True)
    said = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    lines = [line.split() for line in said.splitlines()]
    return {name: tuple(map(int, numbers)) for name, *numbers in lines}


@pytest.mark.parametrize("struct", DTYPES)
def test_dtype_is_the_struct(facts: dict[str, tuple[int, ...]], struct: str) -> None:
    dtype = DTYPES[struct]
    assert facts[struct] == (dtype.itemsize,)
    in_c = {name: fact for name, fact in facts.items() if name.startswith(f"{struct}.")}
    assert dtype.fields is not None
    in_python = {
        f"{struct}.{name}": (offset, field.itemsize)
        for name, (field, offset, *_) in dtype.fields.items()
    }
    assert in_python == in_c


@pytest.mark.parametrize("name", CONSTANTS)
def test_constant_is_the_macro(facts: dict[str, tuple[int, ...]], name: str) -> None:
    assert facts[name] == (getattr(layout, name),)


@pytest.mark.parametrize("enum", [layout.Conduit, layout.State, layout.Origin, layout.Fault])
def test_enum_is_the_enum(enum: type[IntEnum]) -> None:
    prefix = f"GUESTPV_{enum.__name__.upper()}_"
    in_c = re.findall(rf"^\s{prefix}(\w+)\s*= (\d+),$", (UAPI / "guestpv.h").read_text(), re.M)
    assert [(member.name, str(member.value)) for member in enum] == in_c


def test_structures_are_little_endian_on_any_machine() -> None:
    stolen = np.frombuffer(bytes(range(16)), layout.STOLEN_TIME)[0]
    assert stolen["attributes"] == 0x07060504
    assert stolen["stolen_time"] == 0x0F0E0D0C0B0A0908
