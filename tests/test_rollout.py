"""One episode: turns, token budgets to the token, faults of the world, and records that agree."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.rollout import EpisodeId, Limits, Rollout
from wfr.backends.base import BackendConfigError
from wfr.config import ThinkActConfig
from wfr.environments.base import Reward
from wfr.environments.think_act import ThinkAct
from wfr.line_log import Sync
from wfr.tasks.source import Task
from wfr.testing import EnvironmentConformance, FakeEnvironment, FakeRenderer, FakeSampler
from wfr.trajectory import (
    Message,
    OperatorCall,
    StopReason,
    TurnKind,
    VersionSpan,
    WorldFailureError,
)
from wfr.turn_journal import GroupTurns

TASK = Task("t", "q", ("a",), "test")
PROMPT = "q\x03\x02"  # three tokens
EPISODE = EpisodeId("run", "7", 2)
AMPLE = Limits(max_length=1000, max_response_tokens=900, max_turn_tokens=100, temperature=0.7)


def sampler_of(*replies, **options):
    return FakeSampler(*map(FakeRenderer.ids, replies), **options)


def played(*replies, environment=None, sampler=None, **limits):
    """The trajectory of an episode, checked, and the sampler that it used."""
    sampler = sampler or sampler_of(*replies)
    rollout = Rollout(
        environment or FakeEnvironment(),
        FakeRenderer(),
        sampler.sample,
        dataclasses.replace(AMPLE, **limits),
    )
    trajectory = asyncio.run(rollout.run(TASK, EPISODE))
    trajectory.check_valid()
    return trajectory, sampler


def text(trajectory):
    return "".join(map(chr, trajectory.tokens))


def turn_texts(trajectory):
    return [text(trajectory)[turn.start : turn.end] for turn in trajectory.turns]


class Calling(FakeEnvironment):
    """Every turn makes two operator calls."""

    async def step(self, text, finish_reason):
        step = await super().step(text, finish_reason)
        return dataclasses.replace(step, calls=(OperatorCall("get", "b", 0.5),) * 2)


def test_calls_say_which_turn_made_them_and_when_they_ended():
    before = time.time()
    trajectory, _ = played("get b;", "get a;", "say a;", environment=Calling())
    assert [call.turn for call in trajectory.operator_calls] == [0, 0, 1, 1, 2, 2]
    ends = [call.ended_at for call in trajectory.operator_calls]
    assert before <= ends[0] <= ends[-1] <= trajectory.finished_at


class TestFakeEnvironment(EnvironmentConformance):
    def make(self):
        return FakeEnvironment()

    def task(self):
        return TASK

    def turns(self):
        return ["get a;", "what", "new d;", "get (b;c);", "say a;"]


def test_an_episode_is_one_growing_sequence_of_tokens():
    trajectory, sampler = played("get b;", "get a;", "say a;")
    assert text(trajectory) == PROMPT + "get b;\x03b\x03\x02get a;\x03a\x03\x02say a;"
    assert turn_texts(trajectory) == ["get b;", "get a;", "say a;"]
    assert [turn.operator for turn in trajectory.turns] == ["get", "get", ""]
    assert [turn.kind for turn in trajectory.turns] == [TurnKind.TOOL, TurnKind.TOOL, "answer"]
    assert [turn.finish_reason for turn in trajectory.turns] == ["stop"] * 3
    assert [(m.role, m.content) for m in trajectory.messages] == [
        ("user", "q"),
        *(("assistant", "get b;"), ("tool", "b")),
        *(("assistant", "get a;"), ("tool", "a")),
        ("assistant", "say a;"),
    ]
    asked = [len(request.tokens) for request in sampler.requests]
    assert asked == [turn.start for turn in trajectory.turns]
    for request in sampler.requests:
        assert list(request.tokens) == trajectory.tokens[: len(request.tokens)].tolist()


def test_a_fresh_context_stays_in_the_trajectory_and_out_of_the_requests():
    trajectory, sampler = played("get b;", "new c;", "get d;", "say a;")
    fresh = "q\x03c\x03\x02"
    before = PROMPT + "get b;\x03b\x03\x02new c;"
    assert text(trajectory) == before + fresh + "get d;\x03d\x03\x02say a;"
    assert turn_texts(trajectory) == ["get b;", "new c;", "get d;", "say a;"]
    assert [turn.context for turn in trajectory.turns] == [0, 0, len(before), len(before)]
    asked = ["".join(map(chr, request.tokens)) for request in sampler.requests]
    assert asked == [
        PROMPT,
        PROMPT + "get b;\x03b\x03\x02",
        fresh,
        fresh + "get d;\x03d\x03\x02",
    ]
    assert [m.content for m in trajectory.messages[4:6]] == ["q", "c"]


def test_limits_hold_for_what_the_policy_sees_and_for_all_that_the_learner_gets():
    replies, fresh, turn = ["new c;"] * 9 + ["say a;"], 5, 6
    long, _ = played(*replies, max_length=fresh + turn + 1)
    assert (long.stop_reason, len(long.turns)) == (StopReason.ANSWERED, 10)
    short, _ = played(*replies, max_total=3 * (fresh + turn))
    assert short.stop_reason is StopReason.OUT_OF_TOKENS
    assert len(short.tokens) <= 3 * (fresh + turn)
    brief, _ = played(*replies, max_response_tokens=2 * turn)
    assert brief.stop_reason is StopReason.OUT_OF_TOKENS
    assert [len(t) for t in brief.turns] == [turn, turn]


def test_a_finished_episode_is_labelled_and_scored():
    trajectory, _ = played("say a;")
    assert (trajectory.run_id, trajectory.task_id) == ("run", "t")
    assert (trajectory.group_id, trajectory.sibling) == ("7", 2)
    assert trajectory.stop_reason is StopReason.ANSWERED
    assert (trajectory.reward, trajectory.reward_parts) == (1.0, {"correct": 1.0})
    assert (trajectory.answer, trajectory.error) == ("a", "")
    assert (trajectory.task_id, trajectory.source) == ("t", "test")
    assert 0 < trajectory.started_at <= trajectory.finished_at
    assert played("say b;")[0].reward == 0.0


def test_requests_carry_how_to_sample():
    _, sampler = played("say a;", top_p=0.9, temperature=0.3)
    (request,) = sampler.requests
    assert (request.stop, request.temperature, request.top_p) == ((";",), 0.3, 0.9)
    assert request.max_tokens == 100


def test_end_of_sequence_ends_a_turn_and_is_not_written_twice():
    trajectory, _ = played("get b;\x03", "hm\x03", "say a;\x03")
    assert text(trajectory) == PROMPT + "get b;\x03b\x03\x02hm\x03?\x03\x02say a;\x03"
    assert [m.content for m in trajectory.messages if m.role == "assistant"] == [
        "get b;",
        "hm",
        "say a;",
    ]


def test_a_stop_string_that_is_text_continues_the_same_turn():
    trajectory, sampler = played("get (b;", ";", "c);", "say a;")
    assert turn_texts(trajectory) == ["get (b;;c);", "say a;"]
    assert [text(trajectory)[: len(r.tokens)][-7:] for r in sampler.requests[1:3]] == [
        "get (b;",
        "et (b;;",
    ]
    assert [r.max_tokens for r in sampler.requests[:3]] == [100, 93, 92]


def test_a_stop_string_inside_a_thought_continues_the_same_turn():
    replies = ("<think> no </tool>", " so </think><answer>a</answer>")
    environment = ThinkAct(ThinkActConfig(prompt="question"), {})
    trajectory, _ = played(*replies, environment=environment)
    assert turn_texts(trajectory) == ["".join(replies)]
    assert (trajectory.reward, trajectory.answer) == (1.0, "a")


def test_end_of_sequence_ends_even_an_open_element():
    trajectory, _ = played("get (b\x03", "say a;")
    assert turn_texts(trajectory) == ["get (b\x03", "say a;"]


@pytest.mark.parametrize(
    ("budget", "turn", "finish"),
    [(5, "get b", "length"), (6, "get b;", "stop"), (7, "get b;", "stop")],
)
def test_turn_budget_to_the_token(budget, turn, finish):
    trajectory, sampler = played("get b;", "say a;", max_turn_tokens=budget)
    assert turn_texts(trajectory)[0] == turn
    assert trajectory.turns[0].finish_reason == finish
    assert trajectory.turns[0].kind is TurnKind.TOOL  # a turn that was cut counts by what it holds
    assert sampler.requests[0].max_tokens == budget


def test_turn_budget_spans_all_samples_of_a_turn():
    trajectory, sampler = played("get (;", "bcdef", "say a;", max_turn_tokens=8)
    assert [r.max_tokens for r in sampler.requests[:3]] == [8, 2, 8]
    assert turn_texts(trajectory) == ["get (;bc", "say a;"]


@pytest.mark.parametrize("stopped", [True, False])
def test_turn_budget_spent_inside_an_element(stopped):
    reply = "get (;" if stopped else "get (b"
    trajectory, sampler = played(reply, "say a;", max_turn_tokens=6)
    assert turn_texts(trajectory) == [reply, "say a;"]
    assert trajectory.turns[0].finish_reason == "length"
    assert len(sampler.requests) == 2


# After the prompt come `get b;` (6 tokens), `\x03b\x03\x02` (4) and `say a;` (6).
BUDGETS = [
    (5, "get b", StopReason.OUT_OF_TOKENS),
    (6, "get b;", StopReason.OUT_OF_TOKENS),
    (9, "get b;", StopReason.OUT_OF_TOKENS),
    (10, "get b;", StopReason.OUT_OF_TOKENS),
    (11, "get b;\x03b\x03\x02s", StopReason.OUT_OF_TOKENS),
    (15, "get b;\x03b\x03\x02say a", StopReason.OUT_OF_TOKENS),
    (16, "get b;\x03b\x03\x02say a;", StopReason.ANSWERED),
    (17, "get b;\x03b\x03\x02say a;", StopReason.ANSWERED),
]


@pytest.mark.parametrize("limit", ["max_response_tokens", "max_length"])
@pytest.mark.parametrize(("budget", "response", "reason"), BUDGETS)
def test_response_and_length_budgets_to_the_token(limit, budget, response, reason):
    value = budget + (len(PROMPT) if limit == "max_length" else 0)
    trajectory, sampler = played("get b;", "say a;", **{limit: value})
    assert text(trajectory) == PROMPT + response
    assert trajectory.stop_reason is reason
    assert trajectory.reward == float(reason is StopReason.ANSWERED)
    for request, turn in zip(sampler.requests, trajectory.turns, strict=True):
        assert request.max_tokens == min(100, budget - (turn.start - len(PROMPT)))
    spent = trajectory.turns[-1].finish_reason == "length"
    assert trajectory.turns[-1].kind is TurnKind.MALFORMED or not spent


def test_an_observation_that_does_not_fit_is_not_in_the_record():
    trajectory, _ = played("get b;", max_response_tokens=9)
    assert trajectory.messages == [Message("user", "q"), Message("assistant", "get b;")]
    assert trajectory.turns[0].operator == "get"


@pytest.mark.parametrize("max_length", [2, 3])
def test_a_prompt_without_room_is_a_fault_of_the_world(max_length):
    trajectory, sampler = played("say a;", max_length=max_length)
    assert trajectory.stop_reason is StopReason.PROMPT_TOO_LONG
    assert f"3 tokens leave no room within model.max_length={max_length}" in trajectory.error
    assert math.isnan(trajectory.reward)
    assert (trajectory.turns, sampler.requests) == ([], [])
    assert text(trajectory) == PROMPT


def test_a_prompt_with_room_for_one_token_is_played():
    trajectory, _ = played("say a;", max_length=4)
    assert (turn_texts(trajectory), trajectory.stop_reason) == (["s"], StopReason.OUT_OF_TOKENS)


def failed(*replies, **options):
    trajectory, _ = played(*replies, **options)
    assert trajectory.stop_reason.is_world_failure
    assert math.isnan(trajectory.reward)
    assert (trajectory.reward_parts, trajectory.answer) == ({}, "")
    return trajectory


def test_a_world_failure_keeps_the_tokens_and_no_reward():
    down = WorldFailureError(StopReason.BACKEND_FAILED, "no reply")
    trajectory = failed("get b;", "get c;", environment=FakeEnvironment(None, down))
    assert trajectory.stop_reason is StopReason.BACKEND_FAILED
    assert trajectory.error == "no reply"
    assert turn_texts(trajectory) == ["get b;", "get c;"]
    assert trajectory.turns[1].finish_reason == "cut"
    assert trajectory.policy_tokens == 12


def test_a_bug_in_the_environment_leaves_its_traceback():
    trajectory = failed("get b;", environment=FakeEnvironment(KeyError("oops")))
    assert trajectory.stop_reason is StopReason.ENVIRONMENT_FAILED
    assert trajectory.error.rstrip().endswith("KeyError: 'oops'")
    assert "Traceback" in trajectory.error


def test_a_wrong_executor_configuration_ends_more_than_the_episode():
    environment = FakeEnvironment(BackendConfigError("no such model"))
    with pytest.raises(BackendConfigError, match="no such model"):
        played("get a;", environment=environment)


@pytest.mark.parametrize(
    ("scoring", "reason"),
    [
        (ValueError("no metric"), StopReason.ENVIRONMENT_FAILED),
        (WorldFailureError(StopReason.SANDBOX_UNAVAILABLE, "x"), StopReason.SANDBOX_UNAVAILABLE),
    ],
)
def test_an_episode_that_cannot_be_scored_was_failed_by_the_world(scoring, reason):
    trajectory = failed("say a;", environment=FakeEnvironment(scoring=scoring))
    assert trajectory.stop_reason is reason
    assert turn_texts(trajectory) == ["say a;"]


@pytest.mark.parametrize("total", [math.nan, math.inf])
def test_a_reward_that_is_no_number_is_a_bug_of_the_environment(total):
    class Confused(FakeEnvironment):
        def reward(self):
            return Reward(total, {"correct": total})

    trajectory = failed("say a;", environment=Confused())
    assert trajectory.stop_reason is StopReason.ENVIRONMENT_FAILED
    assert f"the environment's reward is {total}" in trajectory.error


def test_an_environment_that_cannot_begin():
    class Broken(FakeEnvironment):
        def reset(self, task):
            raise OSError("no corpus")

    trajectory = failed("say a;", environment=Broken())
    assert trajectory.stop_reason is StopReason.ENVIRONMENT_FAILED
    assert len(trajectory.tokens) == 0


def test_a_sampler_that_fails_in_the_middle_of_a_turn():
    class Failing(FakeSampler):
        async def sample(self, request):
            if self.emitted:
                raise WorldFailureError(StopReason.SAMPLER_FAILED, "no sampler joined")
            return await super().sample(request)

    trajectory = failed(sampler=Failing(FakeRenderer.ids("get (;")))
    assert trajectory.stop_reason is StopReason.SAMPLER_FAILED
    assert turn_texts(trajectory) == ["get (;"]


def test_versions_are_those_of_the_tokens():
    sampler = sampler_of("get b;", "say a;", version=4)
    sampler.updates = {2: 5, 6: 6, 8: 7}
    trajectory, _ = played(sampler=sampler)
    assert trajectory.version_spans == [
        *(VersionSpan(3, 5, 4), VersionSpan(5, 9, 5)),
        *(VersionSpan(13, 15, 6), VersionSpan(15, 19, 7)),
    ]
    assert list(trajectory.turn_oldest_version()) == [4, 6]


replies = st.lists(
    st.tuples(
        st.lists(st.sampled_from(["get b;", "say ", "a", ";", "(", ")", "get é"]), min_size=1),
        st.sampled_from(["", "\x03"]),
    ).map(lambda parts: "".join(parts[0]) + parts[1]),
    min_size=1,
    max_size=4,
)
failures = st.lists(
    st.sampled_from([None, None, None, KeyError("x"), WorldFailureError(StopReason.EVICTED, "x")])
)


@given(
    replies,
    failures,
    st.sets(st.integers(0, 40), max_size=3).map(sorted),
    st.fixed_dictionaries(
        {
            "max_length": st.integers(1, 80),
            "max_response_tokens": st.integers(1, 80),
            "max_turn_tokens": st.integers(1, 40),
        }
    ),
)
def test_any_episode_leaves_a_valid_record(texts, script, updates, limits):
    sampler = sampler_of(*texts)
    sampler.updates = {at: 1 + number for number, at in enumerate(updates)}
    trajectory, _ = played(sampler=sampler, environment=FakeEnvironment(*script), **limits)
    sampled = trajectory.turn_id >= 0
    ids = trajectory.tokens[sampled]
    assert sampler.emitted == trajectory.policy_tokens == len(ids)
    assert np.array_equal(trajectory.behaviour_logprob[sampled], FakeSampler.logprob(ids))
    versions = [s.version for s in trajectory.version_spans for _ in range(s.start, s.end)]
    assert versions == [sum(at <= k for at in updates) for k in range(sampler.emitted)]
    assert math.isnan(trajectory.reward) == trajectory.stop_reason.is_world_failure
    assert_within(trajectory, limits)
    assert_messages_are_the_tokens(trajectory)


def assert_within(trajectory, limits):
    assert len(trajectory.tokens) <= max(limits["max_length"], len(PROMPT))
    assert len(trajectory.tokens) - len(PROMPT) <= limits["max_response_tokens"]
    assert all(len(turn) <= limits["max_turn_tokens"] for turn in trajectory.turns)


def assert_messages_are_the_tokens(trajectory):
    """A slow oracle: the whole conversation rendered at once is what was built bit by bit."""
    turns = iter(trajectory.turns)
    whole = "".join(map(chr, FakeRenderer().prompt(trajectory.messages[:1])))
    for message in trajectory.messages[1:]:
        if message.role == "assistant":
            written = text(trajectory)[(turn := next(turns)).start : turn.end]
            assert message.content == written.removesuffix("\x03")
            whole += written
        else:
            end = "" if whole.endswith("\x03") else "\x03"
            whole += f"{end}{message.content}\x03\x02"
    if not trajectory.stop_reason.is_world_failure:
        assert text(trajectory) == whole
    assert text(trajectory).startswith(whole)


def test_an_episode_goes_on_at_its_last_completed_turn(tmp_path):
    """Whatever turn it is killed after, the trajectory is the one of an undisturbed episode."""
    replies = ("get b;", "new c;", "what", "new d;", "say a;")
    whole, _ = played(*replies)
    for done in range(len(replies) + 1):
        path = tmp_path / f"{done}.jsonl"

        async def life(sampler, path=path):
            turns = GroupTurns(path, Sync("off"))
            rollout = Rollout(FakeEnvironment(), FakeRenderer(), sampler.sample, AMPLE, turns)
            return await rollout.run(TASK, EPISODE)

        async def killed(path=path, done=done):
            sampler = sampler_of(*replies)
            task = asyncio.ensure_future(life(sampler))
            while len(sampler.requests) < min(done + 1, len(replies)):
                await asyncio.sleep(0)
            if done < len(replies):
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        asyncio.run(killed())
        assert path.exists() == (done > 0)
        sampler = sampler_of(*replies[done:])
        resumed = asyncio.run(life(sampler))
        assert len(sampler.requests) == len(replies) - done
        for field in dataclasses.fields(whole):
            if not field.name.endswith("_at"):
                same = getattr(resumed, field.name), getattr(whole, field.name)
                assert np.array_equal(*same), (done, field.name)
