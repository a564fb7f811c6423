"""What the inspector makes of a trajectory: turns, canvas, picture, waterfall, differences."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inspected_run import trajectory
from test_canvas import CHECKED, add, started
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as Decoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from cluster.inspector.canvas import NoCanvasError, Replay
from cluster.inspector.difference import difference
from cluster.inspector.drawing import draw
from cluster.inspector.episode import parts, split, view, waterfall
from cluster.inspector.tokens import find_tokenizer, pieces
from wfr.config import load_config
from wfr.environments.canvas_demonstrations import random_edit
from wfr.operators.library import canvas_specs
from wfr.trajectory import Message, OperatorCall, TurnKind
from wfr.workflow.dsl import parse
from wfr.workflow.edit_text import edit_text
from wfr.workflow.edits import Applied, apply
from wfr.workflow.graph import Workflow
from wfr.workflow.protocol import State
from wfr.workflow.rules import Rules

ROOT = Path(__file__).resolve().parents[1]

ADD = "<think>t</think><action>add</action><operator>{}</operator>"


def test_messages_belong_to_turns():
    row = trajectory(texts=("a", "b"))
    row.messages.insert(4, Message("user", "the prompt of a fresh context"))
    told = split(row)
    assert [m.role for m in told.prompt] == ["system", "user"]
    assert [text for text, _ in told.turns] == ["a", "b"]
    assert [m.role for m in told.turns[0][1]] == ["tool", "user"]


def test_a_turn_that_was_cut_short_has_no_text():
    row = trajectory(texts=("a", "b"))
    del row.messages[-2:]
    assert [text for text, _ in split(row).turns] == ["a", None]
    assert view(row, None, None)["turns"][1]["parts"] is None


def test_parts_of_a_turn():
    assert parts("<think> a </think>\n<tool>Search: b</tool>") == [
        {"kind": "think", "text": " a "},
        {"kind": "tool", "text": "Search: b"},
    ]
    assert parts("x<answer>never closed") == [
        {"kind": "text", "text": "x"},
        {"kind": "answer", "text": "never closed"},
    ]
    assert parts("") == []


@given(st.lists(st.sampled_from(["<think>", "</think>", "<tool>", "</tool>", "a", " ", "<"])))
def test_no_word_of_a_turn_is_left_out(words):
    told = "".join(part["text"] for part in parts("".join(words)))
    assert told.count("a") == words.count("a")


def test_versions_lags_and_masks():
    told = view(trajectory(texts=("a", "b"), version=3), consumed=5, max_turn_lag=1)
    assert [(t["oldest"], t["lag"], t["masked"]) for t in told["turns"]] == [
        (3, 2, True),
        (4, 1, False),
    ]
    unused = view(trajectory(), consumed=None, max_turn_lag=1)["turns"][0]
    assert (unused["lag"], unused["masked"]) == (None, False)


def test_an_unsound_record_is_shown_as_far_as_it_goes():
    row = trajectory(texts=("a", "b"), version_spans=[])
    assert [t["oldest"] for t in view(row, 3, 0)["turns"]] == [None, None]


def test_calls_stand_where_they_were_or_behind_each_other():
    known = [OperatorCall("A", "b", 2.0, ended_at=105.0), OperatorCall("B", "b", 1.0, ended_at=104)]
    assert [(c["begin"], c["placed"]) for c in waterfall(known, 100.0)] == [
        (3.0, False),
        (3.0, False),
    ]
    old = [OperatorCall("A", "b", 2.0, ended_at=0.0), OperatorCall("B", "b", 1.0, ended_at=0.0)]
    assert [(c["begin"], c["placed"]) for c in waterfall(old, 100.0)] == [(0.0, True), (2.0, True)]


def test_the_canvas_grows_turn_by_turn():
    turns = [
        (TurnKind.TOOL, ADD.format("Plan")),
        (TurnKind.MALFORMED, "nonsense"),
        (TurnKind.TOOL, "<action>delete</action><target>node_9</target>"),
        (TurnKind.TOOL, "<action>add</action><structure>parallel</structure>"
         "<operators>Custom,Programmer</operators>"),
        (TurnKind.ANSWER, "<action>finish</action>"),
    ]  # fmt: skip
    states = Replay({"kind": "canvas"}).states(turns)
    assert [s["outcome"] for s in states] == [
        *("applied", "unread", "refused", "applied", "finished")
    ]
    assert [len(s["drawing"]["boxes"]) for s in states] == [1, 1, 1, 4, 4]
    assert states[0]["new"] == ["node_1"]
    assert len(states[3]["new"]) == 2
    assert "unknown_node" in states[2]["message"]
    json.dumps(states)


@pytest.mark.parametrize("protocol", ["one_turn", "two_turn"])
def test_a_replayed_canvas_is_the_one_that_was_played(protocol):
    options = {"add_protocol": protocol, "history": "last_feedback"}
    canvas = started(**options)
    texts = [add("Plan"), "<prompt>work step by step</prompt>", "nonsense", CHECKED, add("Custom")]
    kinds, played = [], []
    for text in [*texts, *["<prompt>be brief</prompt>"] * 4, "<action>finish</action>"]:
        step = asyncio.run(canvas.step(text, "stop"))
        kinds.append((step.turn_kind, text))
        played.append(State.from_json(canvas.state()["state"]).workflow.to_dsl())
        if step.last:
            break
    states = Replay({"kind": "canvas", **options}).states(kinds)
    assert [state["notation"] for state in states] == played
    assert len(set(played)) > 2


@pytest.mark.parametrize("name", ["canvas_quickstart", "flowsteer_8b"])
def test_canvases_of_the_shipped_configurations(name):
    config = load_config(ROOT / "cluster" / "configs" / f"{name}.yaml")
    environment = config.model_dump(mode="json")["environment"]  # as config.json has it
    (state,) = Replay(environment).states([(TurnKind.TOOL, ADD.format("Plan"))])
    assert state["outcome"] in ("applied", "asked")


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({}, "no canvas"),
        ({"kind": "think_act"}, "no canvas"),
        ({"kind": "canvas", "max_turns": 0}, "cannot be drawn"),
        ({"kind": "canvas", "of_another_version": 1}, "cannot be drawn"),
        ({"kind": "canvas", "pool": ["Nonsense"]}, "cannot be drawn"),
    ],
)
def test_where_there_is_no_canvas_it_is_said(environment, why):
    with pytest.raises(NoCanvasError, match=why):
        Replay(environment)


def contains(outer, inner):
    return (
        outer.x <= inner.x
        and outer.y <= inner.y
        and inner.x + inner.width <= outer.x + outer.width
        and inner.y + inner.height <= outer.y + outer.height
    )


def overlap(a, b):
    return (
        a.x < b.x + b.width
        and b.x < a.x + a.width
        and a.y < b.y + b.height
        and b.y < a.y + a.height
    )


@given(st.integers(0, 2**32))
@settings(max_examples=40)
def test_any_workflow_is_drawn_without_overlaps(seed):
    """What a random director builds: operators are apart, all within the picture, all joined."""
    rng = random.Random(seed)
    rules = Rules(canvas_specs("canvas"))
    workflow, texts = Workflow(), []
    for _ in range(12):
        edit = random_edit(workflow, rules, rng)
        texts.append(edit_text(edit, "t", space=" "))
        outcome = apply(workflow, edit, rules)
        workflow = outcome.workflow if isinstance(outcome, Applied) else workflow
    drawing = draw(workflow)
    operators = [box for box in drawing.boxes if box.kind == "operator"]
    assert {box.id for box in operators} == {node.id for node in workflow.operators}
    for number, box in enumerate(operators):
        assert not any(overlap(box, other) for other in operators[:number])
        assert 0 <= box.x <= drawing.width - box.width
        assert 0 <= box.y <= drawing.height - box.height
    assert [(line.source, line.reader) for line in drawing.lines] == list(workflow.edges())
    replayed = Replay({"kind": "canvas"}).states([(TurnKind.TOOL, text) for text in texts])
    assert replayed[-1]["notation"] == workflow.to_dsl()


def test_structures_frame_what_they_hold():
    drawing = draw(parse("Plan -> [Custom, Programmer] -> Aggregate"))
    (frame,) = [box for box in drawing.boxes if box.kind == "parallel"]
    inside = [b.label for b in drawing.boxes if b is not frame and contains(frame, b)]
    assert inside == ["Custom", "Programmer"]
    assert draw(Workflow()).boxes == []


@given(st.text("ab \n<", max_size=40), st.text("ab \n<", max_size=40))
def test_a_difference_holds_both_texts(old, new):
    found = difference(old, new)
    assert "".join(text for kind, text in found if kind != "added") == old
    assert "".join(text for kind, text in found if kind != "removed") == new


def test_long_texts_are_compared_by_lines():
    old = "".join(f"{n} word word word\n" for n in range(1200))
    found = difference(old, old.replace("600 word", "600 other"))
    assert [kind for kind, _ in found] == ["same", "removed", "added", "same"]
    one_line = "a b " * 4000
    assert [kind for kind, _ in difference(one_line, one_line + "c")] == ["removed", "added"]


def byte_tokenizer():
    """A token for each byte."""
    alphabet = sorted(ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE({letter: n for n, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = Decoder()
    return tokenizer


def test_pieces_put_together_are_the_text(tmp_path):
    text = "naïve 😀 <|end|>\n"
    directory = tmp_path / "base"
    directory.mkdir()
    byte_tokenizer().save(str(directory / "tokenizer.json"))
    tokenizer = find_tokenizer(tmp_path, {})
    ids = tokenizer.encode(text).ids
    found = pieces(tokenizer, ids)
    assert len(found) == len(ids) == len(text.encode())
    assert "".join(found) == text
    assert pieces(tokenizer, [-1, 10**6]) == ["⟨-1⟩", "⟨1000000⟩"]


def test_without_a_tokenizer_ids_are_shown(tmp_path):
    assert find_tokenizer(tmp_path, {"model": {"path": str(tmp_path)}}) is None
    (tmp_path / "tokenizer.json").write_text("{}")
    assert find_tokenizer(tmp_path, {"model": {"path": str(tmp_path)}}) is None
    assert pieces(None, [5, 6]) == ["⟨5⟩", "⟨6⟩"]
