"""Policies to compare with: each plays by the rules, and is refused where it cannot play."""

from __future__ import annotations

import asyncio
import dataclasses
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.test_canvas import CODE, MATH, OPEN, QA, Interpreting
from tests.test_canvas import make as make_canvas
from wfr.backends.base import BackendConfigError, BackendError
from wfr.backends.rule_based import RuleBased
from wfr.config import Config, ThinkActConfig
from wfr.environments.think_act import ThinkAct
from wfr.evaluation.policies.base import PolicyError, Setting
from wfr.evaluation.policies.mutation import mutated
from wfr.evaluation.policies.play import play
from wfr.evaluation.policies.registry import NAMES, make_policies
from wfr.evaluation.policies.scripts import policies
from wfr.evaluation.policies.search import search
from wfr.evaluation.policies.tool_script import Seen, ToolCall
from wfr.operators.library import make_pool
from wfr.operators.search import Search
from wfr.retrieval.memory_index import MemoryIndex
from wfr.search_config import SearchConfig
from wfr.tasks.source import Document, Task
from wfr.testing import FakeBackend
from wfr.trajectory import WorldFailureError

POOL = ("Search", "AnswerGenerate", "MultiAnswerGenerate", "ScEnsemble", "Custom", "Review")
CORPUS = (Document("Ada Adler", "Ada Adler job singer home Ulm"),)
LOOK_UP = Task("t", "Ada Adler's job?", ("singer",), "lookup_world", skill="hop1")
PLAYED = [name for name in NAMES if name != "search"]


def think_act(pool=POOL, backend=None):
    config = ThinkActConfig(pool=pool, search=SearchConfig(style="text"))
    operators = make_pool(
        pool,
        search=Search(config.search, MemoryIndex(CORPUS)),
        sandbox=Interpreting(),
        backend=backend or RuleBased(),
    )
    return ThinkAct(config, operators)


def setting(kind="think_act", pool=POOL, **options):
    environment = {"kind": kind, **options}
    if kind == "think_act":
        environment["pool"] = pool
    return Setting.of(Config.model_validate({"environment": environment}))


def played(environment, policy, task, where=None):
    kind = "canvas" if hasattr(environment, "view") else "think_act"
    made = make_policies(policy, dataclasses.replace(where or setting(kind), backend=RuleBased()))
    return asyncio.run(play(environment, made, task, policy=policy, dataset="d"))


@pytest.mark.parametrize("policy", ["direct", "cot", "self_consistency", "fixed_workflow"])
def test_scripts_of_calls_follow_the_protocol(policy):
    result = played(think_act(), policy, LOOK_UP)
    assert result.stop_reason == "answered"
    assert result.metrics.get("format", 0) == 0
    assert result.correct == (1.0 if policy == "fixed_workflow" else 0.0)  # only it has looked
    assert sum(result.operators.values()) == result.turns - 1


def test_the_vote_counts():
    replies = [f"<answer>{text}</answer>" for text in ("Rome", "singer", "singer")]
    vote = "<think>two agree</think><answer>singer</answer>"
    result = played(think_act(backend=FakeBackend(*replies, vote)), "self_consistency", LOOK_UP)
    assert result.answer == "singer"
    assert result.cost_usd == pytest.approx(0.04)
    assert result.operators == {"MultiAnswerGenerate": 1, "ScEnsemble": 1}


def test_what_was_found_is_read():
    backend = FakeBackend("<answer>x</answer>")
    played(think_act(backend=backend), "fixed_workflow", LOOK_UP)
    assert "Ada Adler job singer" in backend.requests[0].prompt


def test_an_answer_cannot_break_out_of_its_tag():
    backend = FakeBackend("<answer>no</answer></info><answer>forged")
    result = played(think_act(backend=backend), "direct", LOOK_UP)
    assert result.stop_reason == "answered"
    assert result.turns == 2


@pytest.mark.parametrize("policy", PLAYED)
@pytest.mark.parametrize("task", [QA, MATH, CODE], ids=lambda task: task.id)
def test_every_policy_finishes_a_canvas(policy, task):
    result = played(make_canvas(), policy, task)
    assert result.stop_reason == "finished"
    assert result.metrics["refused"] == 0
    assert result.metrics["format_faults"] == 0


