"""How a declared operator works as a node of a workflow, and what nodes commonly ask with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from wfr.backends.base import Inputs
from wfr.operators.reply import Field, Reply
from wfr.operators.values import NodeError, NodeInput, NodeOutcome, Value, candidates, merged

THOUGHT = Field("think", default="")
ANSWER = Field("answer")


@dataclasses.dataclass(frozen=True, slots=True)
class NodeForm:
    """A declared operator as a node.

    Attributes:
        inputs: what the backend is given for one sample, by name.
        fields: what its reply has to hold.
        value: the output, from the replies of all samples that could be used; or an error.
        prompt: words the request; none: as for a tool.
        settle: an outcome without asking, or None to ask.
        accept: raises UnusableReplyError for a reply that holds every field and is still useless.
        samples: replies drawn at once; none: as many as for a tool.
    """

    inputs: Callable[[NodeInput, int], Inputs]
    fields: tuple[Field, ...]
    value: Callable[[Sequence[tuple[int, Reply]], NodeInput], Value | NodeError]
    prompt: Callable[[Inputs], str] | None = None
    settle: Callable[[NodeInput], NodeOutcome | None] = lambda given: None
    accept: Callable[[Reply, NodeInput, int], None] = lambda reply, given, sample: None
    samples: int | None = None


def instructed(given: NodeInput) -> tuple[str, ...]:
    """The node's prompt as an input: none, or one."""
    return (given.instruction,) if given.instruction.strip() else ()


def read_problem(given: NodeInput, sample: int) -> Inputs:
    """`problem`, and `previous`: what the nodes before said."""
    return {
        "problem": (given.problem,),
        "previous": tuple(value.text for value in given.previous),
        "instruction": instructed(given),
    }


def read_content(given: NodeInput, sample: int) -> Inputs:
    """`content`: the problem and what the nodes before said, as one text."""
    return {"content": (content(given),), "instruction": instructed(given)}


def content(given: NodeInput) -> str:
    """The problem and what the nodes before said."""
    return "\n\n".join([given.problem, *(value.text for value in given.previous)])


def read_solution(given: NodeInput, sample: int) -> Inputs:
    """`question` and `solution`: what one node before, or several together, came to."""
    return {
        "question": (given.problem,),
        "solution": (shown(merged(given.previous)),),
        "instruction": instructed(given),
    }


def shown(solution: Value) -> str:
    """A solution in words, with the program that it came from."""
    if not solution.code or solution.code == solution.text:
        return solution.text
    return f"{solution.text}\n\nIt came from this program:\n```python\n{solution.code}\n```"


def needs_solution(given: NodeInput) -> NodeOutcome | None:
    """An error where nothing came before."""
    if given.previous:
        return None
    return NodeOutcome.failed("no_solution", "there is no solution yet; add a solver before")


def all_candidates(given: NodeInput) -> tuple[str, ...]:
    """Every solution that the nodes before came to."""
    return tuple(text for value in given.previous for text in candidates(value))


def answered(replies: Sequence[tuple[int, Reply]], given: NodeInput) -> Value:
    """The answer of the only reply."""
    ((_, reply),) = replies
    return Value(reply["answer"], fields=reply)


def judged(name: str, feedback: Callable[[Reply], str]) -> Callable[..., Value]:
    """What was checked, with the verdict of field `name`."""

    def value(replies: Sequence[tuple[int, Reply]], given: NodeInput) -> Value:
        ((_, reply),) = replies
        checked = merged(given.previous)
        return dataclasses.replace(
            checked,
            passed=reply[name] == "true",
            feedback=feedback(reply),
            fields={**checked.fields, **reply},
        )

    return value
