"""Buckets: nothing is lost or reordered, and no bucket is larger than it may be."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from wfr.buckets import TensorSpec, buckets

specs = st.lists(
    st.builds(
        TensorSpec,
        st.just("w"),
        st.just("float32"),
        st.lists(st.integers(0, 5), max_size=3).map(tuple),
        st.sampled_from([1, 2, 4]),
    ),
    max_size=12,
)


def spec(nbytes, itemsize=1):
    return TensorSpec(str(nbytes), "uint8", (nbytes // itemsize,), itemsize)


def sizes(*nbytes, limit):
    return [[s.nbytes for s in b] for b in buckets([spec(n) for n in nbytes], limit)]


def test_bytes_of_a_tensor():
    assert TensorSpec("w", "bfloat16", (3, 5), 2).nbytes == 30
    assert TensorSpec("scalar", "float32", (), 4).nbytes == 4


def test_filled_up_to_the_limit_and_not_beyond():
    assert sizes(4, 6, 1, 9, 1, limit=10) == [[4, 6], [1, 9], [1]]


def test_a_larger_tensor_travels_alone():
    assert sizes(3, 11, 3, 20, limit=10) == [[3], [11], [3], [20]]


def test_a_bucket_holds_one_size_of_elements():
    cut = list(buckets([spec(4, 2), spec(4, 2), spec(4, 4), spec(4, 2)], 100))
    assert [[s.itemsize for s in bucket] for bucket in cut] == [[2, 2], [4], [2]]


def test_nothing_gives_no_bucket():
    assert list(buckets([], 10)) == []


@given(specs, st.integers(1, 200))
def test_any_tensors(tensors, limit):
    cut = list(buckets(tensors, limit))
    assert list(itertools.chain(*cut)) == tensors
    for bucket in cut:
        assert bucket
        assert len({s.itemsize for s in bucket}) == 1
        assert sum(s.nbytes for s in bucket) <= limit or len([s for s in bucket if s.nbytes]) == 1
    for bucket, following in itertools.pairwise(cut):  # greedy: the next one did not fit
        first = following[0]
        total = sum(s.nbytes for s in bucket) + first.nbytes
        assert total > limit or first.itemsize != bucket[0].itemsize
