"""AnswerGenerate, MultiAnswerGenerate, Custom: solvers that a backend carries out in words."""

from __future__ import annotations

from collections.abc import Sequence

from wfr.backends.base import Inputs
from wfr.operators.base import Input, OperatorSpec
from wfr.operators.node_form import (
    ANSWER,
    THOUGHT,
    NodeForm,
    answered,
    content,
    instructed,
    read_content,
)
from wfr.operators.prompted import Prompted, labelled, numbered_answers, thought_and_answer
from wfr.operators.reply import Reply
from wfr.operators.values import NodeInput, Value, ValueKind


def _answer_prompt(inputs: Inputs) -> str:
    return (
        f"{inputs['content'][0]}\n\n"
        "Work through this step by step inside <think>…</think>. Then give the final answer, as "
        "short as possible and without explanation, inside <answer>…</answer>."
    )


def _candidates(replies: Sequence[tuple[int, Reply]], given: NodeInput) -> Value:
    answers = tuple(reply["answer"] for _, reply in replies)
    text = "\n".join(f"[{number}] {answer}" for number, answer in enumerate(answers, 1))
    return Value(text, ValueKind.CANDIDATES, parts=answers)


def _custom_prompt(inputs: Inputs) -> str:
    parts = [*inputs["instruction"], *inputs["task"], "Give the result inside <answer>…</answer>."]
    return "\n\n".join(parts)


def _read_task(given: NodeInput, sample: int) -> Inputs:
    return {"task": (content(given),), "instruction": instructed(given)}


ANSWER_GENERATE = Prompted(
    spec=OperatorSpec(
        name="AnswerGenerate",
        category="solving",
        description=(
            "Reasons about a question step by step and returns its reasoning and a short answer. "
            "It knows only what the question says, so include the facts it should read."
        ),
        usage="AnswerGenerate: QUESTION",
        as_node="Reasons step by step about the problem and what came before; a short answer.",
    ),
    prompt=_answer_prompt,
    show=thought_and_answer("AnswerGenerate"),
    node=NodeForm(read_content, (THOUGHT, ANSWER), answered),
)

# Several samples at temperature 0 would be one answer three times.
MULTI_ANSWER_GENERATE = Prompted(
    spec=OperatorSpec(
        name="MultiAnswerGenerate",
        category="solving",
        description=(
            "Answers the same question three times independently. Use it where one answer may be "
            "unreliable, then compare the answers or hand them to ScEnsemble."
        ),
        usage="MultiAnswerGenerate: QUESTION",
    ),
    prompt=_answer_prompt,
    show=numbered_answers("AnswerGenerate"),
    samples=3,
    temperature=0.7,
    node=NodeForm(read_content, (THOUGHT, ANSWER), _candidates),
)

CUSTOM = Prompted(
    spec=OperatorSpec(
        name="Custom",
        category="solving",
        description=(
            "Carries out any task under an instruction that you write. Use it for steps that no "
            "other operator covers: extracting, comparing, rephrasing, summarising."
        ),
        usage="Custom: <task>TASK</task><instruction>INSTRUCTION</instruction>",
        inputs=(Input("task"), Input("instruction")),
        any_input=True,
        as_node="Does what your prompt says with the problem and what came before.",
    ),
    prompt=_custom_prompt,
    show=labelled("Custom answer", "answer"),
    node=NodeForm(_read_task, (ANSWER,), answered),
)