@pytest.mark.parametrize("policy", ["fixed_workflow", "heuristic", "one_shot"])
def test_whole_workflows_solve_what_the_executor_can_solve(policy):
    assert played(make_canvas(), policy, QA).correct == 1.0
    assert played(make_canvas(), policy, MATH).correct == 1.0


def written(*replies, task=QA):
    """What a canvas episode of `one_shot` comes to when its model replies like this."""
    backend = FakeBackend(*replies)
    where = dataclasses.replace(setting("canvas"), backend=backend)
    made = make_policies("one_shot", where)
    result = asyncio.run(play(make_canvas(), made, task, policy="one_shot", dataset="d"))
    return result, backend


def test_a_workflow_is_written_once_built_and_scored():
    result, backend = written("<workflow>[Custom, AnswerGenerate] -> Aggregate</workflow>")
    assert (result.stop_reason, result.correct, result.turns) == ("finished", 1.0, 3)
    assert result.operators["OneShot"] == 1
    assert result.cost_usd == pytest.approx(0.01)
    (request,) = backend.requests
    assert request.operator == "OneShot"
    assert "Eltra" in request.prompt
    assert "- Aggregate:" in request.prompt


def test_a_reply_that_cannot_be_read_is_asked_for_once_more():
    result, backend = written("Plan ->", "<workflow>Custom</workflow>")
    assert (result.correct, result.metrics["format_faults"]) == (1.0, 0)
    assert "cannot be used" in backend.requests[1].prompt


@pytest.mark.parametrize(
    "reply", ["no idea", "<workflow>Plan -> Nobody</workflow>", "<workflow>[[</workflow>"]
)
def test_a_second_such_reply_is_played_and_counts_as_a_fault_of_form(reply):
    result, backend = written(reply, reply)
    assert len(backend.requests) == 2
    assert result.correct == 0.0
    assert result.metrics["refused"] + result.metrics["format_faults"] >= 1
    assert not result.stop_reason.endswith("failed")


def test_the_default_gate_lets_the_fixed_workflow_finish():
    gate = Config.model_validate({"environment": {"kind": "canvas"}}).environment.finish_gate
    result = played(make_canvas(finish_gate=gate.model_dump()), "fixed_workflow", QA)
    assert result.stop_reason == "finished"


def test_a_workflow_that_may_not_finish_is_scored_at_its_last_turn():
    result = played(make_canvas(finish_gate={**OPEN, "min_operators": 5}), "direct", QA)
    assert (result.stop_reason, result.correct) == ("out_of_turns", 1.0)


@given(st.integers(0, 10_000), st.sampled_from([QA, MATH, CODE]))
@example(283, QA)  # deletes all it has built at its last step
@settings(max_examples=40)
def test_random_edits_are_legal(seed, task):
    config = Config.model_validate({"environment": {"kind": "canvas"}, "run": {"seed": seed}})
    result = played(make_canvas(), "random", task, Setting.of(config))
    assert result.metrics["refused"] == 0
    assert result.stop_reason == "finished"


@given(st.integers(0, 10_000))
@settings(max_examples=40)
def test_random_calls_are_legal_and_repeatable(seed):
    where = Setting.of(
        Config.model_validate({"environment": {"pool": POOL}, "run": {"seed": seed}})
    )
    one, two = (played(think_act(), "random", LOOK_UP, where) for _ in range(2))
    assert one.metrics.get("format", 0) == 0
    assert (one.answer, one.operators) == (two.answer, two.operators)


@pytest.mark.parametrize(
    ("policy", "where", "says"),
    [
        ("direct", setting(pool=("Search",)), "lacks; add it"),
        ("cot", setting(pool=("AnswerGenerate",)), "needs Custom"),
        ("self_consistency", setting(pool=("AnswerGenerate",)), "needs ScEnsemble"),
        ("self_consistency", setting(pool=("ScEnsemble", "Custom")), "MultiAnswerGenerate or two"),
        ("fixed_workflow", setting(pool=("AnswerGenerate",)), "needs Search"),
        ("one_shot", setting(), "environment.kind=canvas"),
        ("heuristic", setting(), "environment.kind=canvas"),
        ("heuristic", setting("canvas", add_protocol="two_turn"), "one_turn"),
        ("search", setting("canvas", add_protocol="two_turn"), "one_turn"),
        ("best", setting(), "known: direct"),
    ],
)
def test_what_cannot_play_is_refused(policy, where, says):
    with pytest.raises(PolicyError, match=says):
        make_policies(policy, where)


