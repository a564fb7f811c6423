"""What crosses between a program and its tests."""

from __future__ import annotations

import collections
import contextlib
import json
import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfr.sandbox.inside import values

HASHABLE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False)
    | st.decimals(allow_nan=False)
    | st.fractions(),
    lambda inner: st.lists(inner).map(tuple) | st.frozensets(inner),
    max_leaves=10,
)
DATA = st.recursive(
    HASHABLE | st.binary().map(bytearray),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(collections.deque)
        | st.dictionaries(HASHABLE, inner)
        | st.sets(HASHABLE)
    ),
    max_leaves=20,
)


def through(value):
    return values.decode(json.loads(json.dumps(values.encode(value))))


@pytest.mark.engine  # for its time
@given(DATA)
def test_data_arrives_as_it_left(value):
    arrived = through(value)
    assert arrived == value
    assert type(arrived) is type(value)


@pytest.mark.parametrize(
    "value",
    [2**53, -(2**53), 1 << 20000, -(1 << 20000), True, range(3, 9, 2)],
    ids=lambda value: type(value).__name__,
)
def test_numbers_of_any_size(value):
    assert through(value) == value
    assert type(through(value)) is type(value)


def test_nan_and_infinity():
    nan, infinite = through([math.nan, math.inf])
    assert math.isnan(nan)
    assert infinite == math.inf


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (collections.OrderedDict(a=1), {"a": 1}),
        (type("Str", (str,), {"__eq__": lambda a, b: True, "__hash__": str.__hash__})("x"), "x"),
        (type("Int", (int,), {"__eq__": lambda a, b: True, "__hash__": int.__hash__})(3), 3),
        (type("List", (list,), {"__eq__": lambda a, b: True})([1]), [1]),
        ({"a": 1}.keys(), {"a"}),
    ],
)
def test_subclasses_arrive_as_what_they_extend(value, plain):
    arrived = through(value)
    assert arrived == plain
    assert type(arrived) is type(plain)


def test_what_is_not_data_is_kept_or_refused():
    kept = []
    encoded = values.encode([1, len], lambda value: kept.append(value) or 7)
    assert kept == [len]
    assert values.decode(encoded, lambda number: f"handle {number}") == [1, "handle 7"]
    with pytest.raises(values.NotDataError, match="builtin_function_or_method"):
        values.encode(len)


@pytest.mark.parametrize(
    "data",
    [
        [1],
        {},
        {"list": [], "tuple": []},
        {"list": 3},
        {"handle": 3},
        {"int": 3},
        {"int": "0x" + "f" * (1 << 20)},
        {"eval": "1"},
        {"complex": [1, "x"]},
        {"dict": [[1]]},
    ],
)
def test_what_encode_does_not_write_is_refused(data):
    with pytest.raises((ValueError, TypeError)):
        values.decode(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(["list", "dict", "set", "int", "range", "Decimal", "handle", "x"]),
            inner,
        )
    ),
)


@given(JSON)
def test_anything_is_decoded_or_refused(data):
    """The exceptions that a trial takes for nonsense, and no other."""
    with contextlib.suppress(ValueError, TypeError, ArithmeticError):
        values.decode(data, lambda number: number)


def test_exact_numbers():
    assert through([Decimal("1.10"), Fraction(1, 3)]) == [Decimal("1.10"), Fraction(1, 3)]
