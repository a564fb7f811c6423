"""Plan, Decompose, PromptOptimizer: what to do before a problem is solved."""

from __future__ import annotations

import re
from collections.abc import Sequence

from wfr.backends.base import Inputs
from wfr.operators.base import Input, OperatorSpec
from wfr.operators.node_form import ANSWER, THOUGHT, NodeForm, answered, read_content, read_problem
from wfr.operators.prompted import Prompted, labelled, thought_and_answer
from wfr.operators.reply import Field, Reply, UnusableReplyError
from wfr.operators.values import NodeInput, Value, ValueKind

_ITEM = re.compile(
    r"^[ \t]*(?:step[ \t]+)?[0-9]{1,3}[.):][ \t]*(\S.*)$", re.IGNORECASE | re.MULTILINE
)
_MOST_PARTS = 8


def numbered_lines(text: str) -> tuple[str, ...]:
    r"""The items of a numbered list.

    >>> numbered_lines("First:\n1. add\nStep 2: halve\n")
    ('add', 'halve')
    """
    return tuple(item.strip() for item in _ITEM.findall(text))


def _task(inputs: Inputs) -> str:
    parts = [f"Problem:\n{inputs['problem'][0]}"]
    if inputs.get("previous"):
        parts.append("Known so far:\n" + "\n\n".join(inputs["previous"]))
    return "\n\n".join(parts)


def _plan_prompt(inputs: Inputs) -> str:
    return (
        f"{_task(inputs)}\n\nDo not solve the problem. Say how to solve it: the approach in a "
        "sentence inside <approach>…</approach>, what is easily missed inside "
        "<key_insights>…</key_insights>, and numbered steps inside <plan>…</plan>."
    )


def _plan(replies: Sequence[tuple[int, Reply]], given: NodeInput) -> Value:
    ((_, reply),) = replies
    text = "\n".join(filter(None, (reply["approach"], reply["plan"], reply["key_insights"])))
    return Value(text, ValueKind.PLAN, parts=numbered_lines(reply["plan"]), fields=reply)


def _decompose_prompt(inputs: Inputs) -> str:
    return (
        f"{_task(inputs)}\n\nDo not solve the problem. Split it into 2 to 5 sub-problems, each of "
        "which can be solved on its own: repeat in each what it needs to know. Give your reasons "
        "inside <reasoning>…</reasoning> and a numbered list, one line each, inside "
        "<sub_problems>…</sub_problems>."
    )


def _is_list(reply: Reply, given: NodeInput, sample: int) -> None:
    if not numbered_lines(reply["sub_problems"]):
        raise UnusableReplyError("<sub_problems> holds no numbered list")


def _decompose(replies: Sequence[tuple[int, Reply]], given: NodeInput) -> Value:
    ((_, reply),) = replies
    items = numbered_lines(reply["sub_problems"])[:_MOST_PARTS]
    text = "\n".join(f"{number}. {item}" for number, item in enumerate(items, 1))
    return Value(text, ValueKind.SUB_PROBLEMS, parts=items, fields=reply)


def _optimizer_prompt(inputs: Inputs) -> str:
    return (
        f"A question was asked:\n{inputs['content'][0]}\n\n"
        "Rewrite it so that it is easier to answer well: name what is asked for, resolve vague "
        "references, and add the details that matter. Do not answer it. Explain the changes "
        "inside <think>…</think> and give the rewritten question inside <answer>…</answer>."
    )


PLAN = Prompted(
    spec=OperatorSpec(
        name="Plan",
        category="planning",
        description=(
            "Says how to solve a problem: the approach and numbered steps. Use it first, and let "
            "a solver follow."
        ),
        usage="Plan: <problem>PROBLEM</problem>",
        inputs=(Input("problem"),),
    ),
    prompt=_plan_prompt,
    show=labelled("Plan", "plan"),
    node=NodeForm(
        inputs=read_problem,
        fields=(Field("plan"), Field("approach", ""), Field("key_insights", "")),
        value=_plan,
    ),
)

DECOMPOSE = Prompted(
    spec=OperatorSpec(
        name="Decompose",
        category="planning",
        description=(
            "Splits a problem into sub-problems that can be solved on their own. A solver after it "
            "solves each of them, parallel solvers share them; let Aggregate follow."
        ),
        usage="Decompose: <problem>PROBLEM</problem>",
        inputs=(Input("problem"),),
    ),
    prompt=_decompose_prompt,
    show=labelled("Sub-problems", "sub_problems"),
    node=NodeForm(
        inputs=read_problem,
        fields=(Field("sub_problems"), Field("reasoning", "")),
        value=_decompose,
        accept=_is_list,
    ),
)

PROMPT_OPTIMIZER = Prompted(
    spec=OperatorSpec(
        name="PromptOptimizer",
        category="planning",
        description=(
            "Rewrites a vague or complicated question into a clearer and more detailed one. Use "
            "it before the first attempt at a hard question."
        ),
        usage="PromptOptimizer: QUERY",
    ),
    prompt=_optimizer_prompt,
    show=thought_and_answer("PromptOptimizer"),
    node=NodeForm(read_content, (THOUGHT, ANSWER), answered),
)
