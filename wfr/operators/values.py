"""What flows between the operators of a workflow: values, and what one operator is given."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import cached_property
from typing import Any


class ValueKind(StrEnum):
    """What a value is, where the next operator treats it in its own way."""

    TEXT = "text"
    """A solution, an answer, a note."""
    PLAN = "plan"
    """Steps to take; `parts` are the steps."""
    SUB_PROBLEMS = "sub_problems"
    """Parts of the problem: a solver that reads them runs once for each."""
    SUB_ANSWERS = "sub_answers"
    """What a solver found for each part; `fields` has the sub-problems, one per line."""
    CANDIDATES = "candidates"
    """Several solutions of the same problem."""


@dataclasses.dataclass(frozen=True)
class Value:
    """The output of an operator.

    Attributes:
        text: what the next operator works on.
        code: the Python program that the text came from, or is.
        parts: the single items of a plan, a decomposition, a set of answers or candidates.
        passed: the verdict of the check that this value last went through.
        feedback: what that check said.
        fields: everything the operator's reply said, by name.
    """

    text: str
    kind: ValueKind = ValueKind.TEXT
    code: str = ""
    parts: tuple[str, ...] = ()
    passed: bool | None = None
    feedback: str = ""
    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """A hash of all that it says."""
        return digest(
            *(self.text, self.kind.value, self.code, self.parts, self.passed, self.feedback),
            sorted(self.fields.items()),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        data = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            **data,
            "kind": self.kind.value,
            "parts": list(self.parts),
            "fields": {**self.fields},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Value:
        """Read what `to_json` wrote."""
        kind, parts = ValueKind(data["kind"]), tuple(data["parts"])
        return cls(**{**data, "kind": kind, "parts": parts})


def digest(*parts: object) -> str:
    """A hash of plain data: tuples, lists, texts, numbers."""
    return hashlib.blake2b(repr(parts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def merged(values: Sequence[Value]) -> Value:
    """Several values as the one that an operator for single solutions works on.

    Equal solutions are one, with the verdicts of all: it passed if none of them failed.
    """
    first = values[0]
    if all((v.text, v.code) == (first.text, first.code) for v in values):
        verdicts = [value.passed for value in values if value.passed is not None]
        remarks = dict.fromkeys(value.feedback for value in values if value.feedback)
        return dataclasses.replace(
            first, passed=all(verdicts) if verdicts else None, feedback="\n".join(remarks)
        )
    texts = tuple(part for value in values for part in candidates(value))
    numbered = "\n\n".join(f"[{number}] {text}" for number, text in enumerate(texts, 1))
    remarks = dict.fromkeys(value.feedback for value in values if value.feedback)
    return Value(numbered, ValueKind.CANDIDATES, parts=texts, feedback="\n".join(remarks))


def candidates(value: Value) -> tuple[str, ...]:
    """The solutions that a value holds."""
    several = value.kind in (ValueKind.CANDIDATES, ValueKind.SUB_ANSWERS)
    return value.parts if several and value.parts else (value.text,)


@dataclasses.dataclass(frozen=True, slots=True)
class NodeInput:
    """What an operator is given when it runs as a node.

    Attributes:
        problem: the task, or the sub-problem that this run is for.
        instruction: the prompt that the director wrote for this node; may be empty.
        previous: the outputs of the nodes that it reads, in their order; none at the start.
        sample: tells apart nodes and iterations that would ask the same.
    """

    problem: str
    instruction: str = ""
    previous: tuple[Value, ...] = ()
    sample: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class NodeError:
    """Why a node has no value: a short code, and the reason in words."""

    code: str
    message: str


@dataclasses.dataclass(frozen=True, slots=True)
class NodeOutcome:
    """A value or an error."""

    value: Value | None
    error: NodeError | None = None

    @classmethod
    def failed(cls, code: str, message: str) -> NodeOutcome:
        """An error."""
        return cls(None, NodeError(code, message))
