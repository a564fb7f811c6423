"""A turn that updates cut off: budget, spans, seeds and stop strings are those of one request."""

from __future__ import annotations

import asyncio
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.resend import ABORTED, join, may_be_stopping, sample_whole
from wfr.protocols import Sample, SamplingRequest
from wfr.trajectory import VersionSpan


class CutEngine:
    """Writes a fixed text, one id per character; `cuts` are after how many tokens it is cut off.

    Each cut is counted from the start of the text and raises the version. Like the real engine it
    sees stop strings in what it samples itself only.
    """

    def __init__(self, text, cuts=()):
        self.text, self.cuts = text, sorted(cuts)
        self.version = 0
        self.requests = []

    async def generate(self, request):
        self.requests.append(request)
        start = len(request.tokens)
        wanted = self.text[start : start + request.max_tokens]
        reason = "length"
        for stop in request.stop:
            if stop in wanted:
                wanted, reason = wanted[: wanted.index(stop) + len(stop)], "stop"
        version = self.version
        if self.cuts and self.cuts[0] < start + len(wanted):
            wanted, reason = wanted[: max(0, self.cuts.pop(0) - start)], ABORTED
            self.version += 1
        ids = np.array([ord(c) for c in wanted], np.int32)
        spans = (VersionSpan(0, len(ids), version),) if len(ids) else ()
        return Sample(ids, -np.arange(1.0, len(ids) + 1, dtype=np.float32), spans, reason)


def text(tokens):
    return "".join(map(chr, tokens))


def sample(engine, max_tokens, stop=(), seed=None):
    request = SamplingRequest([], max_tokens, stop, 1.0, seed=seed)
    return asyncio.run(sample_whole(engine.generate, request, text))


def versions(whole):
    return [span.version for span in whole.spans for _ in range(span.start, span.end)]


def test_uncut_it_is_one_request():
    engine = CutEngine("abcdef")
    whole = sample(engine, 4, seed=3)
    assert text(whole.tokens) == "abcd"
    assert whole.finish_reason == "length"
    assert [request.seed for request in engine.requests] == [3]


def test_tokens_before_a_cut_keep_version_and_logprob_and_are_sent_as_prompt():
    engine = CutEngine("abcdefgh", cuts=[2, 5])
    whole = sample(engine, 7, seed=3)
    assert text(whole.tokens) == "abcdefg"
    assert versions(whole) == [0, 0, 1, 1, 1, 2, 2]
    assert whole.logprob.tolist() == [-1, -2, -1, -2, -3, -1, -2]
    assert [text(request.tokens) for request in engine.requests] == ["", "ab", "abcde"]
    assert [request.max_tokens for request in engine.requests] == [7, 5, 2]
    assert len({request.seed for request in engine.requests}) == 3


def test_a_cut_before_the_first_token_and_one_at_the_budget():
    assert text(sample(CutEngine("abc", cuts=[0]), 3).tokens) == "abc"
    whole = sample(CutEngine("abcdef", cuts=[3]), 3)
    assert (text(whole.tokens), whole.finish_reason) == ("abc", "length")


def test_a_stop_string_across_the_cut_ends_the_turn():
    engine = CutEngine("x</tool>yyyyy", cuts=[4])
    whole = sample(engine, 13, ("</tool>",))
    assert (text(whole.tokens), whole.finish_reason) == ("x</tool>", "stop")
    assert versions(whole) == [0] * 4 + [1] * 4


def test_what_only_began_like_a_stop_string_goes_on_in_one_request():
    engine = CutEngine("x</tomorrow and so on", cuts=[4])
    whole = sample(engine, 20, ("</tool>",))
    assert text(whole.tokens) == "x</tomorrow and so o"
    assert [request.max_tokens for request in engine.requests] == [20, 1, 1, 14]


@given(
    st.text("ab<", min_size=12, max_size=12),
    st.lists(st.integers(0, 12), max_size=4),
    st.integers(1, 12),
)
def test_any_cuts_leave_text_and_end_as_without(content, cuts, budget):
    stop = ("<ab", "b<b")
    uncut = sample(CutEngine(content), budget, stop)
    engine = CutEngine(content, cuts)
    whole = sample(engine, budget, stop)
    assert text(whole.tokens) == text(uncut.tokens)
    assert whole.finish_reason == uncut.finish_reason
    assert versions(whole) == sorted(versions(whole))
    assert len(whole.logprob) == len(whole.tokens) == len(versions(whole))
    assert all(a.end == b.start for a, b in itertools.pairwise(whole.spans))


@pytest.mark.parametrize(
    ("ending", "open_"),
    [("a<", True), ("a</tool", True), ("</tool>", False), ("", False), ("</tool>x", False)],
)
def test_the_beginning_of_a_stop_string(ending, open_):
    assert may_be_stopping(ending, ["</tool>", "</answer>"]) is open_


def test_a_version_that_goes_on_makes_one_span():
    def part(n, version, reason):
        tokens = np.zeros(n, np.int32)
        return Sample(tokens, np.zeros(n, np.float32), (VersionSpan(0, n, version),), reason)

    both = join(part(2, 4, ABORTED), part(3, 4, "stop"))
    assert both.spans == (VersionSpan(0, 5, 4),)
    assert both.finish_reason == "stop"
