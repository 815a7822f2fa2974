# SPDX-License-Identifier: MIT
"""What a hypervisor answers to each call, with all registers: parsed and judged.

The calls of a broken hypervisor are simulation here; real ones are in tests/lab/test_smccc.py.
"""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestpv.driver import ask
from guestpv.driver.ask import CALL, HEADER, SVE_HINT, UPPER
from guestpv.errors import FormatError
from guestpv.page.abi import NOT_CALLED, PV_TIME_FEATURES, PV_TIME_ST, PV_TIME_ST_DRAFT
from guestpv.page.layout import ENTRY
from guestpv.validate.check import CHECKS

VERSION, ARCH_FEATURES = 0x80000000, 0x80000001
UNDEFINED = 0xC500002A
REFUSED = 2**64 - 1
QUERIES = [
    (VERSION, 0),
    (ARCH_FEATURES, PV_TIME_FEATURES),
    (PV_TIME_FEATURES, PV_TIME_FEATURES),
    (PV_TIME_FEATURES, PV_TIME_ST),
    (PV_TIME_FEATURES, PV_TIME_ST_DRAFT),
    (PV_TIME_FEATURES | SVE_HINT, PV_TIME_ST),
    (PV_TIME_FEATURES, UPPER | PV_TIME_ST),
    (UPPER | PV_TIME_FEATURES, PV_TIME_ST),
    (PV_TIME_FEATURES, UNDEFINED),
    (UNDEFINED, 0),
]


def kvm(function, argument):
    """As KVM answers, which knows SMCCC 1.1, and no hint."""
    match function & 0xFFFFFFFF, argument & 0xFFFFFFFF:
        case (0x80000000, _):
            return 0x10001
        case (0x80000001, 0xC5000020) | (0xC5000020, 0xC5000020 | 0xC5000021):
            return 0
        case _:
            return REFUSED


def calls(cpus=2):
    made = np.zeros(cpus * len(QUERIES), CALL)
    for nr, call in enumerate(made):
        function, argument = QUERIES[nr % len(QUERIES)]
        call["cpu"] = nr // len(QUERIES)
        call["function"], call["argument"] = function, argument
        call["x"] = ask.SENTINEL | np.arange(ask.REGISTERS, dtype=np.uint64)
        call["x"][0] = kvm(function, argument)
    return made


def answer(made, function, argument, value, *, cpu=1, register=0):
    """That CPU is answered to that call with another value."""
    (place,) = np.flatnonzero(
        (made["cpu"] == cpu) & (made["function"] == function) & (made["argument"] == argument)
    )
    made["x"][place][register] = value
    return made


def judged(id, made):
    entries = np.zeros(2, ENTRY)
    entries["features_st_draft"] = -1
    return CHECKS[id].judge(SimpleNamespace(answers=made, entries=entries))


IDS = [id for id in CHECKS if id.startswith("smccc.")]


@pytest.mark.parametrize("id", IDS)
def test_kvm_breaks_no_rule(id):
    assert judged(id, calls()).verdict == "pass"


@pytest.mark.parametrize("id", IDS)
def test_who_can_not_ask_says_why(id):
    finding = judged(id, "only root may")
    assert (finding.verdict, finding.text) == ("skip", "only root may")


@pytest.mark.parametrize("register", range(4, 18))
def test_a_register_that_is_not_kept(register):
    made = answer(calls(), PV_TIME_FEATURES, PV_TIME_ST, 0, register=register)
    finding = judged("smccc.registers", made)
    assert finding.verdict == "fail"
    assert finding.text.startswith(f"cpu1: x{register} changed")
    assert finding.advice


@pytest.mark.parametrize("register", range(1, 4))
def test_a_register_that_need_not_be_kept(register):
    made = answer(calls(), PV_TIME_FEATURES, PV_TIME_ST, 0, register=register)
    assert judged("smccc.registers", made).verdict == "pass"


