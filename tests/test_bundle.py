import asyncio

import pytest

from wfr.bundle import Bundle


def run(coroutine):
    return asyncio.run(coroutine)


def test_items_that_come_together_go_together_and_get_their_own_results():
    async def main():
        calls = []

        async def send(items):
            calls.append(list(items))
            await asyncio.sleep(0)
            return [item * 10 for item in items]

        bundle = Bundle(send)
        results = await asyncio.gather(*(bundle(i) for i in range(5)))
        return calls, results, await bundle(7)

    assert run(main()) == ([[0, 1, 2, 3, 4], [7]], [0, 10, 20, 30, 40], 70)


def test_what_comes_while_a_call_is_under_way_goes_with_the_next():
    async def main():
        calls, gate = [], asyncio.Event()

        async def send(items):
            calls.append(list(items))
            await gate.wait()
            return items

        bundle = Bundle(send)
        first = asyncio.create_task(bundle("a"))
        while not calls:
            await asyncio.sleep(0)
        others = [asyncio.create_task(bundle(item)) for item in "bcd"]
        await asyncio.sleep(0)
        gate.set()
        return await asyncio.gather(first, *others), calls

    assert run(main()) == (["a", "b", "c", "d"], [["a"], ["b", "c", "d"]])


def test_items_without_a_result_are_sent_again_before_newer_ones():
    async def main():
        calls = []

        async def send(items):
            calls.append(list(items))
            await asyncio.sleep(0)
            return items[:2]

        bundle = Bundle(send)
        return await asyncio.gather(*(bundle(i) for i in range(5))), calls

    results, calls = run(main())
    assert results == [0, 1, 2, 3, 4]
    assert calls == [[0, 1, 2, 3, 4], [2, 3, 4], [4]]


def test_an_error_reaches_all_who_wait_for_the_call_and_nobody_else():
    async def main():
        async def send(items):
            await asyncio.sleep(0)
            if "bad" in items:
                raise ValueError("bad")
            return items

        bundle = Bundle(send)
        found = await asyncio.gather(bundle("good"), bundle("bad"), return_exceptions=True)
        return found, await bundle("good")

    found, later = run(main())
    assert [type(error) for error in found] == [ValueError, ValueError]
    assert later == "good"


def test_one_that_is_cancelled_disturbs_no_other():
    async def main():
        async def send(items):
            await asyncio.sleep(0)
            return items

        bundle = Bundle(send)
        first, second = asyncio.create_task(bundle(1)), asyncio.create_task(bundle(2))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        return await second

    assert run(main()) == 2
