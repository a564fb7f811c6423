"""AnswerGenerate and MultiAnswerGenerate: one reasoned answer, or several to choose from."""

from __future__ import annotations

from wfr.backends.base import Inputs
from wfr.operators.base import OperatorSpec
from wfr.operators.prompted import Prompted, numbered_answers, thought_and_answer


def _prompt(inputs: Inputs) -> str:
    return (
        f"{inputs['content'][0]}\n\n"
        "Work through this step by step inside <think>…</think>. Then give the final answer, as "
        "short as possible and without explanation, inside <answer>…</answer>."
    )


ANSWER_GENERATE = Prompted(
    spec=OperatorSpec(
        name="AnswerGenerate",
        category="solving",
        description=(
            "Reasons about a question step by step and returns its reasoning and a short answer. "
            "It knows only what the question says, so include the facts it should read."
        ),
        usage="AnswerGenerate: QUESTION",
    ),
    prompt=_prompt,
    show=thought_and_answer("AnswerGenerate"),
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
    prompt=_prompt,
    show=numbered_answers("AnswerGenerate"),
    samples=3,
    temperature=0.7,
)
