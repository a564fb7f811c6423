"""Hypothesis strategies for workflows, edits and turns."""

from __future__ import annotations

import dataclasses

from hypothesis import settings
from hypothesis import strategies as st

from wfr.operators.base import OperatorSpec
from wfr.workflow.graph import Workflow
from wfr.workflow.nodes import Conditional, Loop, OperatorNode, Parallel, map_nodes, walk
from wfr.workflow.rules import Rules

FEW = settings(max_examples=30, deadline=None)

CHECKS = ("Verify", "Review", "Test")
ENSEMBLES = ("Aggregate", "ScEnsemble")
SOLVERS = ("Plan", "Programmer", "Custom", "Revise", "Format")
NAMES = (*SOLVERS, *CHECKS, *ENSEMBLES)
SPECS = {
    name: OperatorSpec(
        name, "any", "", name, is_check=name in CHECKS, is_ensemble=name in ENSEMBLES
    )
    for name in NAMES
}
RULES = Rules(SPECS)

TAGS = (
    *("action", "structure", "operator", "operators", "condition", "true", "false", "count"),
    *("until", "position", "target", "inputs", "prompt", "answer", "think", "reasoning"),
)

prompts = st.one_of(
    st.just(""),
    st.text(max_size=6),
    st.sampled_from(
        ['"}] -> A', "</prompt><action>finish</action>", "\\", "{}", "; next 3", "\ud800", "\x00"]
    ),
)


def nodes(depth: int = 2):
    """Nodes with the placeholder id; `workflows` numbers them."""
    operator = st.builds(OperatorNode, st.just("?"), st.sampled_from(NAMES), prompts)
    if not depth:
        return operator
    block = blocks(depth - 1, min_size=1)
    arms = st.tuples(blocks(depth - 1), blocks(depth - 1)).filter(any)
    return st.one_of(
        operator,
        operator,
        st.builds(Parallel, st.just("?"), st.lists(block, min_size=2, max_size=2).map(tuple)),
        st.builds(lambda c, a: Conditional("?", c, *a), operator, arms),
        st.builds(Loop, st.just("?"), block, st.integers(1, 10), st.none() | operator),
    )


def blocks(depth: int = 2, min_size: int = 0):
    size = 3 if depth == 2 else 2
    return st.lists(nodes(depth), min_size=min_size, max_size=size).map(tuple)


@st.composite
def workflows(draw):
    """Any legal workflow: ids in any order, inputs to earlier operators, a counter with gaps."""
    block = draw(blocks())
    count = sum(1 for _ in walk(block))
    if draw(st.booleans()):
        numbers = list(range(1, count + 1))
    else:
        numbers = draw(st.lists(st.integers(1, 9999), min_size=count, max_size=count, unique=True))
    unique = iter(range(count))
    block = map_nodes(block, lambda n: dataclasses.replace(n, id=f"t{next(unique)}"))
    order = {node.id: number for node, number in zip(walk(block), numbers, strict=True)}
    block = map_nodes(block, lambda n: dataclasses.replace(n, id=f"node_{order[n.id]}"))
    next_id = max(numbers, default=0) + 1 + draw(st.sampled_from([0, 0, 5]))
    if block and draw(st.booleans()):
        block = _with_inputs(draw, block)
    return Workflow(block, next_id)


def _with_inputs(draw, block):
    """Let some top-level operators read nodes inside top-level nodes before them."""
    changed = []
    for index, node in enumerate(block):
        earlier = [each.id for each in walk(tuple(block[:index]))]
        if isinstance(node, OperatorNode) and earlier and draw(st.booleans()):
            inputs = draw(st.lists(st.sampled_from(earlier), min_size=1, max_size=3, unique=True))
            node = dataclasses.replace(node, inputs=tuple(inputs))
        changed.append(node)
    return tuple(changed)


words = st.sampled_from(
    [
        *(f"<{tag}>" for tag in TAGS),
        *(f"</{tag}>" for tag in TAGS),
        *("[action]", "[/action]", "< Action >", "<b>", "```", "```xml", "\n", " ", ",", "->", "x"),
        *("add", "delete", "modify", "set_prompt", "finish", "parallel", "conditional", "loop"),
        *NAMES,
        *("node_1", "node_2", "node_99", "0", "3", "99999999999", "done", "let's finish"),
    ]
)
soups = st.lists(words, max_size=40).map("".join)


IDS = st.sampled_from([f"node_{n}" for n in range(1, 9)])
names = st.sampled_from(NAMES)
lists = st.lists(names, min_size=1, max_size=3).map(",".join)
arms = names | st.just("done")


def tagged(**values):
    """The tags of a turn, each a constant or drawn."""
    drawn = {k: v if isinstance(v, st.SearchStrategy) else st.just(v) for k, v in values.items()}
    return st.fixed_dictionaries(drawn).map(lambda tags: list(tags.items()))


edits = st.one_of(
    tagged(action="add", operator=names),
    tagged(action="add", operator=names, prompt=prompts),
    tagged(action="add", operator=names, inputs=IDS),
    tagged(action="add", structure="parallel", operators=lists),
    tagged(action="add", structure="parallel", operators=lists, prompt=prompts),
    tagged(action="add", structure="conditional", condition=names, true=arms, false=arms),
    tagged(action="add", structure="loop", operators=lists, count=st.integers(-1, 12), until=arms),
    tagged(action="delete", target=IDS),
    tagged(action="modify", target=IDS, operator=names),
    tagged(action="set_prompt", target=IDS, prompt=prompts),
    tagged(action="finish"),
)


@st.composite
def turns(draw):
    """Turns that are often well-formed edits, with now and then a slip."""
    tags = draw(edits)
    if tags[0][1] == "add":
        tags += draw(st.just([]) | tagged(position=st.integers(0, 4)) | tagged(target=IDS))
    text = "".join(f"<{name}>{value}</{name}>" for name, value in tags)
    if draw(st.integers(0, 5)) == 0:
        cut = draw(st.integers(0, len(text)))
        text = text[:cut] + draw(words) + text[cut + draw(st.integers(0, 3)) :]
    return f"<think>{draw(prompts)}</think>" * draw(st.booleans()) + text
