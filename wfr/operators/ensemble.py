"""ScEnsemble, MdEnsemble, Aggregate: one solution out of several."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from wfr.backends.base import Inputs
from wfr.operators.base import Input, OperatorSpec
from wfr.operators.node_form import (
    ANSWER,
    THOUGHT,
    NodeForm,
    all_candidates,
    answered,
    instructed,
)
from wfr.operators.prompted import Prompted, labelled, thought_and_answer
from wfr.operators.reply import Field, Reply, UnusableReplyError
from wfr.operators.values import NodeInput, NodeOutcome, Value, ValueKind
from wfr.operators.voting import normal, vote


def _labelled(solutions: Sequence[str]) -> str:
    return "\n".join(f"{_label(index)}: {text}" for index, text in enumerate(solutions))


def _label(index: int) -> str:
    """A … Z, then AA, AB, … as spreadsheets count."""
    label = ""
    index += 1
    while index:
        index, letter = divmod(index - 1, 26)
        label = chr(ord("A") + letter) + label
    return label


def _solutions_prompt(inputs: Inputs) -> str:
    return f"Question:\n{inputs['query'][0]}\n\nSolutions:\n{_labelled(inputs['solution'])}\n\n"


def _consistent_prompt(inputs: Inputs) -> str:
    return (
        f"{_solutions_prompt(inputs)}"
        "Find the solution that most of them agree on. Compare them inside <think>…</think> and "
        "give that solution, in full, inside <answer>…</answer>."
    )


def _letter_prompt(inputs: Inputs) -> str:
    return (
        f"{_solutions_prompt(inputs)}"
        "Choose the solution that most of them agree on, or else the best one; do not write a new "
        "one. Compare them inside <think>…</think> and give its letter inside <answer>…</answer>."
    )


def _aggregate_prompt(inputs: Inputs) -> str:
    if inputs["sub_problem"]:
        pairs = zip(inputs["sub_problem"], inputs["solution"], strict=True)
        found = "\n".join(f"- {problem}\n  {solution}" for problem, solution in pairs)
        task = f"Its parts were solved:\n{found}\n\nPut these results together"
        question = f"Question:\n{inputs['query'][0]}\n\n{task} to answer the question."
    else:
        question = f"{_solutions_prompt(inputs)}Choose the best supported one; solve nothing anew."
    return (
        f"{question} Give the reason inside <selection_reason>…</selection_reason> and the short "
        "answer inside <answer>…</answer>."
    )


def _read(given: NodeInput, solutions: Sequence[str]) -> Inputs:
    return {
        "query": (given.problem,),
        "solution": tuple(solutions),
        "instruction": instructed(given),
    }


def _in_order(given: NodeInput, sample: int) -> Inputs:
    return _read(given, all_candidates(given))


def _shuffled(given: NodeInput, sample: int) -> Inputs:
    solutions = all_candidates(given)
    return _read(given, [solutions[index] for index in _permutation(len(solutions), sample)])


def _permutation(count: int, sample: int) -> list[int]:
    order = list(range(count))
    if sample:  # the first sample sees them as they came
        random.Random(sample).shuffle(order)
    return order


def _with_parts(given: NodeInput, sample: int) -> Inputs:
    values = [v for v in given.previous if v.kind is ValueKind.SUB_ANSWERS]
    problems = [line for v in values for line in v.fields["sub_problems"].split("\n")]
    others = _others(given)
    inputs = dict(_read(given, [*(part for v in values for part in v.parts), *others]))
    if problems:
        problems += ["also known"] * len(others)
    return {**inputs, "sub_problem": tuple(problems)}


def _others(given: NodeInput) -> Sequence[str]:
    rest = tuple(v for v in given.previous if v.kind is not ValueKind.SUB_ANSWERS)
    return all_candidates(NodeInput(given.problem, previous=rest))


def _settle(given: NodeInput) -> NodeOutcome | None:
    """One candidate, or a clear vote, needs nobody to decide."""
    solutions = all_candidates(given)
    if not solutions:
        return NodeOutcome.failed(
            "no_candidates", "there is nothing to compare; add solvers before"
        )
    winner = vote(solutions)
    return None if winner is None else NodeOutcome(_chosen(given, winner))


def _settle_selection(given: NodeInput) -> NodeOutcome | None:
    if any(value.kind is ValueKind.SUB_ANSWERS for value in given.previous):
        return None
    return _settle(given)


def _chosen(given: NodeInput, index: int) -> Value:
    """A candidate, with the program that it came from where it was a value of its own."""
    text = all_candidates(given)[index]
    own = (value for value in given.previous if value.text == text)
    return next(own, Value(text))


def _accept(reply: Reply, given: NodeInput, sample: int) -> None:
    _pick(reply, given, sample)


def _accept_shuffled(reply: Reply, given: NodeInput, sample: int) -> None:
    _pick_shuffled(reply, given, sample)


def _pick(reply: Reply, given: NodeInput, sample: int) -> int:
    """Index of the candidate that a reply names, by letter or in full."""
    solutions = all_candidates(given)
    answer = reply["answer"].strip()
    labels = [_label(index) for index in range(len(solutions))]
    if answer.strip("():. ").upper() in labels:
        return labels.index(answer.strip("():. ").upper())
    texts = [normal(text) for text in solutions]
    if normal(answer) in texts:
        return texts.index(normal(answer))
    raise UnusableReplyError(f"<answer> is none of the letters {labels[0]} to {labels[-1]}")


def _pick_shuffled(reply: Reply, given: NodeInput, sample: int) -> int:
    solutions = all_candidates(given)
    order = _permutation(len(solutions), sample)
    shown = Value("", ValueKind.CANDIDATES, parts=tuple(solutions[index] for index in order))
    return order[_pick(reply, NodeInput(given.problem, previous=(shown,)), 0)]


def _picked(replies: Sequence[tuple[int, Reply]], given: NodeInput) -> Value:
    ((sample, reply),) = replies
    return _chosen(given, _pick(reply, given, sample))


def _majority(replies: Sequence[tuple[int, Reply]], given: NodeInput) -> Value:
    picks = Counter(_pick_shuffled(reply, given, sample) for sample, reply in replies)
    most = max(picks.values())
    return _chosen(given, min(index for index, count in picks.items() if count == most))


_INPUTS = (Input("query"), Input("solution", minimum=2))
_USAGE = "<query>QUERY</query><solution>SOLUTION_1</solution><solution>SOLUTION_2</solution>"

SC_ENSEMBLE = Prompted(
    spec=OperatorSpec(
        name="ScEnsemble",
        category="ensemble",
        description=(
            "Chooses the most frequent and consistent of several solutions. Use it when you have "
            "collected at least two."
        ),
        usage=f"ScEnsemble: {_USAGE}",
        inputs=_INPUTS,
        is_ensemble=True,
        as_node="Votes over the solutions before it; use it after parallel solvers.",
    ),
    prompt=_consistent_prompt,
    show=thought_and_answer("ScEnsemble"),
    node=NodeForm(
        inputs=_in_order,
        fields=(THOUGHT, ANSWER),
        value=_picked,
        prompt=_letter_prompt,
        settle=_settle,
        accept=_accept,
    ),
)

MD_ENSEMBLE = Prompted(
    spec=OperatorSpec(
        name="MdEnsemble",
        category="ensemble",
        description=(
            "Chooses among several solutions five times, each time in another order, and takes "
            "the choice of the majority."
        ),
        usage=f"MdEnsemble: {_USAGE}",
        inputs=_INPUTS,
        is_ensemble=True,
    ),
    prompt=_consistent_prompt,
    show=thought_and_answer("MdEnsemble"),
    temperature=0.7,
    node=NodeForm(
        inputs=_shuffled,
        fields=(THOUGHT, ANSWER),
        value=_majority,
        prompt=_letter_prompt,
        settle=_settle,
        accept=_accept_shuffled,
        samples=5,
    ),
)

AGGREGATE = Prompted(
    spec=OperatorSpec(
        name="Aggregate",
        category="ensemble",
        description=(
            "Makes one answer out of several results: puts the results of sub-problems together, "
            "or chooses the best supported of several answers."
        ),
        usage=f"Aggregate: {_USAGE}",
        inputs=_INPUTS,
        is_ensemble=True,
    ),
    prompt=lambda inputs: _aggregate_prompt({"sub_problem": (), **inputs}),
    show=labelled("Aggregate answer", "answer"),
    node=NodeForm(
        inputs=_with_parts,
        fields=(ANSWER, Field("selection_reason", "")),
        value=answered,
        settle=_settle_selection,
    ),
)
