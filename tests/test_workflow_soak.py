"""Turns, notation and JSON of every kind: valid, mutated, random bytes. Nothing escapes."""

from __future__ import annotations

import json
import random

import pytest
from workflow_strategies import CHECKS, NAMES, RULES, TAGS

from wfr.workflow.codes import WorkflowError
from wfr.workflow.dsl import parse
from wfr.workflow.edits import Applied, Refused
from wfr.workflow.graph import Workflow
from wfr.workflow.protocol import State, take
from wfr.workflow.rules import Limits, check

WIDE = Limits(max_nodes=1000, max_depth=60)
WORDS = (
    *(f"<{tag}>" for tag in TAGS),
    *(f"</{tag}>" for tag in TAGS),
    *("->", "[", "]", "(", ")", ",", "?", ":", "*", "3", "{", '"', "}", "@node_1", "; next 9"),
    *("done", "until", "node_1", "node_2", "null", "1e9", "\\", "\x00", "\ud800", "é", "```"),
    *NAMES,
)


def valid_turn(rng):
    """A turn in the grammar; whether it can be applied is another matter."""
    name, node = rng.choice(NAMES), f"node_{rng.randint(1, 12)}"
    several = ",".join(rng.choices(NAMES, k=rng.randint(1, 3)))
    add = "<action>add</action>"
    text = rng.choice(
        [
            f"{add}<operator>{name}</operator><prompt>{rng.choice(WORDS)} and so on</prompt>",
            f"{add}<operator>{name}</operator><inputs>{node}</inputs>",
            f"{add}<structure>parallel</structure><operators>{several}</operators>",
            f"{add}<structure>conditional</structure><condition>{rng.choice(CHECKS)}</condition>"
            f"<true>done</true><false>{name}</false>",
            f"{add}<structure>loop</structure><operators>{several}</operators>"
            f"<count>{rng.randint(0, 11)}</count><until>{rng.choice(CHECKS)}</until>",
            f"<action>delete</action><target>{node}</target>",
            f"<action>modify</action><target>{node}</target><operator>{name}</operator>",
            f"<action>set_prompt</action><target>{node}</target><prompt>why so?</prompt>",
            "<action>finish</action><answer>42</answer>",
        ]
    )
    where = rng.choice(["", "", f"<target>{node}</target>", "<position>0</position>"])
    return f"<think>so</think>{text}{where if text.startswith(add) else ''}"


def mutated(rng, text):
    for _ in range(rng.randint(1, 4)):
        start = rng.randint(0, len(text))
        end = min(len(text), start + rng.choice([0, 1, 5, 40]))
        text = text[:start] + rng.choice(["", rng.choice(WORDS), text[start:end] * 2]) + text[end:]
    return text


def noise(rng):
    data = rng.randbytes(rng.randint(0, 200))
    return data.decode("utf-8", rng.choice(["replace", "ignore", "surrogateescape"]))


def inputs(rng, valid):
    kind = rng.random()
    if kind < 0.4:
        return valid
    return mutated(rng, valid) if kind < 0.8 else noise(rng)


def play(rng, count):
    """Episodes of `count` turns in all; every workflow on the way is legal and is read back."""
    state, applied, refused = State(), 0, 0
    protocol, mode = "one_turn", "tolerant"
    for _ in range(count):
        if rng.random() < 0.03:
            state = State()
            protocol = rng.choice(["one_turn", "two_turn"])
            mode = rng.choice(["strict", "tolerant"])
        text = inputs(rng, valid_turn(rng))
        taken = take(state, text, RULES, protocol=protocol, mode=mode)
        applied += isinstance(taken.outcome, Applied)
        refused += isinstance(taken.outcome, Refused)
        state = taken.state
        assert check(state.workflow, RULES) == ()
        read_back(rng, state.workflow)
    return applied, refused


def read_back(rng, workflow):
    dsl, data = workflow.to_dsl(), json.dumps(workflow.to_json())
    assert parse(dsl) == workflow
    assert Workflow.from_json(json.loads(data)) == workflow
    for read, text in ((parse, inputs(rng, dsl)), (from_text, inputs(rng, data))):
        try:
            found = read(text)
        except WorkflowError:
            continue
        assert found == parse(found.to_dsl(), WIDE)


def from_text(text):
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        data = text
    return Workflow.from_json(data)


def test_no_exception_escapes():
    applied, refused = play(random.Random(1), 1500)
    assert applied > 200
    assert refused > 200


@pytest.mark.soak
def test_no_exception_escapes_from_100_000_inputs():
    applied, refused = play(random.Random(2), 100_000)
    assert applied > 10_000
    assert refused > 10_000