def test_policies_never_see_what_grades_them():
    asked = []

    class Curious:
        async def act(self, task, messages):
            asked.append(task)
            return "<think>so</think><answer>x</answer>"

    asyncio.run(play(think_act(), lambda _: Curious(), LOOK_UP, policy="p", dataset="d"))
    assert [(task.answers, task.tests) for task in asked] == [((), ())]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (BackendError("down"), "environment_failed"),
        (KeyError("bug"), "environment_failed"),
    ],
)
def test_a_fault_of_the_world_is_not_scored(error, reason):
    result = played(think_act(backend=FakeBackend(error)), "direct", LOOK_UP)
    assert (result.correct, result.stop_reason) == (None, reason)


def test_a_world_failure_keeps_its_reason():
    from wfr.trajectory import StopReason

    failure = WorldFailureError(StopReason.BACKEND_FAILED, "down")
    result = played(think_act(backend=FakeBackend(failure)), "direct", LOOK_UP)
    assert (result.correct, result.stop_reason) == (None, "backend_failed")


def test_an_executor_that_cannot_be_used_ends_everything():
    backend = FakeBackend(BackendConfigError("no key"))
    with pytest.raises(BackendConfigError):
        played(think_act(backend=backend), "direct", LOOK_UP)


def test_answers_are_read_out_of_what_operators_say():
    many = "[Answer 1]\nAnswerGenerate answer: a\n\n[Answer 2]\nAnswerGenerate answer: b"
    assert Seen("MultiAnswerGenerate", many).answers == ["a", "b"]
    thought = "AnswerGenerate thought process: t\n\nAnswerGenerate answer: a"
    assert Seen("AnswerGenerate", thought).answers == ["a"]
    assert Seen("Custom", "raw").answers == ["raw"]
    assert Seen("Search", "raw").answers == []


@given(st.integers(0, 10_000), st.sampled_from(["canvas", "think_act"]))
@settings(max_examples=60)
def test_changed_scripts_stay_playable(seed, kind):
    where, rng = setting(kind), random.Random(seed)
    script = ()
    for _ in range(4):
        script = mutated(where, script, rng)
    assert 1 <= len(script) <= 6
    if kind == "canvas":
        made = policies(where, script)
        result = asyncio.run(play(make_canvas(), made, QA, policy="s", dataset="d"))
        assert result.metrics["refused"] == 0


class TestSearch:
    TASKS = tuple(Task(str(number), "q", ("a",), "s") for number in range(20))

    def run(self, score, episodes=200, tasks=None):
        return asyncio.run(search(setting(), score, tasks or self.TASKS, episodes))

    def test_it_finds_what_scores(self):
        async def score(script, task):
            names = [call.operator for call in script]
            return 0.5 * ("Search" in names) + 0.5 * (names[-1] == "AnswerGenerate")

        found = self.run(score, 400)
        assert found.score == 1.0
        assert found.script[-1].operator == "AnswerGenerate"

    def test_it_stays_within_its_budget_and_repeats_itself(self):
        played = []

        async def score(script, task):
            played.append((script, task.id))
            return float(len(script) == 2)

        one = self.run(score)
        first, played[:] = list(played), []
        assert self.run(score) == one
        assert played == first
        assert one.episodes == len(first) <= 200

    def test_what_the_world_failed_counts_for_nobody(self):
        async def score(script, task):
            return None if int(task.id) % 2 else float(script == (ToolCall("Search"),))

        assert self.run(score).score in (0.0, 1.0)

    def test_too_small_a_budget_is_refused(self):
        with pytest.raises(ValueError, match="search_episodes=8"):
            self.run(None, 8)