def test_two_registers_that_were_swapped_are_not_kept():
    made = calls()
    made["x"][3][[4, 5]] = made["x"][3][[5, 4]]
    assert judged("smccc.registers", made).figures["registers"] == ["x4", "x5"]


def test_the_hint_binds_from_smccc_1_3_on():
    """KVM refuses the number; it may, as long as it announces SMCCC 1.1."""
    made = calls()
    made["x"][made["function"] == VERSION, 0] = 0x10003
    assert judged("smccc.hint", made).verdict == "fail"
    made["x"][(made["function"] & SVE_HINT) != 0, 0] = 0
    assert judged("smccc.hint", made).verdict == "pass"


def test_before_smccc_1_3_the_hint_must_not_be_taken_for_another_success():
    made = answer(calls(), PV_TIME_FEATURES | SVE_HINT, PV_TIME_ST, 7)
    assert judged("smccc.hint", made).verdict == "fail"


@pytest.mark.parametrize(
    ("id", "function", "argument", "value"),
    [
        ("smccc.upper", PV_TIME_FEATURES, UPPER | PV_TIME_ST, REFUSED),
        ("smccc.upper", UPPER | PV_TIME_FEATURES, PV_TIME_ST, REFUSED),
        ("smccc.undefined", PV_TIME_FEATURES, UNDEFINED, 0),
        ("smccc.direct", UNDEFINED, 0, 0),
        ("smccc.refusals", UNDEFINED, 0, 2**64 - 2),
        ("smccc.refusals", PV_TIME_FEATURES, UNDEFINED, 0xFFFFFFFE),
        ("smccc.refusals", PV_TIME_FEATURES, UNDEFINED, 0x1_FFFF_FFFF),
    ],
)
def test_one_wrong_answer_to_one_vcpu(id, function, argument, value):
    finding = judged(id, answer(calls(), function, argument, value))
    assert finding.verdict == "fail"
    assert "cpu1" in finding.text
    assert finding.advice


def test_a_refusal_may_be_an_int32():
    made = calls()
    made["x"][made["x"][:, 0] == REFUSED, 0] = 0xFFFFFFFF
    assert judged("smccc.refusals", made).verdict == "pass"


def test_answers_that_changed_since_the_module_was_loaded_are_no_failure():
    made = answer(calls(), PV_TIME_FEATURES, PV_TIME_ST, REFUSED)
    finding = judged("smccc.same", made)
    assert finding.verdict == "warn"
    assert "0 (0x0) then, and -1 (0xffffffffffffffff) now" in finding.text


def test_what_was_not_called_at_load_is_not_compared():
    entries = np.zeros(2, ENTRY)
    for field in "arch_features", "features_self", "features_st", "features_st_draft":
        entries[field] = NOT_CALLED
    guest = SimpleNamespace(answers=calls(), entries=entries)
    assert CHECKS["smccc.same"].judge(guest).verdict == "skip"


def device(made, **fields):
    header = np.zeros((), HEADER)
    header["magic"], header["version"] = ask.MAGIC, ask.VERSION
    header["header_size"], header["call_size"] = HEADER.itemsize, CALL.itemsize
    header["nr_calls"] = len(made)
    for field, value in fields.items():
        header[field] = value
    return header.tobytes() + made.tobytes()


def test_calls_are_parsed_whole():
    assert (ask.parse(device(calls())) == calls()).all()


@pytest.mark.parametrize(
    "fields",
    [{"magic": 1}, {"version": 2}, {"call_size": 8}, {"nr_calls": 3}, {"header_size": 8}],
)
def test_another_layout_is_refused(fields):
    with pytest.raises(FormatError):
        ask.parse(device(calls(), **fields))


@given(st.binary(max_size=400), st.integers(0, 24 + 2 * CALL.itemsize))
def test_whatever_comes_is_parsed_or_refused(noise, cut):
    whole = device(calls(1)[:2])
    for content in noise, whole[:cut], whole[:cut] + noise:
        try:
            parsed = ask.parse(content)
        except FormatError:
            continue
        assert len(parsed) * CALL.itemsize <= len(content)
