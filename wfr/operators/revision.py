"""Revise: repair a solution with the feedback of a check."""

from __future__ import annotations

from collections.abc import Sequence

from wfr.backends.base import Inputs
from wfr.operators.base import Input, OperatorSpec
from wfr.operators.node_form import (
    ANSWER,
    THOUGHT,
    NodeForm,
    needs_solution,
    read_solution,
)
from wfr.operators.prompted import Prompted, thought_and_answer
from wfr.operators.python_code import find_program
from wfr.operators.reply import Reply
from wfr.operators.values import NodeInput, Value, merged


def _prompt(inputs: Inputs) -> str:
    feedback = inputs["feedback"]
    why = f"A reviewer found it incorrect:\n{feedback[0]}\n\n" if feedback else ""
    return (
        f"Question:\n{inputs['question'][0]}\n\nSolution:\n{inputs['solution'][0]}\n\n{why}"
        "Revise the solution. Reason inside <think>…</think> and give the revised solution inside "
        "<answer>…</answer>."
    )


def _inputs(given: NodeInput, sample: int) -> Inputs:
    feedback = merged(given.previous).feedback
    return {**read_solution(given, sample), "feedback": (feedback,) if feedback else ()}


def _revised(replies: Sequence[tuple[int, Reply]], given: NodeInput) -> Value:
    ((_, reply),) = replies
    before, answer = merged(given.previous), reply["answer"]
    if before.code and before.code == before.text:  # the solution is a program
        code = find_program(answer) or answer
        return Value(code, code=code, fields=reply)
    return Value(answer, fields=reply)


REVISE = Prompted(
    spec=OperatorSpec(
        name="Revise",
        category="revision",
        description="Repairs a solution according to feedback. Use it after a critical Review.",
        usage=(
            "Revise: <question>QUESTION</question><solution>SOLUTION</solution>"
            "<feedback>FEEDBACK</feedback>"
        ),
        inputs=(Input("question"), Input("solution"), Input("feedback")),
        as_node="Repairs the solution before it with the feedback of a check.",
    ),
    prompt=_prompt,
    show=thought_and_answer("Revise"),
    node=NodeForm(_inputs, (THOUGHT, ANSWER), _revised, settle=needs_solution),
)
