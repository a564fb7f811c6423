"""ScEnsemble: the most consistent of several solutions."""

from __future__ import annotations

from wfr.backends.base import Inputs
from wfr.operators.base import Input, OperatorSpec
from wfr.operators.prompted import Prompted, thought_and_answer


def _prompt(inputs: Inputs) -> str:
    solutions = "\n".join(
        f"{_label(index)}: {text}" for index, text in enumerate(inputs["solution"])
    )
    return (
        f"Question:\n{inputs['query'][0]}\n\nSolutions:\n{solutions}\n\n"
        "Find the solution that most of them agree on. Compare them inside <think>…</think> and "
        "give that solution, in full, inside <answer>…</answer>."
    )


def _label(index: int) -> str:
    """A … Z, then AA, AB, … as spreadsheets count."""
    label = ""
    index += 1
    while index:
        index, letter = divmod(index - 1, 26)
        label = chr(ord("A") + letter) + label
    return label


SC_ENSEMBLE = Prompted(
    spec=OperatorSpec(
        name="ScEnsemble",
        category="ensemble",
        description=(
            "Chooses the most frequent and consistent of several solutions. Use it when you have "
            "collected at least two."
        ),
        usage=(
            "ScEnsemble: <query>QUERY</query><solution>SOLUTION_1</solution>"
            "<solution>SOLUTION_2</solution>"
        ),
        inputs=(Input("query"), Input("solution", minimum=2)),
    ),
    prompt=_prompt,
    show=thought_and_answer("ScEnsemble"),
)
