"""The router: an episode keeps its sampler, loads are even, a death moves episodes, none waits."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.router import Router
from wfr.protocols import SamplingRequest
from wfr.testing import FakeSampler, settle
from wfr.trajectory import StopReason, WorldFailureError

REQUEST = SamplingRequest([1, 2, 3], 4, (), 1.0)


def router(wait_s=60.0, **samplers):
    made = Router(wait_s)
    made.update(samplers)
    return made


def used(samplers):
    return {name: len(sampler.requests) for name, sampler in samplers.items()}


def test_an_episode_sticks_to_its_sampler():
    samplers = {name: FakeSampler([5]) for name in "abc"}

    async def main():
        route = router(**samplers)
        for _ in range(5):
            await route.sample("one", REQUEST)
            await route.sample("two", REQUEST)

    asyncio.run(main())
    assert sorted(used(samplers).values()) == [0, 5, 5]


def test_it_tells_once_who_has_answered_and_not_who_has_died():
    samplers = {"a": FakeSampler([5]), "b": FakeSampler([5], dies_at=0), "c": FakeSampler([5])}

    async def main():
        route = router(**samplers)
        assert route.heard() == set()
        for episode in ("one", "two", "three"):
            await route.sample(episode, REQUEST)
        assert route.heard() == {"a", "c"}
        assert route.heard() == set()
        await route.sample("one", REQUEST)
        assert len(route.heard()) == 1

    asyncio.run(main())


def test_episodes_are_spread_evenly_and_freed_places_are_filled():
    samplers = {name: FakeSampler([5]) for name in "ab"}

    async def main():
        route = router(**samplers)
        for episode in ("a1", "b1", "a2", "b2"):
            await route.sample(episode, REQUEST)
        assert used(samplers) == {"a": 2, "b": 2}
        route.release("b1")
        route.release("b2")
        route.release("never seen")
        for episode in ("b3", "b4"):
            await route.sample(episode, REQUEST)

    asyncio.run(main())
    assert used(samplers) == {"a": 2, "b": 4}


def test_a_released_episode_is_forgotten_once():
    samplers = {name: FakeSampler([5]) for name in "ab"}

    async def main():
        route = router(**samplers)
        await route.sample("first", REQUEST)
        route.release("first")
        route.release("first")
        for episode in range(4):
            await route.sample(str(episode), REQUEST)

    asyncio.run(main())
    assert used(samplers) == {"a": 3, "b": 2}


def test_a_death_moves_the_episode_with_the_same_request():
    dying, other = FakeSampler([5], dies_at=1), FakeSampler([6])

    async def main():
        route = router(a=dying, b=other)
        await route.sample("one", REQUEST)
        return await route.sample("one", REQUEST), await route.sample("one", REQUEST)

    samples = asyncio.run(main())
    assert [sample.tokens.tolist() for sample in samples] == [[6], [6]]
    assert dying.requests == [REQUEST, REQUEST]
    assert other.requests == [REQUEST, REQUEST]


def test_all_episodes_of_a_dead_sampler_move():
    dying, other = FakeSampler([5]), FakeSampler([6])

    async def main():
        route = router(a=dying, b=other)
        dying.open.clear()
        episodes = [asyncio.create_task(route.sample(str(i), REQUEST)) for i in range(6)]
        await settle(lambda: len(dying.requests) == 3 == len(other.requests))
        dying.die()
        return await asyncio.gather(*episodes)

    assert {sample.tokens[0] for sample in asyncio.run(main())} == {6}
    assert len(other.requests) == 6


def test_a_sampler_taken_out_is_left_at_the_next_turn():
    old, new = FakeSampler([5]), FakeSampler([6])

    async def main():
        route = router(a=old)
        first = await route.sample("one", REQUEST)
        route.update({"b": new})
        return first, await route.sample("one", REQUEST)

    assert [s.tokens[0] for s in asyncio.run(main())] == [5, 6]


def test_a_new_sampler_takes_the_new_episodes():
    old, new = FakeSampler([5]), FakeSampler([6])

    async def main():
        route = router(a=old)
        for episode in ("1", "2"):
            await route.sample(episode, REQUEST)
        route.update({"a": old, "b": new})
        for episode in ("1", "2", "3", "4"):
            await route.sample(episode, REQUEST)

    asyncio.run(main())
    assert (len(old.requests), len(new.requests)) == (4, 2)


def test_no_sampler_left_waits_and_then_joins():
    dying, new = FakeSampler([5], dies_at=0), FakeSampler([6])

    async def main():
        route = router(a=dying)
        episode = asyncio.create_task(route.sample("one", REQUEST))
        await settle(lambda: dying.dead)
        await settle(rounds=5)
        assert not episode.done()
        route.update({"b": new})
        return await episode

    assert asyncio.run(main()).tokens.tolist() == [6]


def test_nobody_joins_in_time():
    with pytest.raises(WorldFailureError, match=r"no sampler joined within 0.01 s") as caught:
        asyncio.run(router(wait_s=0.01).sample("one", REQUEST))
    assert caught.value.reason is StopReason.SAMPLER_FAILED


def test_a_sampler_that_joins_and_leaves_at_once_is_not_used():
    sampler = FakeSampler([6])

    async def main():
        route = router()
        episode = asyncio.create_task(route.sample("one", REQUEST))
        await settle(rounds=3)
        route.update({"a": FakeSampler([5])})
        route.update({})
        await settle(rounds=5)
        assert not episode.done()
        route.update({"b": sampler})
        return await episode

    assert asyncio.run(main()).tokens.tolist() == [6]


def test_cancelling_a_waiting_episode_ends_it():
    async def main():
        route = router()
        episode = asyncio.create_task(route.sample("one", REQUEST))
        await settle(rounds=3)
        route.update({"a": FakeSampler([5])})  # in the same round as the cancellation
        episode.cancel()
        with pytest.raises(asyncio.CancelledError):
            await episode
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


@given(st.lists(st.tuples(st.sampled_from("sr"), st.integers(0, 7)), max_size=40))
def test_load_is_even_over_any_history(history):
    """Against a slow oracle: each new episode goes to a sampler with the fewest open episodes."""
    samplers = {name: FakeSampler([5]) for name in "abc"}
    homes: dict[int, str] = {}

    async def main():
        route = router(**samplers)
        for action, episode in history:
            if action == "r":
                route.release(str(episode))
                homes.pop(episode, None)
                continue
            before = used(samplers)
            await route.sample(str(episode), REQUEST)
            (home,) = (n for n, count in used(samplers).items() if count != before[n])
            load = Counter(homes.values())
            if episode in homes:
                assert home == homes[episode]
            else:
                assert load[home] == min(load[name] for name in samplers)
            homes[episode] = home

    asyncio.run(main())
