"""Format: the short final answer inside a solution."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from wfr.backends.base import Inputs
from wfr.operators.base import Input, OperatorSpec
from wfr.operators.node_form import ANSWER, NodeForm, needs_solution, read_solution
from wfr.operators.prompted import Prompted, labelled
from wfr.operators.reply import Reply
from wfr.operators.values import NodeInput, Value, ValueKind, merged


def _prompt(inputs: Inputs) -> str:
    return (
        f"Question:\n{inputs['question'][0]}\n\nSolution:\n{inputs['solution'][0]}\n\n"
        "Give only the final answer that this solution comes to, in the shortest form that "
        "answers the question (a letter, a number, a name, a few words; a program in full), inside "
        "<answer>…</answer>. Do not solve the question anew."
    )


def _formatted(replies: Sequence[tuple[int, Reply]], given: NodeInput) -> Value:
    """The answer in its final form; the program that it came from and its verdict stay."""
    ((_, reply),) = replies
    solution = merged(given.previous)
    return dataclasses.replace(
        solution, text=reply["answer"], kind=ValueKind.TEXT, parts=(), fields=reply
    )


FORMAT = Prompted(
    spec=OperatorSpec(
        name="Format",
        category="formatting",
        description="Takes the short final answer out of a long solution. Use it last.",
        usage="Format: <question>QUESTION</question><solution>SOLUTION</solution>",
        inputs=(Input("question"), Input("solution")),
    ),
    prompt=_prompt,
    show=labelled("Format answer", "answer"),
    node=NodeForm(read_solution, (ANSWER,), _formatted, settle=needs_solution),
)
