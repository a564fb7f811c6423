"""Operators: arguments, replies, pools, and the Programmer."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfr.backends.base import Completion
from wfr.operators.base import ArgumentError, Scope, read_inputs, tagged
from wfr.operators.ensemble import _label
from wfr.operators.library import NAMES, POOLS, PROMPTED, make_pool, pool_names
from wfr.operators.programmer import Programmer
from wfr.operators.prompted import PromptedOperator
from wfr.operators.search import Search
from wfr.retrieval.memory_index import MemoryIndex
from wfr.sandbox import Result, Status
from wfr.search_config import SearchConfig
from wfr.testing import FakeBackend, FakeSandbox
from wfr.trajectory import StopReason, WorldFailureError

SCOPE = Scope("t")


def call(operator, argument):
    return asyncio.run(operator.call(argument, SCOPE))


def prompted(name, *replies):
    backend = FakeBackend(*replies)
    return PromptedOperator(PROMPTED[name], backend), backend


def test_a_refusal_is_shown_and_recorded():
    class Refusing:
        name = "many"

        async def complete(self, request):
            return Completion("I cannot help with that.", status="refused", backend="one of many")

    outcome = call(PromptedOperator(PROMPTED["AnswerGenerate"], Refusing()), "question")
    assert outcome.text == "I cannot help with that."
    assert (outcome.call.status, outcome.call.backend) == ("refused", "one of many")


def test_pools_of_the_paper():
    assert len(POOLS["base"]) == len(POOLS["search"]) == 7
    assert set(POOLS["base"]) - set(POOLS["search"]) == {"MultiAnswerGenerate"}
    assert set(POOLS["search"]) - set(POOLS["base"]) == {"Search"}


@pytest.mark.parametrize("pool", [*POOLS, ("Search",), NAMES])
def test_make_pool_keeps_the_order(pool):
    search = Search(SearchConfig(), MemoryIndex(()))
    made = make_pool(pool, search=search, sandbox=FakeSandbox(), backend=FakeBackend())
    assert tuple(made) == pool_names(pool)
    assert all(operator.spec.name == name for name, operator in made.items())


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        (("Search", "Serch"), r"does not know Serch; known: Search, Programmer"),
        ((), "is empty"),
        (("Search", "Search"), "twice"),
        ("bass", "'bass' is unknown; known: base, search, embedded"),
    ],
)
def test_a_bad_pool_is_refused(pool, message):
    with pytest.raises(ValueError, match=message):
        pool_names(pool)


@pytest.mark.parametrize("name", PROMPTED)
def test_usage_lines_are_legal_calls(name):
    spec = PROMPTED[name].spec
    operator, backend = prompted(name, "<answer>x</answer>")
    called, _, argument = spec.usage.partition(": ")
    assert called == name
    call(operator, argument)
    assert all(
        text in backend.requests[0].prompt
        for t in read_inputs(spec, argument).values()
        for text in t
    )


@pytest.mark.parametrize(
    ("name", "argument", "message"),
    [
        ("AnswerGenerate", " ", "needs an input after the colon"),
        ("Review", "what?", r"<question>…</question>"),
        ("Review", "<question>q</question>", r"<solution>…</solution>"),
        ("Revise", "<question>q</question><solution>s</solution>", r"<feedback>…</feedback>"),
        ("Revise", "<solution>s</solution>", r"<question>…</question>"),
        ("ScEnsemble", "<solution>s</solution><solution>t</solution>", r"<query>…</query>"),
        ("ScEnsemble", "<query>q</query>", r"<solution>…</solution>"),
        ("ScEnsemble", "<query>q</query><solution>s</solution>", "meaningless with one solution"),
        ("Custom", "do it", "<task> or <instruction>"),
    ],
)
def test_missing_inputs_are_explained_without_a_call(name, argument, message):
    operator, backend = prompted(name)
    with pytest.raises(ArgumentError, match=message):
        call(operator, argument)
    assert backend.requests == []


def test_custom_is_content_with_either_input():
    operator, backend = prompted("Custom", "<answer>x</answer>")
    assert call(operator, "<task>count</task>").text == "Custom answer: x"
    assert backend.requests[0].inputs == {"task": ("count",), "instruction": ()}


THOUGHT = "<think>because</think><answer>Paris</answer>"


@pytest.mark.parametrize(
    ("name", "argument", "reply", "shown"),
    [
        (
            "AnswerGenerate",
            *("q", THOUGHT),
            "AnswerGenerate thought process: because\n\nAnswerGenerate answer: Paris",
        ),
        ("AnswerGenerate", "q", "<answer>Paris</answer>", "AnswerGenerate answer: Paris"),
        ("AnswerGenerate", "q", " Paris, I think ", "Paris, I think"),
        ("AnswerGenerate", "q", "", ""),
        (
            "Review",
            "<question>q</question><solution>s</solution>",
            *("<feedback>fine</feedback>", "Review feedback: fine"),
        ),
        ("Review", "<question>q</question><solution>s</solution>", "fine", "fine"),
    ],
)
def test_what_is_shown_of_a_reply(name, argument, reply, shown):
    operator, _ = prompted(name, reply)
    assert call(operator, argument).text == shown


def test_several_answers_are_drawn_apart_and_numbered():
    operator, backend = prompted("MultiAnswerGenerate", THOUGHT, "<answer>Rome</answer>", "Oslo")
    outcome = call(operator, "q")
    assert outcome.text == (
        "[Answer 1]\nAnswerGenerate answer: Paris\n\n[Answer 2]\nAnswerGenerate answer: Rome\n\n"
        "[Answer 3]\nAnswerGenerate answer: Oslo"
    )
    assert [r.sample for r in backend.requests] == [0, 1, 2]
    assert all(r.temperature > 0 for r in backend.requests)
    assert (outcome.call.prompt_tokens, outcome.call.completion_tokens) == (9, 6)
    assert outcome.call.cost_usd == pytest.approx(0.03)


def test_one_failing_sample_is_a_world_failure():
    failure = WorldFailureError(StopReason.BACKEND_FAILED, "down")
    operator, _ = prompted("MultiAnswerGenerate", "x", failure, "y")
    with pytest.raises(WorldFailureError, match="down"):
        call(operator, "q")


def test_labels_of_solutions_never_run_out():
    assert [_label(i) for i in (0, 25, 26, 27, 51, 52, 701, 702)] == (
        ["A", "Z", "AA", "AB", "AZ", "BA", "ZZ", "AAA"]
    )


@given(st.lists(st.sampled_from(["<a>", "</a>", "x", "<", " "]), max_size=15).map("".join))
def test_tagged_takes_each_up_to_its_first_close(text):
    expected, rest = [], text
    while "<a>" in rest and "</a>" in rest.split("<a>", 1)[1]:
        content, rest = rest.split("<a>", 1)[1].split("</a>", 1)
        expected.append(content.strip())
    assert list(tagged(text, "a")) == expected


# --- retries ---


# --- Programmer ---


def result(status, stdout="", stderr="", value=None):
    return Result(status, stdout, stderr, value)


@pytest.mark.parametrize(
    ("outcome", "shown"),
    [
        (result(Status.PASSED, value="27"), "27"),
        (result(Status.PASSED, stdout="5\n", value="27"), "5"),
        (result(Status.PASSED), "(no output)"),
        (
            result(Status.ERROR, stderr="Traceback …\n\nZeroDivisionError: division by zero\n"),
            "error: ZeroDivisionError: division by zero",
        ),
        (result(Status.ERROR), "error"),
        (result(Status.TIMEOUT), "error: the time limit was reached"),
        (result(Status.MEMORY), "error: the memory limit was reached"),
        (result(Status.OUTPUT_LIMIT), "error: too much output"),
        (result(Status.KILLED), "error: the process was killed"),
    ],
)
def test_programmer_shows(outcome, shown):
    answer = call(Programmer(FakeSandbox({"1931 - 1904": outcome})), "1931 - 1904")
    assert answer.text == shown
    assert answer.call.status == ("ok" if outcome.status == "passed" else outcome.status)


def test_an_absent_sandbox_is_a_fault_of_the_world():
    sandbox = FakeSandbox({"1": result(Status.UNAVAILABLE, stderr="no zygote")})
    with pytest.raises(WorldFailureError, match="no zygote") as caught:
        call(Programmer(sandbox), "1")
    assert caught.value.reason is StopReason.SANDBOX_UNAVAILABLE


def test_only_programs_that_passed_are_kept():
    sandbox = FakeSandbox({"1": result(Status.TIMEOUT), "2": "2"})
    programmer = Programmer(sandbox, kept_results=1)
    hits = [call(programmer, code).call.cache_hit for code in ("1", "1", "2", "2", "3", "2")]
    assert hits == [False, False, False, True, False, False]
    assert sandbox.programs == ["1", "1", "2", "3", "2"]


def test_a_code_fence_is_taken_off():
    sandbox = FakeSandbox()
    call(Programmer(sandbox), "```python\nx = 1\nx + 1\n```")
    assert sandbox.programs == ["x = 1\nx + 1"]
