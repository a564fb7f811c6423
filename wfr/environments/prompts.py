"""The prompt of the think-act protocol: the rules, the operators on offer, the question."""

from __future__ import annotations

from collections.abc import Iterable

from wfr.operators.base import OperatorSpec
from wfr.trajectory import Message

_SYSTEM = "You are a helpful assistant and an expert in reasoning and problem solving."

_RULES = """\
Answer the query at the end.

Work in turns. In every turn, first reason inside <think> and </think>: what you know now, what \
the last result means, and what to do next. Reason anew each time you receive new information; \
one long thought at the beginning is not enough.

After a thought you may call one operator:
<tool>OperatorName: input</tool>

These operators are available:

{operators}

Before each call, say in the thought why you choose this operator, what you give it, and what \
you expect. Its result comes back inside <info> and </info>; never write those tags yourself. \
Then think again about what the result means.

IMPORTANT: solve the problem as a workflow. Combine different operators over several steps, so \
that results build on one another and are checked before you rely on them. A single call is not \
an acceptable workflow for a problem that has several parts.

You have at most {calls} operator calls. Exactly one operator call or one answer per turn.

So each turn is <think>…</think> followed by <tool>…</tool>, and you go on with the \
<info>…</info> that it brings. When you are certain, finish with a thought and the answer as a \
short phrase, without explanation: <think>…</think><answer>short phrase</answer>. As long as you \
are not certain, keep gathering.

Query: {question}"""


def full_prompt(
    question: str, operators: Iterable[OperatorSpec], max_calls: int
) -> tuple[Message, ...]:
    """System and user message of the whole protocol."""
    entries = (
        f"{number}. {spec.name}: {spec.description}\n   Usage: <tool>{spec.usage}</tool>"
        for number, spec in enumerate(operators, 1)
    )
    text = _RULES.format(operators="\n".join(entries), calls=max_calls, question=question)
    return Message("system", _SYSTEM), Message("user", text)


def question_prompt(question: str) -> tuple[Message, ...]:
    """The question alone, for a director that already knows the protocol."""
    return (Message("user", question),)
