"""Operators that err once: who is told something wrong, and who is not."""

from __future__ import annotations

import asyncio

from benchmarks import planted_errors
from benchmarks.planted_errors import OUT_OF_ORDER, ErringOperator
from wfr.operators.base import Outcome, Scope
from wfr.operators.library import declarations
from wfr.trajectory import OperatorCall


class Echo:
    parameters = "echo"

    async def call(self, argument, scope):
        return Outcome(f"found {argument}", OperatorCall("Search", "bm25", 0.001))


def _told(operator, *calls):
    async def ask():
        return [(await operator.call(argument, Scope(task))).text for task, argument in calls]

    return asyncio.run(ask())


def test_the_first_of_equal_calls_of_a_task_gets_what_another_call_found():
    calls = [("1", "Ada"), ("1", "Bob"), ("1", "Bob"), ("2", "Bob"), ("2", "Ada"), ("2", "Bob")]
    assert _told(ErringOperator(Echo(), seen=False), *calls) == [
        "found Ada",  # nothing else was found before
        "found Ada",
        "found Bob",
        "found Bob",  # the last call found the same
        "found Bob",
        "found Bob",
    ]


def test_a_seen_error_says_so_once():
    calls = [("1", "Ada"), ("1", "Ada"), ("2", "Ada"), ("1", "Ada")]
    assert _told(ErringOperator(Echo(), seen=True), *calls) == [
        OUT_OF_ORDER,
        "found Ada",
        OUT_OF_ORDER,
        "found Ada",
    ]


def test_a_pool_can_name_them():
    names = ["SEARCH_MIXED_UP", "SEARCH_OUT_OF_ORDER", "PROGRAMMER_MIXED_UP"]
    for name in names:
        found = declarations([f"{planted_errors.__name__}:{name}"])
        assert found == {name.partition("_")[0].capitalize(): getattr(planted_errors, name)}
