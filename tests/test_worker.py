"""The worker's loop: order of events, retries, books that close, nothing left running."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import math
from collections import Counter

import numpy as np
import pytest

from actors.worker import EpisodeResult, RepeatedFailureError, RolloutWorker, group_meta
from wfr.buffer import BufferClosedError, ReplayBuffer
from wfr.config import parse_config
from wfr.schema import from_batch
from wfr.selection import Rules
from wfr.tasks.source import Task, TaskOrder
from wfr.testing import FakeEnvironment, FakeRenderer, FakeSampler, settle
from wfr.trajectory import (
    Group,
    StopReason,
    Trajectory,
    Turn,
    TurnKind,
    VersionSpan,
    WorldFailureError,
)

TASKS = [Task(f"t{i}", f"q{i}", (f"q{i}",), "test", skill=f"s{i % 2}") for i in range(6)]
HELD_OUT = [Task(f"h{i}", f"x{i}", (f"x{i}",), "test", skill="h") for i in range(5)]
OPEN = ord(FakeRenderer.OPEN)
DOWN = WorldFailureError(StopReason.BACKEND_FAILED, "no reply")


def two_turns(request):
    """The fake policy: asks for its question, then answers with it; 14 tokens for `qN`."""
    *history, last = "".join(map(chr, request.tokens)).split(FakeRenderer.OPEN)
    assert not last
    question = history[0].removesuffix(FakeRenderer.EOS)
    return FakeRenderer.ids(f"get {question};" if len(history) == 1 else f"say {question};")


TOKENS = 14  # of one whole episode of `two_turns`


class Buffer(ReplayBuffer):
    """A replay buffer that notes what happens to which group."""

    def __init__(self, events=None, max_lag=0, groups_per_batch=1, version=0, **options):
        super().__init__(Rules(max_lag, groups_per_batch, **options), version)
        self.events = [] if events is None else events
        self.metas = []

    async def admit(self, worker):
        admission = await super().admit(worker)
        self.events.append(f"admit {admission.group_id}")
        return admission

    async def add(self, group_id, ref, meta):
        self.events.append(f"add {group_id}")
        self.metas.append(meta)
        return await super().add(group_id, ref, meta)


def worker(sampler=None, /, environments=None, journal=None, **sections):
    """A worker with one fake sampler; `environments` is consumed one per attempt."""
    sections = {"rollout": {"group_size": 2}, **sections}
    made = iter(environments or ())
    player = RolloutWorker(
        parse_config({"run": {"name": "r"}, "objective": {"advantage": "centred"}, **sections}),
        "worker-0",
        tasks=TASKS,
        held_out=HELD_OUT,
        make_environment=lambda: next(made, None) or FakeEnvironment(),
        renderer=FakeRenderer(),
        journal=lambda batch, meta: journal and journal(batch),
    )
    player.update_samplers({"a": sampler} if sampler else {})
    return player


async def play(player, buffer, until):
    """Run the worker until the condition holds; the error that ended it, and nothing is left."""
    running = asyncio.create_task(player.run(buffer))
    await settle(lambda: running.done() or until(), rounds=2000)
    assert running.done() or until(), "the worker is stuck"
    await buffer.close()
    (error,) = await asyncio.gather(running, return_exceptions=True)
    await nothing_left()
    return error


async def nothing_left():
    assert asyncio.all_tasks() == {asyncio.current_task()}


def journalled(batches):
    return [trajectory for batch in batches for trajectory in from_batch(batch).trajectories]


def play_groups(player, count=1, **options):
    """Let the worker play `count` groups; the buffer and the error that ended it."""

    async def main():
        buffer = Buffer(groups_per_batch=count, **options)
        error = await play(player, buffer, lambda: len(buffer.metas) == count)
        return buffer, error

    return asyncio.run(main())


def test_order_of_events():
    events = []

    class Sampler(FakeSampler):
        async def sample(self, request):
            sample = await super().sample(request)
            events.append(f"sample {chr(request.tokens[1])}")
            return sample

    def journal(batch):
        events.append(f"journal {from_batch(batch).group_id}")

    async def main():
        sampler, buffer = Sampler(two_turns), Buffer(events, max_lag=0, groups_per_batch=1)
        running = asyncio.create_task(worker(sampler, journal=journal).run(buffer))
        for version in range(3):
            await settle(lambda: events[-1:] == [f"add {version}"])  # noqa: B023
            batch = await buffer.take()
            await settle()
            events.append("publish")
            sampler.version = version + 1
            await buffer.published(version + 1, batch.batch_id)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())
    order = TaskOrder(len(TASKS), seed=1)
    expected = []
    for group in range(3):
        samples = [f"sample {order[group]}"] * 4
        expected += [f"admit {group}", *samples, f"journal {group}", f"add {group}", "publish"]
    assert events == [*expected, "admit 3"]


def test_of_no_tasks_none_is_drawn():
    order = TaskOrder(0, seed=1)  # enough for an evaluation
    with pytest.raises(ValueError, match="no training task"):
        order[0]


def test_every_free_slot_is_played_at_once():
    sampler = FakeSampler(two_turns)
    sampler.open.clear()

    async def main():
        buffer = Buffer(max_lag=1, groups_per_batch=3)
        error = await play(worker(sampler), buffer, lambda: len(sampler.requests) == 12)
        assert isinstance(error, BufferClosedError)
        assert buffer.events == [f"admit {i}" for i in range(6)]

    asyncio.run(main())


def test_a_group_is_the_siblings_of_one_task():
    batches = []
    player = worker(FakeSampler(two_turns), journal=batches.append, rollout={"group_size": 3})
    play_groups(player, 2)
    for batch in batches:
        group = from_batch(batch)
        assert group.task_id == TASKS[TaskOrder(len(TASKS), 1)[int(group.group_id)]].id
        assert [t.sibling for t in group.trajectories] == [0, 1, 2]
        assert {(t.run_id, t.group_id, t.task_id) for t in group.trajectories} == {
            ("r", group.group_id, group.task_id)
        }
        assert [t.reward for t in group.trajectories] == [1.0] * 3


def test_the_admitted_version_is_recorded():
    batches = []
    play_groups(worker(FakeSampler(two_turns), journal=batches.append), version=5)
    assert from_batch(batches[0]).admitted_version == 5


def test_limits_and_temperature_come_from_the_configuration():
    sampler = FakeSampler(two_turns)
    environment = {"max_turn_tokens": 9, "max_response_tokens": 20}
    rollout = {"group_size": 2, "temperature": 0.7, "top_p": 0.9}
    play_groups(worker(sampler, environment=environment, rollout=rollout))
    first, *_, last = sampler.requests
    assert (first.temperature, first.top_p, first.max_tokens) == (0.7, 0.9, 9)
    assert last.max_tokens == 20 - 7 - 5  # `get qN;` and the observation are spent


@pytest.mark.parametrize("held", [True, False])
def test_closing_the_buffer_ends_the_worker(held):
    sampler = FakeSampler(two_turns)
    if held:
        sampler.open.clear()

    async def main():
        buffer = Buffer()
        done = (lambda: len(sampler.requests) == 2) if held else (lambda: buffer.metas)
        return await play(worker(sampler), buffer, done)

    assert isinstance(asyncio.run(main()), BufferClosedError)


@pytest.mark.parametrize("rounds", [0, 1, 2, 3, 5, 8, 13, 50])
def test_cancelling_leaves_nothing_running(rounds):
    async def main():
        buffer = Buffer(groups_per_batch=2)
        running = asyncio.create_task(worker(FakeSampler(two_turns)).run(buffer))
        await settle(rounds=rounds)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await nothing_left()

    asyncio.run(main())


def test_cancelling_an_evaluation_leaves_nothing_running():
    sampler = FakeSampler(two_turns)
    sampler.open.clear()

    async def main():
        running = asyncio.create_task(worker(sampler).evaluate())
        await settle(lambda: len(sampler.requests) == len(HELD_OUT))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await nothing_left()

    asyncio.run(main())


# ---- faults of the world


def test_a_transient_failure_is_played_again_and_its_tokens_are_wasted():
    batches = []
    broken = [FakeEnvironment(None, DOWN)]  # the first sibling's first attempt, at its second turn
    buffer, _ = play_groups(worker(FakeSampler(two_turns), broken, batches.append))
    assert [t.reward for t in journalled(batches)] == [1.0, 1.0]
    (meta,) = buffer.metas
    assert (meta.scored, meta.policy_tokens) == (2, 2 * TOKENS)
    assert meta.discarded == {"backend_failed": TOKENS}
    assert buffer.ledger().generated == 3 * TOKENS


def test_retries_end_and_the_sibling_is_set_aside():
    batches = []
    sections = {"rollout": {"group_size": 3, "episode_retries": 1}}
    broken = [FakeEnvironment(DOWN), None, None, FakeEnvironment(None, DOWN)]
    player = worker(FakeSampler(two_turns), broken, batches.append, **sections)
    buffer, _ = play_groups(player)
    failed, *scored = journalled(batches)
    assert failed.stop_reason is StopReason.BACKEND_FAILED
    assert math.isnan(failed.reward)
    assert [t.reward for t in scored] == [1.0, 1.0]
    (meta,) = buffer.metas
    assert (meta.siblings, meta.scored, meta.policy_tokens) == (3, 2, 2 * TOKENS)
    assert meta.discarded == {"backend_failed": 7 + TOKENS}


def test_failures_of_infrastructure_do_not_use_up_the_retries_of_others():
    sections = {
        "rollout": {"group_size": 1, "episode_retries": 1},
        "supervision": {"episode_retries": 3},
    }
    gone = WorldFailureError(StopReason.SANDBOX_UNAVAILABLE, "no sandbox")
    broken = [FakeEnvironment(each) for each in (gone, DOWN, gone, gone)]
    batches = []
    play_groups(worker(FakeSampler(two_turns), broken, batches.append, **sections))
    (played,) = journalled(batches)
    assert played.reward == 1.0
    broken = [FakeEnvironment(each) for each in (gone, gone, gone, gone)]
    play_groups(worker(FakeSampler(two_turns), broken, batches.append, **sections))
    assert journalled(batches)[-1].stop_reason is StopReason.SANDBOX_UNAVAILABLE


def test_an_incomplete_group_can_be_waited_for():
    sections = {
        "rollout": {"group_size": 2, "episode_retries": 0},
        "buffer": {"incomplete_groups": "wait"},
    }
    broken = [FakeEnvironment(DOWN), None, FakeEnvironment(DOWN), FakeEnvironment(DOWN)]
    buffer, _ = play_groups(worker(FakeSampler(two_turns), broken, **sections), incomplete="wait")
    (meta,) = buffer.metas
    assert (meta.siblings, meta.scored, meta.policy_tokens) == (2, 2, 2 * TOKENS)
    assert meta.discarded == {"backend_failed": 3 * 7}
    assert (meta.size > 0, meta.spread) == (True, 0.0)


def test_a_bug_in_the_environment_is_not_played_again():
    batches = []
    player = worker(FakeSampler(two_turns), [FakeEnvironment(KeyError("x"))], batches.append)
    buffer, _ = play_groups(player)
    assert journalled(batches)[0].stop_reason is StopReason.ENVIRONMENT_FAILED
    assert buffer.metas[0].discarded == {"environment_failed": 7}


class Broken(FakeSampler):
    """A sampler whose k-th reply has a log-probability that is none."""

    def __init__(self, *replies, value=math.nan, script=two_turns):
        super().__init__(script)
        self._broken, self._value = set(replies), value

    async def sample(self, request):
        number = len(self.requests)
        sample = await super().sample(request)
        if number in self._broken:
            sample.logprob[2] = self._value
        return sample


@pytest.mark.parametrize("value", [math.nan, -math.inf, 0.5])
def test_a_log_probability_that_is_none_was_the_samplers_fault(value):
    """Played again; the attempt is waste, and no such number reaches the buffer."""
    batches = []
    player = worker(Broken(0, value=value), journal=batches.append, rollout={"group_size": 1})
    buffer, _ = play_groups(player)
    (played,) = journalled(batches)
    assert (played.reward, played.error) == (1.0, "")
    assert np.isfinite(played.behaviour_logprob).all()
    assert buffer.metas[0].discarded == {"sampler_failed": TOKENS}


def test_an_episode_whose_sampler_keeps_failing_is_set_aside_by_name():
    batches = []
    sections = {"rollout": {"group_size": 2}, "supervision": {"episode_retries": 0}}
    player = worker(Broken(2), journal=batches.append, **sections)
    buffer, _ = play_groups(player)
    (failed,) = [t for t in journalled(batches) if t.stop_reason.is_world_failure]
    assert failed.stop_reason is StopReason.SAMPLER_FAILED
    assert failed.error == (
        f"trajectory 0/{failed.sibling}, turn 1: behaviour_logprob is nan at token 18"
    )
    assert math.isnan(failed.reward)
    assert np.isnan(failed.behaviour_logprob[18])
    assert (buffer.metas[0].scored, buffer.metas[0].discarded) == (1, {"sampler_failed": TOKENS})


def test_a_sampler_that_always_fails_stops_the_run_with_advice():
    rollout = {"group_size": 1, "max_episode_failures": 4}
    player = worker(Broken(*range(99)), rollout=rollout, supervision={"episode_retries": 0})
    _, error = play_groups(player, count=4)
    assert isinstance(error, RepeatedFailureError)
    assert "4 tasks in a row failed with sampler_failed" in str(error)
    assert "behaviour_logprob is nan" in str(error)


def failures_in_a_row(environments, groups=4, size=1):
    """What ends a worker that gives up after four tasks; one group after the other."""
    rollout = {"group_size": size, "max_episode_failures": 4, "episode_retries": 0}
    player = worker(FakeSampler(two_turns), environments, rollout=rollout)
    buffer, error = play_groups(player, groups)
    assert buffer.ledger().missing == 0
    return error


def test_failures_with_one_cause_stop_the_run_with_the_cause():
    error = failures_in_a_row(FakeEnvironment(KeyError("oops")) for _ in range(4))
    assert isinstance(error, RepeatedFailureError)
    for words in ("4 tasks in a row", "environment_failed", "KeyError: 'oops'", "Traceback"):
        assert words in str(error)
    assert "rollout.max_episode_failures" in str(error)


def test_siblings_of_one_task_count_once():
    broken = [FakeEnvironment(KeyError("x")) for _ in range(12)]
    assert isinstance(failures_in_a_row(broken, groups=3, size=4), BufferClosedError)


def test_three_failures_and_a_success_do_not():
    broken = [*(FakeEnvironment(KeyError("x")) for _ in range(3)), None] * 2
    assert isinstance(failures_in_a_row(broken, groups=6), BufferClosedError)


def test_numbers_do_not_make_two_causes():
    broken = [FakeEnvironment(ValueError(f"{i} tokens are too many")) for i in range(4)]
    assert isinstance(failures_in_a_row(broken), RepeatedFailureError)


def test_failures_with_different_causes_do_not():
    causes = itertools.cycle([KeyError("x"), ValueError("x"), DOWN])
    broken = [FakeEnvironment(next(causes)) for _ in range(6)]
    assert isinstance(failures_in_a_row(broken, groups=6), BufferClosedError)


def test_only_the_last_attempt_at_an_episode_counts():
    rollout = {"group_size": 1, "max_episode_failures": 2, "episode_retries": 1}
    broken = [FakeEnvironment(DOWN), None] * 3
    _, error = play_groups(worker(FakeSampler(two_turns), broken, rollout=rollout), 3)
    assert isinstance(error, BufferClosedError)


class Hanging(FakeEnvironment):
    async def step(self, text, finish_reason):
        await asyncio.Event().wait()


@pytest.mark.parametrize("training", [True, False])
def test_an_error_ends_the_other_episodes_too(training):
    environments = [FakeEnvironment(KeyError("x")), FakeEnvironment(KeyError("x"))]
    environments += [Hanging() for _ in HELD_OUT]
    rollout = {"group_size": 1, "max_episode_failures": 2}

    async def main():
        player = worker(FakeSampler(two_turns), environments, rollout=rollout)
        with pytest.raises(RepeatedFailureError):
            await (player.run(Buffer()) if training else player.evaluate())
        await nothing_left()

    asyncio.run(main())


def test_an_invalid_record_stops_the_run_where_it_was_made():
    class Unlabelled(FakeSampler):
        async def sample(self, request):
            return dataclasses.replace(await super().sample(request), spans=())

    batches = []
    _, error = play_groups(worker(Unlabelled(two_turns), journal=batches.append))
    assert isinstance(error, ValueError)
    assert "trajectory 0/0: version_spans do not cover exactly the policy tokens" in str(error)
    assert batches == []


# ---- samplers


def test_a_sampler_dies_and_its_episodes_move_with_their_token_ids():
    batches = []
    dying, other = FakeSampler(two_turns, dies_at=3), FakeSampler(two_turns, version=1)
    player = worker(journal=batches.append, rollout={"group_size": 4})
    player.update_samplers({"a": dying, "b": other})
    buffer, _ = play_groups(player)
    trajectories = journalled(batches)
    assert len({tuple(t.tokens.tolist()) for t in trajectories}) == 1
    assert [t.reward for t in trajectories] == [1.0] * 4
    versions = sorted(tuple(s.version for s in t.version_spans) for t in trajectories)
    assert versions == [(0, 0), (0, 1), (1, 1), (1, 1)]
    moved = other.requests[-1].tokens
    assert list(moved) == trajectories[0].tokens[: len(moved)].tolist()
    assert buffer.ledger().generated == dying.emitted + other.emitted == 4 * TOKENS


def test_an_episode_that_has_ended_is_no_load():
    samplers = {"a": FakeSampler(two_turns), "b": FakeSampler(two_turns)}
    player = worker()

    async def main():
        player.update_samplers(samplers)
        for share in range(5):  # one episode after the other
            assert len(await player.evaluate(share, 5)) == 1

    asyncio.run(main())
    assert [len(sampler.requests) for sampler in samplers.values()] == [10, 0]


def test_without_samplers_the_worker_waits_for_one():
    sampler = FakeSampler(two_turns)

    async def main():
        player, buffer = worker(), Buffer()
        running = asyncio.create_task(player.run(buffer))
        await settle(rounds=50)
        assert not buffer.metas
        player.update_samplers({"a": sampler})
        await settle(lambda: buffer.metas)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return buffer.metas

    assert asyncio.run(main())[0].scored == 2


# ---- books


def test_sampled_is_reported_plus_cut_short():
    """Wherever the run is cut, every sampled token is in the ledger or unreported."""
    reported, cut_short = zip(*(books_of_a_cut_run(rounds) for rounds in range(1, 20)), strict=True)
    assert reported[0] == 0 < reported[-1]
    assert any(cut_short)


def test_time_is_told_once_and_by_what_was_waited_for():
    async def main():
        player = worker(FakeSampler(two_turns), itertools.repeat(None))
        player._make_environment = FakeEnvironment
        buffer = Buffer(max_lag=0, groups_per_batch=2)
        running = asyncio.create_task(player.run(buffer))
        await settle(rounds=50)
        first, again = player.time_spent(), player.time_spent()
        await buffer.close()
        await asyncio.gather(running, return_exceptions=True)
        return first, again

    first, again = asyncio.run(main())
    assert set(first) == set(again) == {"slot", "sampler", "operator", "own"}
    assert all(seconds > 0 for seconds in first.values())
    assert sum(again.values()) < sum(first.values())


def books_of_a_cut_run(rounds):
    sampler = FakeSampler(two_turns)
    scripts = itertools.cycle([(), (None, DOWN), (), (KeyError("x"),)])

    async def main():
        player = worker(sampler, (FakeEnvironment(*script) for script in scripts))
        buffer = Buffer(max_lag=2, groups_per_batch=2)
        running = asyncio.create_task(player.run(buffer))
        await settle(rounds=rounds)
        await buffer.close()
        await asyncio.gather(running, return_exceptions=True)
        ledger = buffer.ledger()
        assert ledger.missing == 0
        assert sampler.emitted == ledger.generated + player.unreported_tokens()
        return ledger.generated, player.unreported_tokens()

    return asyncio.run(main())


def test_nothing_is_unreported_once_every_group_is_handed_in():
    player = worker(FakeSampler(two_turns), [FakeEnvironment(DOWN)])
    buffer, _ = play_groups(player, 3)
    assert buffer.ledger().generated == 3 * 2 * TOKENS + 7
    assert player.unreported_tokens() == 0


def test_samples_of_a_held_out_task_have_seeds_of_their_own():
    async def play(numbers):
        sampler = FakeSampler(two_turns)
        player = worker(sampler)
        played = [await player.play_held_out(1, 0.8, number) for number in numbers]
        return played, [(r.seed, r.temperature) for r in sampler.requests]

    played, asked = asyncio.run(play((1, 2)))
    assert [result.task_id for result in played] == [HELD_OUT[1].id] * 2
    assert {temperature for _, temperature in asked} == {0.8}
    assert len({seed for seed, _ in asked}) == len(asked) == 4
    assert asyncio.run(play((1, 2)))[1] == asked


def test_two_equal_contexts_of_an_episode_are_sampled_with_different_seeds():
    replies = [FakeRenderer.ids(text) for text in ("new c;", "new c;", "say c;")]
    sampler = FakeSampler(*replies)
    asyncio.run(worker(sampler).play_held_out(1, 0.8, 1))
    _, one, two = sampler.requests
    assert list(one.tokens) == list(two.tokens)
    assert one.seed != two.seed


def test_a_deterministic_run_samples_with_seeds_that_its_episodes_have_and_no_two_share():
    """Training else leaves them to the engine."""

    def asked(name, deterministic):
        sampler, one = FakeSampler(two_turns), {"max_num_seqs": 1, "prefix_cache": False}
        run = {"name": name, "deterministic": deterministic}
        play_groups(worker(sampler, run=run, sampler=one, buffer={"max_lag": 0}), 2)
        return {request.seed for request in sampler.requests}, len(sampler.requests)

    seeds, requests = asked("r", True)
    assert len(seeds) == requests == 2 * 2 * 2
    assert asked("other", True) == (seeds, requests)
    assert asked("r", False) == ({None}, requests)


def test_evaluation_is_no_training():
    batches = []
    sampler = FakeSampler(two_turns)
    player = worker(sampler, journal=batches.append)
    results = asyncio.run(player.evaluate())
    assert [dataclasses.replace(result, seconds=0.0) for result in results] == [
        EpisodeResult(task.id, "h", 1.0, {"correct": 1.0}, "answered", 2, task.question, 14)
        for task in HELD_OUT
    ]
    assert {request.temperature for request in sampler.requests} == {0.0}
    assert sampler.emitted == len(HELD_OUT) * TOKENS
    assert (batches, player.unreported_tokens()) == ([], 0)


def test_shares_of_an_evaluation_cover_every_task_once():
    player = worker(FakeSampler(two_turns))
    parts = [asyncio.run(player.evaluate(share, 3)) for share in range(3)]
    assert Counter(r.task_id for part in parts for r in part) == {t.id: 1 for t in HELD_OUT}


def test_an_evaluation_on_spare_capacity_waits_behind_everybody_and_is_bounded():
    under_way, most = 0, 0

    class Counting(FakeSampler):
        async def sample(self, request):
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await settle(rounds=5)
            under_way -= 1
            return await super().sample(request)

    sampler = Counting(two_turns)
    results = asyncio.run(worker(sampler).evaluate(spare=2))
    assert len(results) == len(HELD_OUT) > 2
    assert most == 2
    assert min(request.priority for request in sampler.requests) > 10**12


def test_evaluating_while_training_keeps_the_books_apart():
    sampler = FakeSampler(two_turns)

    async def main():
        player, buffer = worker(sampler), Buffer(groups_per_batch=2)
        running = asyncio.create_task(player.run(buffer))
        await player.evaluate()
        await settle(lambda: len(buffer.metas) == 2)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert player.unreported_tokens() == 0
        return buffer.ledger().generated

    assert asyncio.run(main()) == 4 * TOKENS == sampler.emitted - len(HELD_OUT) * TOKENS


def trajectory(reason, *spans) -> Trajectory:
    total = spans[-1].end if spans else 0
    return Trajectory(
        "r",
        "t",
        "g",
        0,
        np.zeros(total, np.int32),
        np.zeros(total, np.int16),
        np.zeros(total, np.float32),
        list(spans),
        [Turn(0, total, total, TurnKind.ANSWER, "stop")] if total else [],
        [],
        reason,
    )


def test_what_the_buffer_is_told_of_a_group():
    scored = trajectory(StopReason.ANSWERED, VersionSpan(0, 4, 3), VersionSpan(4, 6, 2))
    later = trajectory(StopReason.OUT_OF_TURNS, VersionSpan(0, 5, 4))
    failed = trajectory(StopReason.BACKEND_FAILED, VersionSpan(0, 9, 1))
    meta = group_meta(Group("g", "t", 1, [scored, failed, later]), {"backend_failed": 2, "x": 1})
    assert (meta.siblings, meta.scored, meta.policy_tokens, meta.flat) == (3, 2, 11, False)
    assert meta.oldest_version == 2
    assert meta.discarded == {"backend_failed": 11, "x": 1}


@pytest.mark.parametrize(
    ("rewards", "flat"), [((1.0, 1.0), True), ((1.0, 0.0), False), ((1.0,), False)]
)
def test_the_buffer_is_told_of_equal_rewards(rewards, flat):
    rows = [trajectory(StopReason.ANSWERED, VersionSpan(0, 4, 0)) for _ in rewards]
    for row, reward in zip(rows, rewards, strict=True):
        row.reward = reward
    rows.append(trajectory(StopReason.BACKEND_FAILED))
    assert group_meta(Group("g", "t", 0, rows), {}).flat is flat


def test_a_group_of_failures_has_the_admitted_version():
    failed = trajectory(StopReason.PROMPT_TOO_LONG)
    meta = group_meta(Group("g", "t", 6, [failed]), {})
    assert (meta.scored, meta.policy_tokens, meta.oldest_version) == (0, 0, 6)


def test_the_oldest_group_is_sampled_first():
    """Every request carries the id of its group, and an evaluation waits for no training."""
    sampler = FakeSampler(two_turns)
    player = worker(sampler)
    play_groups(player, count=2)
    assert {request.priority for request in sampler.requests} == {0, 1}
    sampler.requests.clear()
    asyncio.run(player.evaluate())
    assert {request.priority for request in sampler.requests} == {0}


def test_a_full_disk_holds_the_worker_up_and_loses_nothing(monkeypatch):
    """The journal refuses three times; no slot is asked for meanwhile, then all goes on."""
    monkeypatch.setattr("actors.worker.RETRY_S", 0.0)
    refusals, kept, seen = [1, 1, 1], [], []

    def journal(batch):
        if kept and refusals:
            refusals.pop()
            seen.append((player.disk_full(), len(kept)))
            raise OSError(28, "No space left on device")
        kept.append(batch)

    player = worker(FakeSampler(two_turns), journal=journal, rollout={"group_size": 2})
    play_groups(player, count=2)
    assert not refusals
    assert [count for _, count in seen] == [1, 1, 1]
    assert seen[1][0]
    assert seen[2][0]
    assert not player.disk_full()
    assert len(kept) >= 2
