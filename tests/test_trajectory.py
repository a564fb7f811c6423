"""Records: a valid trajectory passes its own check, and each broken one is named."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfr.trajectory import (
    Group,
    StopReason,
    Trajectory,
    Turn,
    TurnKind,
    VersionSpan,
    WorldFailureError,
)


@st.composite
def trajectories(draw) -> Trajectory:
    """A valid trajectory: a prompt, turns with observations, spans that may cut turns anywhere."""
    cursor = draw(st.integers(0, 5))
    turn_id = [-1] * cursor
    turns, spans, version = [], [], draw(st.integers(0, 3))
    context = 0
    for index in range(draw(st.integers(0, 4))):
        if turns and (prompt := draw(st.integers(0, 2))):
            context, cursor = cursor, cursor + prompt
            turn_id += [-1] * prompt
        length, observed = draw(st.integers(1, 6)), draw(st.integers(0, 4))
        cut = draw(st.integers(1, length))
        for start, end in ((cursor, cursor + cut), (cursor + cut, cursor + length)):
            if start < end:
                spans.append(VersionSpan(start, end, version))
                version += draw(st.integers(0, 2))
        end = cursor + length
        turns.append(Turn(cursor, end, end + observed, TurnKind.TOOL, "stop", "Search", context))
        turn_id += [index] * length + [-1] * observed
        cursor = end + observed
    ids = np.array(turn_id, np.int16)
    return Trajectory(
        run_id="r",
        task_id="t",
        group_id="g",
        sibling=0,
        tokens=np.arange(cursor, dtype=np.int32),
        turn_id=ids,
        behaviour_logprob=np.where(ids >= 0, -0.5, 0).astype(np.float32),
        version_spans=spans,
        turns=turns,
        messages=[],
        stop_reason=StopReason.ANSWERED,
    )


def two_turns() -> Trajectory:
    """Tokens: prompt 0-1, turn 0 = 2-4, observation 5, turn 1 = 6-7."""
    ids = np.array([-1, -1, 0, 0, 0, -1, 1, 1], np.int16)
    return Trajectory(
        run_id="r",
        task_id="t",
        group_id="g7",
        sibling=3,
        tokens=np.arange(8, dtype=np.int32),
        turn_id=ids,
        behaviour_logprob=np.where(ids >= 0, -1.0, 0).astype(np.float32),
        version_spans=[VersionSpan(2, 4, 5), VersionSpan(4, 5, 6), VersionSpan(6, 8, 6)],
        turns=[
            Turn(2, 5, 6, TurnKind.TOOL, "stop", "Search"),
            Turn(6, 8, 8, TurnKind.ANSWER, "stop"),
        ],
        messages=[],
        stop_reason=StopReason.ANSWERED,
    )


@given(trajectories())
def test_valid_trajectories_pass(trajectory):
    trajectory.check_valid()
    assert trajectory.policy_tokens == sum(len(turn) for turn in trajectory.turns)


@given(trajectories())
def test_oldest_version_is_the_minimum_over_tokens(trajectory):
    version = np.full(len(trajectory.tokens), -1)
    for span in trajectory.version_spans:
        version[span.start : span.end] = span.version
    by_turn = [version[turn.start : turn.end].min() for turn in trajectory.turns]
    assert list(trajectory.turn_oldest_version()) == by_turn
    if by_turn:
        assert trajectory.oldest_version == min(by_turn)


@given(trajectories(), st.data())
def test_any_changed_turn_id_is_found(trajectory, data):
    if not len(trajectory.tokens):
        return
    at = data.draw(st.integers(0, len(trajectory.tokens) - 1))
    trajectory.turn_id[at] += 1
    with pytest.raises(ValueError, match="trajectory g/0"):
        trajectory.check_valid()


@given(trajectories(), st.data())
def test_any_lost_version_span_is_found(trajectory, data):
    if not trajectory.version_spans:
        return
    trajectory.version_spans.pop(data.draw(st.integers(0, len(trajectory.version_spans) - 1)))
    with pytest.raises(ValueError, match="version_spans do not cover"):
        trajectory.check_valid()


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("tokens", np.arange(7, dtype=np.int32), "differ in length"),
        ("turns", [], "turn_id does not match"),
        ("turns", [Turn(2, 2, 6, TurnKind.TOOL, "stop")], "turn 0 has the impossible span"),
        ("turns", [Turn(2, 5, 9, TurnKind.TOOL, "stop")], "turn 0 has the impossible span"),
        ("turns", [Turn(2, 5, 6, TurnKind.TOOL, "stop", context=2)], "its context at token 2"),
        (
            "turns",
            [Turn(2, 5, 5, TurnKind.TOOL, "stop"), Turn(6, 8, 8, "answer", "stop", context=6)],
            "turn 1 begins its context at token 6",
        ),
        ("version_spans", [VersionSpan(2, 6, 0)], "do not cover exactly"),
        ("version_spans", [VersionSpan(2, 5, 0), VersionSpan(4, 5, 1)], "impossible or overlaps"),
        ("version_spans", [VersionSpan(-1, 5, 0)], "impossible or overlaps"),
    ],
)
def test_contradiction_is_named(field, value, words):
    trajectory = two_turns()
    setattr(trajectory, field, value)
    with pytest.raises(ValueError, match=rf"trajectory g7/3: .*{words}"):
        trajectory.check_valid()


def test_no_policy_token_has_no_oldest_version():
    trajectory = two_turns()
    trajectory.version_spans = []
    with pytest.raises(ValueError, match="empty"):
        _ = trajectory.oldest_version


def test_every_reason_is_the_policys_or_the_worlds():
    policy = {"answered", "finished", "out_of_turns", "out_of_tokens", "invalid"}
    assert {r.value for r in StopReason if not r.is_world_failure} == policy
    assert all(r.is_world_failure for r in StopReason if r.is_transient)


def test_world_failures_do_not_count_in_a_group():
    failed, scored = two_turns(), two_turns()
    failed.stop_reason = StopReason.BACKEND_FAILED
    assert Group("g7", "t", 0, [failed, scored]).scored == [scored]


def test_world_failure_survives_a_process_boundary():
    error = pickle.loads(pickle.dumps(WorldFailureError(StopReason.BACKEND_FAILED, "no reply")))
    assert (error.reason, str(error)) == (StopReason.BACKEND_FAILED, "backend_failed: no reply")


def test_world_failure_takes_no_fault_of_the_policy():
    with pytest.raises(AssertionError):
        WorldFailureError(StopReason.INVALID, "malformed turn")
