# SPDX-License-Identifier: MIT
"""What is laid out in C, in Python and in words: the page's header, and what _native fills."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

import guestpv
from guestpv.driver import ask
from guestpv.latency.jitter import BUCKETS, GAP, NOISE
from guestpv.latency.observation import LONG_GAP, OBSERVATION
from guestpv.page import abi, layout

CHECKOUT = Path(__file__).parents[2]
UAPI = CHECKOUT / "kmod/uapi/guestpv.h"
DOCUMENT = UAPI.with_name("PAGE.md")
NATIVE = CHECKOUT / "guestpv/native"
STRUCTS = {
    "guestpv_header": layout.HEADER,
    "guestpv_entry": layout.ENTRY,
    "guestpv_stolen_time": layout.STOLEN_TIME,
    "guestpv_ask_header": ask.HEADER,
    "guestpv_ask_call": ask.CALL,
    "row": guestpv.SNAPSHOT,
    "noise": NOISE,
    "noise_gap": GAP,
    "long_gap": LONG_GAP,
    "observation": np.dtype(OBSERVATION.descr[:-1]),  # the last is Python's own
}
ASK_UAPI = UAPI.with_name("guestpv_ask.h")
DECLARED_IN = {
    "guestpv_ask_header": ASK_UAPI,
    "guestpv_ask_call": ASK_UAPI,
    "row": NATIVE / "pages.h",
    "noise": NATIVE / "tally.h",
    "noise_gap": NATIVE / "tally.h",
    "long_gap": NATIVE / "observer.h",
    "observation": NATIVE / "observer.h",
}
ENUMS = {
    "CONDUIT": abi.Conduit,
    "STATE": abi.State,
    "ORIGIN": abi.Origin,
    "FAULT": abi.Fault,
    "REASON": abi.Reason,
    "EVENT": abi.PerfEvent,
}
CONSTANTS = (
    "MAGIC",
    "ABI_VERSION",
    "PV_TIME_FEATURES",
    "PV_TIME_ST",
    "PV_TIME_ST_DRAFT",
    "PV_TIME_UNDEFINED",
    "PV_TIME_FEATURES_SMC32",
    "PV_TIME_ST_SMC32",
    "FLAG_PROBE",
    "FLAG_SIMULATED",
    "NOT_CALLED",
)
ASK_CONSTANTS = ("MAGIC", "VERSION", "REGISTERS", "SENTINEL", "UPPER", "SVE_HINT")


@pytest.fixture(scope="module")
def in_c(tmp_path_factory):
    """What the compiler makes of an expression, for each that the tests ask for."""
    directory = tmp_path_factory.mktemp("layout")
    expressions = [f"sizeof(struct {name})" for name in STRUCTS]
    expressions += [
        f"offsetof(struct {name}, {field})" for name in STRUCTS for field in STRUCTS[name].names
    ]
    expressions += [f"GUESTPV_{kind}_{member.name}" for kind in ENUMS for member in ENUMS[kind]]
    expressions += [f"GUESTPV_{name}" for name in CONSTANTS]
    expressions += [f"GUESTPV_ASK_{name}" for name in ASK_CONSTANTS]
    expressions.append("TALLY_BUCKETS")
    prints = "".join(f'printf("%s\\t%lld\\n", "{e}", (long long)({e}));' for e in expressions)
    (directory / "print.c").write_text(
        '#include "guestpv.h"\n#include "guestpv_ask.h"\n#include <stddef.h>\n#include <stdio.h>\n'
        '#include "observer.h"\n#include "pages.h"\n#include "tally.h"\n'
        f"int main(void) {{ {prints} return 0; }}\n"
    )
    subprocess.run(
        [
            "cc",
            "-std=gnu11",
            "-Wall",
            "-Wextra",
            "-Werror",
            f"-I{UAPI.parent}",
            f"-I{NATIVE}",
            "print.c",
            "-o",
            "print",
        ],
        cwd=directory,
        check=True,
    )
    lines = subprocess.run(
        [directory / "print"], capture_output=True, text=True
    ).stdout.splitlines()
    return {name: int(value) for name, value in (line.split("\t") for line in lines)}


@pytest.mark.parametrize("name", STRUCTS)
def test_fields_stand_where_they_stand_in_c(in_c, name):
    dtype = STRUCTS[name]
    assert dtype.itemsize == in_c[f"sizeof(struct {name})"]
    for field in dtype.names:
        assert dtype.fields[field][1] == in_c[f"offsetof(struct {name}, {field})"]
    source = re.sub(r"/\*.*?\*/", "", DECLARED_IN.get(name, UAPI).read_text(), flags=re.DOTALL)
    declared = re.search(rf"struct {name} {{(.*?)}};", source, re.DOTALL)[1]
    assert re.findall(r"(\w+)(?:\[\w+\])?[,;]", declared) == list(dtype.names)


def test_the_histogram_has_as_many_buckets_as_in_c(in_c):
    assert in_c["TALLY_BUCKETS"] == BUCKETS


@pytest.mark.parametrize("kind", ENUMS)
def test_enums_have_the_values_of_c(in_c, kind):
    for member in ENUMS[kind]:
        assert member == in_c[f"GUESTPV_{kind}_{member.name}"]
    named = re.findall(rf"^\tGUESTPV_{kind}_(\w+)\s*=", UAPI.read_text(), re.MULTILINE)
    assert named == [member.name for member in ENUMS[kind]]


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_have_the_values_of_c(in_c, name):
    assert getattr(abi, name) == in_c[f"GUESTPV_{name}"]


@pytest.mark.parametrize("name", ASK_CONSTANTS)
def test_constants_of_guestpv_ask_have_the_values_of_c(in_c, name):
    assert getattr(ask, name) == in_c[f"GUESTPV_ASK_{name}"]


@pytest.mark.parametrize("name", ["guestpv_header", "guestpv_entry", "guestpv_stolen_time"])
def test_the_document_has_each_field_where_it_stands_in_c(in_c, name):
    """test_fields_stand_where_they_stand_in_c holds the dtype and C together."""
    section = DOCUMENT.read_text().split(f"(`struct {name}`")[1].split("\n## ")[0]
    documented = re.findall(r"^\| (\d+) \| (\d+) \| (\S+) \| `(\w+)` \|", section, re.MULTILINE)
    declared = re.search(rf"struct {name} {{(.*?)}};", UAPI.read_text(), re.DOTALL)[1]
    types = {
        field: kind + (count or "")
        for kind, field, count in re.findall(r"__(\w+)\s+(\w+)(\[\d+\])?;", declared)
    }
    assert documented == [
        (
            str(in_c[f"offsetof(struct {name}, {field})"]),
            str(STRUCTS[name][field].itemsize),
            types[field],
            field,
        )
        for field in STRUCTS[name].names
    ]


def test_the_document_has_the_values_of_each_enum_and_constant():
    document = DOCUMENT.read_text()
    values = re.findall(r"^\| `(\w+)` \| (\d+) \| (\w+) \|", document, re.MULTILINE)
    assert values == [
        (kind.lower(), str(member.value), member.name)
        for kind in ("CONDUIT", "STATE", "ORIGIN", "FAULT", "REASON")
        for member in ENUMS[kind]
    ]
    fields = dict(re.findall(r"`(\w+)` \|.*?\| (.*) \|$", document, re.MULTILINE))
    assert fields["magic"].startswith(f"{abi.MAGIC:#018x}:")
    assert fields["abi_version"].startswith(f"{abi.ABI_VERSION};")
    bits = {"bit 0: nothing but the index": abi.FLAG_PROBE, "bit 1: simulated": abi.FLAG_SIMULATED}
    for text, flag in bits.items():
        assert text in fields["flags"]
        assert 1 << int(text[4]) == flag
    for field, call in abi.CALLS.items():
        assert re.match(re.escape(f"returned by {call}"), fields[field].replace("the last ", ""))
