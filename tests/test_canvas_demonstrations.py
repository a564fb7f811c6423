"""Demonstrations of edits: legal, varied, indifferent to the problem; the director's language."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from actors.render import Renderer
from learner import tiny
from learner.language import CANVAS, EOS
from learner.warmstart import demonstration_tokens
from wfr.canvas_config import CanvasConfig
from wfr.config import Config
from wfr.environments.canvas_demonstrations import edit_demonstrations
from wfr.operators.library import POOLS
from wfr.tasks_config import WorldConfig
from wfr.workflow.edit_parser import parse_edit
from wfr.workflow.edits import ACTIONS, AddOperator, Finish

CONFIG = CanvasConfig(prompt="question", feedback="brief", result_chars=16, max_turns=2)


@pytest.fixture(scope="module")
def demonstrations():
    return edit_demonstrations(CONFIG, WorldConfig(), random.Random(1), 300)


def turns(demonstration):
    return [m.content for m in demonstration.messages if m.role == "assistant"]


def test_every_edit_is_legal_and_ends_with_finish(demonstrations):
    for demonstration in demonstrations:
        edits = [parse_edit(turn, mode="strict").edit for turn in turns(demonstration)]
        assert None not in edits
        assert isinstance(edits[-1], Finish)
        feedback = [m.content for m in demonstration.messages if m.role == "tool"]
        assert len(feedback) == len(edits) - 1
        assert all(text.startswith("<feedback> ok ") for text in feedback)


def test_all_actions_and_operators_are_shown(demonstrations):
    edits = [parse_edit(turn).edit for each in demonstrations for turn in turns(each)]
    assert {edit.action for edit in edits} == set(ACTIONS)
    assert {e.operator for e in edits if isinstance(e, AddOperator)} == set(POOLS["canvas"])


def test_the_choice_of_operators_ignores_the_problem(demonstrations):
    """The share of Programmer among solvers is the same for all kinds, up to chance."""
    used = {"qa": Counter(), "math": Counter(), "code": Counter()}
    for demonstration in demonstrations:
        kind = demonstration.messages[0].content.split(" :")[0]
        used[kind].update(
            name
            for turn in turns(demonstration)
            for name in ("Programmer", "Custom", "AnswerGenerate")
            if name in turn
        )
    shares = [count["Programmer"] / count.total() for count in used.values()]
    assert max(shares) - min(shares) < 0.3


def test_the_same_seed_draws_the_same(demonstrations):
    again = edit_demonstrations(CONFIG, WorldConfig(), random.Random(1), 20)
    assert again == demonstrations[:20]


def test_with_the_last_feedback_only_each_turn_is_a_demonstration(demonstrations):
    config = CONFIG.model_copy(update={"history": "last_feedback"})
    drawn = edit_demonstrations(config, WorldConfig(), random.Random(1), 40)
    assert len(drawn) == 40
    assert all([m.role for m in each.messages] == ["user", "assistant"] for each in drawn)
    fed = [each for each in drawn if "<feedback>" in each.messages[0].content]
    assert 10 < len(fed) < 40
    said = [m.content for d in demonstrations for m in d.messages if m.role == "assistant"]
    assert [each.messages[1].content for each in drawn] == said[:40]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    config = Config.model_validate({"environment": {"kind": "canvas"}})
    tiny.save(*tiny.make(config), path)
    return path


def test_episode_and_warm_start_see_the_same_tokens(directory, demonstrations):
    renderer = Renderer(directory)
    tokenizer = renderer.tokenizer
    trained = demonstration_tokens(demonstrations[:60], tokenizer, CANVAS)
    for demonstration, (ids, learned) in zip(demonstrations, trained, strict=False):
        grown = renderer.prompt(demonstration.messages[:1])
        own = [False] * len(grown)
        for message in demonstration.messages[1:]:
            if message.role == "assistant":
                part = tokenizer.encode(message.content + EOS, add_special_tokens=False)
            else:
                part = renderer.observation([message], ended_by_eos=True)
            grown += part
            own += [message.role == "assistant"] * len(part)
        assert grown == ids
        assert own == learned
        assert ids[-1] == renderer.eos_id


def test_names_of_operators_and_nodes_are_one_token(directory):
    tokenizer = Renderer(directory).tokenizer
    for word in [*POOLS["canvas"], "node_1", "node_32", "parallel", "finish", "right", "wrong"]:
        assert len(tokenizer(f" {word}")["input_ids"]) == 1, word


def test_turns_survive_decoding(directory, demonstrations):
    renderer = Renderer(directory)
    for demonstration in demonstrations[:60]:
        for turn in turns(demonstration):
            ids = renderer.tokenizer.encode(turn + EOS, add_special_tokens=False)
            assert parse_edit(renderer.text(ids), mode="strict") == parse_edit(turn, mode="strict")
