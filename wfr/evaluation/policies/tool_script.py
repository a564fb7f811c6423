"""Scripts of operator calls for the think-act environment."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

from wfr.operators.base import OperatorSpec
from wfr.tasks.source import Task
from wfr.trajectory import Message

WRITES_CODE = frozenset({"Programmer", "Test"})
"""Operators whose input is a program, which a script has nobody to write."""

_SOLUTIONS = frozenset(
    {
        *("AnswerGenerate", "Custom", "MultiAnswerGenerate", "ScEnsemble", "MdEnsemble"),
        *("Aggregate", "Format", "Revise"),
    }
)
_ANSWER = re.compile(r"^(?:\w+ )?(?:final )?answer: *", re.MULTILINE | re.IGNORECASE)
_NEXT = re.compile(r"\n\n\[Answer \d+\]\n")
_INFO = re.compile(r"\A<info>(.*)</info>\Z", re.DOTALL)


@dataclasses.dataclass(frozen=True, slots=True)
class ToolCall:
    """One step of a script: an operator, and what to tell it where it takes an instruction."""

    operator: str
    instruction: str = "Solve this."


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """What a call brought."""

    operator: str
    text: str

    @property
    def answers(self) -> list[str]:
        """The solutions in it, in order."""
        if self.operator not in _SOLUTIONS:
            return []
        pieces = _ANSWER.split(self.text)[1:] or [self.text]
        return [_NEXT.split(piece)[0].strip() for piece in pieces]


class ToolScript:
    """Makes its calls in order, each with the question and all that was read; then answers.

    The answer is the last solution that an operator gave, else the last text that was read.
    """

    def __init__(self, offered: Mapping[str, OperatorSpec], calls: Sequence[ToolCall]) -> None:
        """Call operators of `offered`."""
        self._offered = offered
        self._calls = tuple(calls)

    async def act(self, task: Task, messages: Sequence[Message]) -> str:
        """The call whose turn it is, or the answer."""
        played = sum(message.role == "assistant" for message in messages)
        names = [call.operator for call in self._calls]
        found = seen(messages, names)
        if played >= len(self._calls):
            return answer_turn(found)
        return call_turn(self._offered, self._calls[played], task.question, found)


def seen(messages: Sequence[Message], operators: Sequence[str]) -> list[Seen]:
    """The observations so far, with the operators that brought them."""
    texts = [_bare(message.content) for message in messages if message.role == "tool"]
    return [Seen(name, text) for name, text in zip(operators, texts, strict=False)]


def call_turn(
    offered: Mapping[str, OperatorSpec], call: ToolCall, question: str, found: Sequence[Seen]
) -> str:
    """The turn that makes a call."""
    argument = _argument(offered[call.operator], call.instruction, question, found)
    thought = f"{call.operator} comes next."
    return f"<think>{thought}</think><tool>{call.operator}: {argument}</tool>"


def answer_turn(found: Sequence[Seen]) -> str:
    """The turn that answers."""
    solutions = [answer for each in found for answer in each.answers]
    answer = solutions[-1] if solutions else (found[-1].text if found else "unknown")
    return f"<think>This is the answer.</think><answer>{_plain(answer)}</answer>"


def feasible(offered: Mapping[str, OperatorSpec], names: Sequence[str], name: str) -> bool:
    """Whether a call after those of `names` has all its inputs."""
    if name in WRITES_CODE:
        return False
    given = sum(3 if each == "MultiAnswerGenerate" else each in _SOLUTIONS for each in names)
    for item in offered[name].inputs:
        if item.name == "solution" and given < item.minimum:
            return False
        if item.name == "feedback" and not {"Review", "Verify"} & set(names):
            return False
    return True


def _argument(spec: OperatorSpec, instruction: str, question: str, found: Sequence[Seen]) -> str:
    if spec.name == "Search":
        return _plain(question)
    read = [each.text for each in found if each.operator not in _SOLUTIONS]
    problem = _plain("\n".join((question, *read)))
    if not spec.inputs:
        return problem
    solutions = [_plain(answer) for each in found for answer in each.answers]
    parts = []
    for item in spec.inputs:
        match item.name:
            case "solution":
                texts = solutions if item.minimum > 1 else solutions[-1:]
            case "feedback":
                texts = [_plain(found[-1].text)] if found else []
            case "instruction":
                texts = [instruction]
            case _:
                texts = [problem]
        parts += [f"<{item.name}>{text}</{item.name}>" for text in texts]
    return "".join(parts)


def _bare(content: str) -> str:
    match = _INFO.match(content.strip())
    return (match[1] if match else content).strip()


def _plain(text: str) -> str:
    """Without anything that would end the element that the text stands in."""
    return text.replace("<", "&lt;") if "</" in text else text
