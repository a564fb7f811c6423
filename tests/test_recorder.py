"""The recorder keeps every sampled id, and its columns agree with one another."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from actors.recorder import Recorder
from wfr.protocols import Sample
from wfr.testing import FakeSampler
from wfr.trajectory import StopReason, Trajectory, Turn, TurnKind, VersionSpan

ids = st.lists(st.integers(0, 2**31 - 1), max_size=6)


def sample(tokens, *lengths_and_versions):
    """A sample whose spans have these lengths and versions; by default one of version 0."""
    spans, start = [], 0
    for length, version in lengths_and_versions or ((len(tokens), 0),):
        spans.append(VersionSpan(start, start + length, version))
        start += length
    array = np.array(tokens, np.int32)
    return Sample(array, FakeSampler.logprob(array), tuple(spans), "stop")


@st.composite
def samples(draw):
    tokens = draw(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=6))
    cut = draw(st.integers(1, len(tokens)))
    version = draw(st.integers(0, 3))
    later = version + draw(st.integers(0, 2))
    pieces = [(cut, version), (len(tokens) - cut, later)]
    return sample(tokens, *(piece for piece in pieces if piece[0]))


def trajectory(recorder) -> Trajectory:
    return Trajectory(
        run_id="r",
        task_id="t",
        group_id="g",
        sibling=0,
        **recorder.columns(),
        version_spans=recorder.spans,
        turns=recorder.turns,
        messages=[],
        stop_reason=StopReason.ANSWERED,
    )


turns = st.tuples(st.lists(samples(), min_size=1, max_size=3), ids, ids)
"""What was sampled, what was observed, and the prompt of a fresh context, if any."""


@given(ids, st.lists(turns, max_size=4))
def test_columns_against_a_slow_oracle(prompt, turns):
    recorder = Recorder(prompt)
    saved, seen, prompts = [], list(prompt), len(prompt)
    expected = [(token, -1, 0.0, None) for token in prompt]
    for index, (parts, observation, fresh) in enumerate(turns):
        for part in parts:
            recorder.add_sample(part)
            for at, (token, logprob) in enumerate(zip(part.tokens, part.logprob, strict=True)):
                version = next(s.version for s in part.spans if s.start <= at < s.end)
                expected.append((token, index, logprob, version))
        recorder.end_turn(observation, kind=TurnKind.TOOL, finish_reason="stop")
        seen += [*(int(token) for part in parts for token in part.tokens), *observation]
        if fresh:
            recorder.begin_context(fresh)
            seen, prompts = list(fresh), prompts + len(fresh)
        expected += [(token, -1, 0.0, None) for token in (*observation, *fresh)]
        assert list(recorder.context_tokens) == seen
        saved.append(recorder.last_turn())
    columns = recorder.columns()
    versions = [None] * len(expected)
    for span in recorder.spans:
        versions[span.start : span.end] = [span.version] * (span.end - span.start)
    found = zip(
        columns["tokens"], columns["turn_id"], columns["behaviour_logprob"], versions, strict=True
    )
    assert list(found) == expected
    assert len(recorder) == len(expected)
    assert recorder.response_length == len(expected) - prompts
    trajectory(recorder).check_valid()

    again = Recorder(prompt)
    for turn in saved:
        again.restore_turn(json.loads(json.dumps(turn)))
    assert (again.turns, again.spans) == (recorder.turns, recorder.spans)
    assert list(again.context_tokens) == list(recorder.context_tokens)
    for name, column in again.columns().items():
        assert np.array_equal(column, columns[name])


def test_turns_of_a_journal_that_has_lists_are_restored():
    recorder, again = Recorder([1]), Recorder([1])
    recorder.add_sample(sample([5, 6]))
    recorder.end_turn([9], kind=TurnKind.TOOL, finish_reason="stop")
    logprob = recorder.columns()["behaviour_logprob"][1:3].tolist()
    again.restore_turn({**recorder.last_turn(), "tokens": [5, 6, 9], "logprob": logprob})
    assert again.last_turn() == recorder.last_turn()


def test_types_are_those_of_the_schema():
    recorder = Recorder([1])
    recorder.add_sample(sample([2]))
    recorder.close()
    kinds = {name: array.dtype for name, array in recorder.columns().items()}
    assert kinds == {"tokens": np.int32, "turn_id": np.int16, "behaviour_logprob": np.float32}


def test_spans_of_one_version_are_joined_and_others_are_not():
    recorder = Recorder([1, 1])
    recorder.add_sample(sample([5, 5], (2, 3)))
    recorder.add_sample(sample([5, 5, 5], (1, 3), (2, 4)))
    assert recorder.spans == [VersionSpan(2, 5, 3), VersionSpan(5, 7, 4)]


def test_spans_do_not_reach_over_an_observation():
    recorder = Recorder([])
    for _ in range(2):
        recorder.add_sample(sample([5], (1, 3)))
        recorder.end_turn([9], kind=TurnKind.TOOL, finish_reason="stop")
    assert recorder.spans == [VersionSpan(0, 1, 3), VersionSpan(2, 3, 3)]


def test_a_fresh_context_is_all_that_the_next_turn_sees():
    recorder = Recorder([1, 2])
    recorder.add_sample(sample([5]))
    recorder.end_turn([9], kind=TurnKind.TOOL, finish_reason="stop")
    assert list(recorder.context_tokens) == [1, 2, 5, 9]
    recorder.add_sample(sample([6]))
    recorder.end_turn(kind=TurnKind.TOOL, finish_reason="stop")
    recorder.begin_context([1, 3])
    assert (list(recorder.context_tokens), recorder.context_length) == ([1, 3], 2)
    recorder.add_sample(sample([7]))
    recorder.close()
    assert list(recorder.context_tokens) == [1, 3, 7]
    assert recorder.response_length == 4
    assert [turn.context for turn in recorder.turns] == [0, 0, 5]
    columns = recorder.columns()
    assert columns["tokens"].tolist() == [1, 2, 5, 9, 6, 1, 3, 7]
    assert columns["turn_id"].tolist() == [-1, -1, 0, -1, 1, -1, -1, 2]
    trajectory(recorder).check_valid()


def test_turn_tokens_are_those_of_the_open_turn():
    recorder = Recorder([1, 2])
    recorder.add_sample(sample([5]))
    recorder.add_sample(sample([6, 7]))
    assert list(recorder.turn_tokens) == [5, 6, 7]
    recorder.end_turn([9], kind=TurnKind.TOOL, finish_reason="stop", operator="Search")
    assert list(recorder.turn_tokens) == []
    assert recorder.turns == [Turn(2, 5, 6, TurnKind.TOOL, "stop", "Search")]


def test_closing_ends_a_turn_that_was_cut_and_nothing_else():
    recorder = Recorder([1])
    recorder.close()
    assert recorder.turns == []
    recorder.add_sample(sample([5, 6]))
    recorder.close()
    recorder.close()
    assert recorder.turns == [Turn(1, 3, 3, TurnKind.MALFORMED, "cut")]
    trajectory(recorder).check_valid()
