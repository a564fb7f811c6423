"""What an operator is: a declaration that the prompt shows, and a call that the director makes."""

from __future__ import annotations

import dataclasses
from typing import Protocol

from wfr.backends.base import Inputs
from wfr.operators.meter import Meter
from wfr.operators.values import NodeInput, NodeOutcome
from wfr.tasks.source import Document
from wfr.trajectory import OperatorCall


@dataclasses.dataclass(frozen=True, slots=True)
class Input:
    """One sub-tag of an argument: its first occurrence, or all of them where `minimum` > 1."""

    name: str
    minimum: int = 1


@dataclasses.dataclass(frozen=True, slots=True)
class OperatorSpec:
    """The declaration of an operator.

    Attributes:
        description: what it does and when it helps; shown in the prompt.
        usage: the literal call, placeholders in upper case; shown in the prompt.
        inputs: sub-tags of the argument; none: the argument is taken as it is.
        any_input: one of the inputs is enough.
        is_check: gives a verdict, so it may be the condition of a conditional or a loop.
        is_ensemble: compares several results, so it needs them.
        as_node: description for a canvas, where that differs.
    """

    name: str
    category: str
    description: str
    usage: str
    inputs: tuple[Input, ...] = ()
    any_input: bool = False
    is_check: bool = False
    is_ensemble: bool = False
    as_node: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Scope:
    """What an operator may know of the episode: never the accepted answers.

    Attributes:
        tests: public tests of a programming task, pieces of Python; never the hidden ones.
        entry_point: the function that such a task asks for.
    """

    task_id: str
    corpus: tuple[Document, ...] = ()
    tests: tuple[str, ...] = ()
    entry_point: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """The observation's text and the record of the call."""

    text: str
    call: OperatorCall


class Operator(Protocol):
    """Something that a director can call."""

    @property
    def spec(self) -> OperatorSpec:
        """Its declaration."""
        ...

    async def call(self, argument: str, scope: Scope) -> Outcome:
        """Carry out one call.

        Raises:
            ArgumentError: the director did not give what the declaration asks for.
            WorldFailureError: the operator could not be carried out, whatever the argument.
        """
        ...


class NodeOperator(Protocol):
    """Something that runs as a node of a workflow."""

    @property
    def spec(self) -> OperatorSpec:
        """Its declaration."""
        ...

    @property
    def parameters(self) -> str:
        """All that decides its result besides its inputs: backend, model, temperature."""
        ...

    async def run(self, inputs: NodeInput, scope: Scope, meter: Meter) -> NodeOutcome:
        """Carry out the node; claims and records every call on the meter.

        Raises:
            BudgetSpentError: as the meter does.
            WorldFailureError: the operator could not be carried out, whatever the inputs.
        """
        ...


class ArgumentError(ValueError):
    """An argument that lacks an input; the text tells the director what to provide."""


def read_inputs(spec: OperatorSpec, argument: str) -> Inputs:
    """Split an argument into its declared inputs, all of it under `content` if none is declared.

    Raises:
        ArgumentError: an input is missing.
    """
    if not spec.inputs:
        if not argument.strip():
            raise ArgumentError(f"{spec.name} needs an input after the colon: {spec.usage}")
        return {"content": (argument.strip(),)}
    found = {item.name: tagged(argument, item.name) for item in spec.inputs}
    if spec.any_input:
        if not any(found.values()):
            names = " or ".join(f"<{item.name}>" for item in spec.inputs)
            raise ArgumentError(f"{spec.name} needs {names}: {spec.usage}")
        return {name: texts[:1] for name, texts in found.items()}
    for item in spec.inputs:
        _check(spec, item, found[item.name])
    return {i.name: found[i.name] if i.minimum > 1 else found[i.name][:1] for i in spec.inputs}


def tagged(text: str, tag: str) -> tuple[str, ...]:
    """Contents of every `<tag>…</tag>` in order, stripped; linear in the length of the text."""
    contents = []
    opening, closing = f"<{tag}>", f"</{tag}>"
    start = text.find(opening)
    while start >= 0:
        end = text.find(closing, start + len(opening))
        if end < 0:
            break
        contents.append(text[start + len(opening) : end].strip())
        start = text.find(opening, end + len(closing))
    return tuple(contents)


def _check(spec: OperatorSpec, item: Input, texts: tuple[str, ...]) -> None:
    if not texts:
        raise ArgumentError(
            f"I did not give {spec.name} its <{item.name}>…</{item.name}>: {spec.usage}"
        )
    if len(texts) < item.minimum:
        raise ArgumentError(
            f"{spec.name} is meaningless with one {item.name}; provide at least {item.minimum}: "
            f"{spec.usage}"
        )
