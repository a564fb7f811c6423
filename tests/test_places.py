"""Who gets the next place of an engine."""

from __future__ import annotations

import asyncio

import pytest

from actors.places import Places
from wfr.testing import settle


def test_the_smallest_number_is_next_and_among_equals_the_first_to_come():
    async def main():
        places, order, release = Places(1), [], asyncio.Event()

        async def request(priority, name):
            async with places.hold(priority):
                order.append(name)
                await release.wait()

        asked = [(5, "first"), (9, "young"), (2, "old"), (5, "a"), (5, "b"), (0, "oldest")]
        tasks = []
        for priority, name in asked:
            tasks.append(asyncio.create_task(request(priority, name)))
            await asyncio.sleep(0)
        assert order == ["first"]
        release.set()
        await asyncio.gather(*tasks)
        return order

    assert asyncio.run(main()) == ["first", "oldest", "old", "a", "b", "young"]


def test_never_more_than_the_count_and_all_of_them_at_once():
    async def main():
        places, held, most = Places(3), 0, 0

        async def request(number):
            nonlocal held, most
            async with places.hold(number % 4):
                held += 1
                most = max(most, held)
                await asyncio.sleep(0)
                held -= 1

        await asyncio.gather(*map(request, range(50)))
        return most

    assert asyncio.run(main()) == 3


@pytest.mark.parametrize("granted", [False, True])
def test_a_request_that_is_cancelled_keeps_no_place(granted):
    """Also one whose place came at the very moment of its cancellation."""

    async def main():
        places, release = Places(1), asyncio.Event()

        async def request():
            async with places.hold(0):
                await release.wait()

        holder, waiter = (asyncio.create_task(request()) for _ in range(2))
        await settle(rounds=3)
        if granted:
            holder.cancel()  # its end gives the place to the waiter, which has not run yet
            await asyncio.gather(holder, return_exceptions=True)
        waiter.cancel()
        release.set()
        await asyncio.gather(holder, waiter, return_exceptions=True)
        async with asyncio.timeout(5), places.hold(0):
            return True

    assert asyncio.run(main())


def test_a_request_that_fails_gives_its_place_back():
    async def main():
        places = Places(1)
        with pytest.raises(ValueError, match="no"):
            async with places.hold(0):
                raise ValueError("no")
        async with asyncio.timeout(5), places.hold(0):
            return True

    assert asyncio.run(main())
