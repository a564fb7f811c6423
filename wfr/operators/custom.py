"""Custom and PromptOptimizer: a task in the director's own words, and a clearer question."""

from __future__ import annotations

from wfr.backends.base import Inputs
from wfr.operators.base import Input, OperatorSpec
from wfr.operators.prompted import Prompted, labelled, thought_and_answer


def _custom_prompt(inputs: Inputs) -> str:
    parts = [*inputs["instruction"], *inputs["task"], "Give the result inside <answer>…</answer>."]
    return "\n\n".join(parts)


def _optimizer_prompt(inputs: Inputs) -> str:
    return (
        f"A question was asked:\n{inputs['content'][0]}\n\n"
        "Rewrite it so that it is easier to answer well: name what is asked for, resolve vague "
        "references, and add the details that matter. Do not answer it. Explain the changes "
        "inside <think>…</think> and give the rewritten question inside <answer>…</answer>."
    )


CUSTOM = Prompted(
    spec=OperatorSpec(
        name="Custom",
        category="custom",
        description=(
            "Carries out any task under an instruction that you write. Use it for steps that no "
            "other operator covers: extracting, comparing, rephrasing, summarising."
        ),
        usage="Custom: <task>TASK</task><instruction>INSTRUCTION</instruction>",
        inputs=(Input("task"), Input("instruction")),
        any_input=True,
    ),
    prompt=_custom_prompt,
    show=labelled("Custom answer", "answer"),
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
)
