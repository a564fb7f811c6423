"""Review and Revise: is a solution right, and how to repair one that is not."""

from __future__ import annotations

from wfr.backends.base import Inputs
from wfr.operators.base import Input, OperatorSpec
from wfr.operators.prompted import Prompted, labelled, thought_and_answer


def _review_prompt(inputs: Inputs) -> str:
    return (
        f"Question:\n{inputs['question'][0]}\n\nProposed solution:\n{inputs['solution'][0]}\n\n"
        "Review the solution critically. If you are more than 95 % sure that it is wrong, give "
        "feedback with which it can be repaired; otherwise say why it is right. Write inside "
        "<feedback>…</feedback>."
    )


def _revise_prompt(inputs: Inputs) -> str:
    return (
        f"Question:\n{inputs['question'][0]}\n\nSolution:\n{inputs['solution'][0]}\n\n"
        f"A reviewer found it incorrect:\n{inputs['feedback'][0]}\n\n"
        "Revise the solution. Reason inside <think>…</think> and give the revised solution inside "
        "<answer>…</answer>."
    )


REVIEW = Prompted(
    spec=OperatorSpec(
        name="Review",
        category="verification",
        description=(
            "Examines a solution to a question and returns feedback. Use it before you trust an "
            "answer; include in the question the facts that the answer rests on."
        ),
        usage="Review: <question>QUESTION</question><solution>SOLUTION</solution>",
        inputs=(Input("question"), Input("solution")),
    ),
    prompt=_review_prompt,
    show=labelled("Review feedback", "feedback"),
)

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
    ),
    prompt=_revise_prompt,
    show=thought_and_answer("Revise"),
)
