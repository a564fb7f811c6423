"""Review and Verify: is a solution right? Both pass it on as it is, with their verdict."""

from __future__ import annotations

from wfr.backends.base import Inputs
from wfr.operators.base import Input, OperatorSpec
from wfr.operators.node_form import ANSWER, NodeForm, judged, needs_solution, read_solution
from wfr.operators.prompted import Prompted, labelled
from wfr.operators.reply import Field, Reply


def _proposed(inputs: Inputs) -> str:
    return f"Question:\n{inputs['question'][0]}\n\nProposed solution:\n{inputs['solution'][0]}\n\n"


def _review_prompt(inputs: Inputs) -> str:
    return (
        f"{_proposed(inputs)}"
        "Review the solution critically. If you are more than 95 % sure that it is wrong, give "
        "feedback with which it can be repaired; otherwise say why it is right. Write inside "
        "<feedback>…</feedback>."
    )


def _verdict_prompt(inputs: Inputs) -> str:
    return (
        f"{_review_prompt(inputs)} Then write <review_result>false</review_result> if you are that "
        "sure that it is wrong, else <review_result>true</review_result>."
    )


def _verify_prompt(inputs: Inputs) -> str:
    return (
        f"{_proposed(inputs)}"
        "Solve the question yourself, without regard to the proposed solution, inside "
        "<verification_steps>…</verification_steps>, and give your own short answer inside "
        "<answer>…</answer>. Then compare: write true or false inside <is_correct>…</is_correct> "
        "and low, medium or high inside <confidence>…</confidence>."
    )


def _verified(reply: Reply) -> str:
    found = f"my own answer is {reply['answer']} (confidence {reply['confidence']})"
    return "\n".join(filter(None, (found, reply["verification_steps"])))


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
        is_check=True,
        as_node="Criticises the solution before it: a verdict, and feedback for a Revise.",
    ),
    prompt=_review_prompt,
    show=labelled("Review feedback", "feedback"),
    node=NodeForm(
        inputs=read_solution,
        fields=(Field("review_result", kind="verdict"), Field("feedback")),
        value=judged("review_result", lambda reply: reply["feedback"]),
        prompt=_verdict_prompt,
        settle=needs_solution,
    ),
)

VERIFY = Prompted(
    spec=OperatorSpec(
        name="Verify",
        category="verification",
        description=(
            "Solves a question on its own and compares a solution with that. Use it where an "
            "answer can be worked out in a second way."
        ),
        usage="Verify: <question>QUESTION</question><solution>SOLUTION</solution>",
        inputs=(Input("question"), Input("solution")),
        is_check=True,
        as_node="Solves the problem anew and compares: a verdict on the solution before it.",
    ),
    prompt=_verify_prompt,
    show=labelled("Verify answer", "answer"),
    node=NodeForm(
        inputs=read_solution,
        fields=(
            Field("is_correct", kind="verdict"),
            ANSWER,
            Field("confidence", "low"),
            Field("verification_steps", ""),
        ),
        value=judged("is_correct", _verified),
        settle=needs_solution,
    ),
)
