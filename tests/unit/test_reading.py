# SPDX-License-Identifier: MIT
"""A reading is a value: it compares, copies and pickles, and says what it is."""

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestpv import Reading

FIELDS = ("revision", "attributes", "stolen_ns", "epoch")
u32, u64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
fields = st.tuples(u32, u32, u64, u32)


@given(fields)
def test_it_holds_what_it_was_made_of(values: tuple[int, int, int, int]) -> None:
    reading = Reading(*values)
    assert tuple(getattr(reading, name) for name in FIELDS) == values
    assert eval(repr(reading)) == reading
    assert Reading(**dict(zip(FIELDS, values, strict=True))) == reading


@given(fields)
def test_copies_are_equal(values: tuple[int, int, int, int]) -> None:
    reading = Reading(*values)
    copies = [Reading(*values), copy.copy(reading), copy.deepcopy(reading)]
    copies += [
        pickle.loads(pickle.dumps(reading, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL)
    ]
    for other in copies:
        assert other == reading
        assert (other != reading) is False
        assert type(other) is Reading
    assert len({reading, *copies}) == 1


@pytest.mark.parametrize("field", FIELDS)
def test_each_field_counts(field: str) -> None:
    reading = Reading(1, 2, 3, 4)
    other = Reading(**{name: getattr(reading, name) + (name == field) for name in FIELDS})
    assert other != reading
    assert (other == reading) is False
    assert hash(other) != hash(reading)
    assert reading != (1, 2, 3, 4)
    assert reading not in (None, 1)


def test_it_has_no_order_and_does_not_change() -> None:
    with pytest.raises(TypeError):
        assert Reading(0, 0, 1, 1) < Reading(0, 0, 2, 1)  # type: ignore[operator]
    for field in FIELDS:
        with pytest.raises(AttributeError):
            setattr(Reading(0, 0, 1, 1), field, 2)


@pytest.mark.parametrize("field", FIELDS)
def test_what_does_not_fit_is_refused(field: str) -> None:
    """And not wrapped, as C would."""
    largest = 2**64 - 1 if field == "stolen_ns" else 2**32 - 1
    values = dict.fromkeys(FIELDS, 0)
    assert getattr(Reading(**(values | {field: largest})), field) == largest
    for number in (largest + 1, -1, 2**70):
        with pytest.raises(OverflowError):
            Reading(**(values | {field: number}))
    with pytest.raises(TypeError):
        Reading(**(values | {field: "1"}))
