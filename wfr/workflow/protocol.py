"""Turns and what they do to a canvas: a pure state machine over workflow and pending prompts.

One turn per edit by default, prompts included. In the two-turn protocol of FlowSteer's code
an add or a modify asks for the operator's prompt, and the next turn is that prompt, whatever it
says; a structure is inserted at once and then asks for one prompt per operator. Either way the
workflow is ready to run when `Taken.edited` says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from wfr.workflow.codes import Code
from wfr.workflow.edit_parser import Mode, ParsedEdit, parse_edit, parse_prompt
from wfr.workflow.edits import (
    AddConditional,
    AddLoop,
    AddOperator,
    AddParallel,
    Applied,
    Delete,
    Edit,
    Finish,
    Modify,
    Place,
    Refused,
    SetPrompt,
    apply,
)
from wfr.workflow.graph import Workflow
from wfr.workflow.nodes import OperatorNode
from wfr.workflow.rules import Rules

EMPTY = Workflow()
Protocol = Literal["one_turn", "two_turn"]


@dataclasses.dataclass(frozen=True, slots=True)
class Pending:
    """Prompts that are still to come.

    Attributes:
        edit: takes effect with its prompt; None where the operators stand already.
        nodes: the operators, already in the workflow, that wait for a prompt.
    """

    edit: AddOperator | Modify | None = None
    nodes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class State:
    """A canvas between two turns."""

    workflow: Workflow = EMPTY
    pending: Pending | None = None

    @property
    def awaiting(self) -> str:
        """The operator whose prompt the next turn has to be; empty while building."""
        if self.pending is None:
            return ""
        if self.pending.edit is not None:
            return self.pending.edit.operator
        node = self.workflow.find(self.pending.nodes[0])
        assert isinstance(node, OperatorNode), self.pending
        return node.operator

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        data: dict[str, Any] = {"workflow": self.workflow.to_json()}
        if self.pending is not None:
            edit = self.pending.edit
            data["pending"] = {"nodes": list(self.pending.nodes)}
            if edit is not None:
                data["pending"]["edit"] = {"action": edit.action, **dataclasses.asdict(edit)}
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> State:
        """Read what `to_json` wrote; raises WorkflowError or KeyError for anything else."""
        workflow = Workflow.from_json(data["workflow"])
        if "pending" not in data:
            return cls(workflow)
        nodes = tuple(data["pending"]["nodes"])
        return cls(workflow, Pending(_read_edit(data["pending"].get("edit")), nodes))


@dataclasses.dataclass(frozen=True, slots=True)
class PromptWanted:
    """The turn was taken; the next one has to be this operator's prompt."""

    operator: str
    message: str


@dataclasses.dataclass(frozen=True, slots=True)
class Finished:
    """The director wants to end the episode; whether it may is the environment's decision."""

    answer: str


Outcome: TypeAlias = Applied | Refused | PromptWanted | Finished


@dataclasses.dataclass(frozen=True, slots=True)
class Taken:
    """One turn, read and applied."""

    state: State
    parsed: ParsedEdit
    outcome: Outcome

    @property
    def edited(self) -> bool:
        """The workflow has changed and waits for nothing: execute it."""
        return isinstance(self.outcome, Applied)


def take(
    state: State,
    text: str,
    rules: Rules,
    *,
    protocol: Protocol = "one_turn",
    mode: Mode = "tolerant",
) -> Taken:
    """Take one turn; never raises, whatever the text."""
    if state.pending is not None:
        return _take_prompt(state, state.pending, text, rules)
    parsed = parse_edit(text, mode=mode, operators=rules.operators)
    if parsed.edit is None:
        assert parsed.code is not None
        return Taken(state, parsed, Refused(parsed.code, parsed.message, _HINT))
    if isinstance(parsed.edit, Finish):
        return Taken(state, parsed, Finished(parsed.edit.answer))
    if protocol == "two_turn":
        return _take_bare(state, parsed, parsed.edit, rules)
    return _applied(state, parsed, apply(state.workflow, parsed.edit, rules))


_HINT = "one action per turn, for example <action>add</action><operator>NAME</operator>"


def _applied(state: State, parsed: ParsedEdit, outcome: Applied | Refused) -> Taken:
    if isinstance(outcome, Refused):
        return Taken(state, parsed, outcome)
    return Taken(State(outcome.workflow), parsed, outcome)


def _take_bare(state: State, parsed: ParsedEdit, edit: Edit, rules: Rules) -> Taken:
    """Take an edit whose prompts come in turns of their own; those in the edit are ignored."""
    match edit:
        case AddOperator() | Modify():
            bare = dataclasses.replace(edit, prompt="")
            outcome = apply(state.workflow, bare, rules)
            if isinstance(outcome, Refused):
                return Taken(state, parsed, outcome)
            return _wait(State(state.workflow, Pending(bare)), parsed)
        case AddParallel() | AddConditional() | AddLoop():
            outcome = apply(state.workflow, dataclasses.replace(edit, prompts=()), rules)
            if isinstance(outcome, Refused):
                return Taken(state, parsed, outcome)
            found = map(outcome.workflow.find, outcome.nodes)
            nodes = tuple(node.id for node in found if isinstance(node, OperatorNode))
            return _wait(State(outcome.workflow, Pending(nodes=nodes)), parsed)
        case Delete() | SetPrompt() | Finish():
            return _applied(state, parsed, apply(state.workflow, edit, rules))


def _take_prompt(state: State, pending: Pending, text: str, rules: Rules) -> Taken:
    parsed = parse_prompt(text, pending.nodes[0] if pending.nodes else "")
    edit = parsed.edit
    hint = f"write the prompt of {state.awaiting}"
    if not isinstance(edit, SetPrompt):
        code = parsed.code or Code.AWAITING_PROMPT
        return Taken(state, parsed, Refused(code, parsed.message, hint))
    if len(edit.prompt) < rules.limits.min_prompt_chars:
        message = f"the prompt has fewer than {rules.limits.min_prompt_chars} characters"
        return Taken(state, parsed, Refused(Code.PROMPT_TOO_SHORT, message, hint))
    if pending.edit is not None:
        whole = dataclasses.replace(pending.edit, prompt=edit.prompt)
        return _applied(state, parsed, apply(state.workflow, whole, rules))
    outcome = apply(state.workflow, edit, rules)
    if isinstance(outcome, Applied) and len(pending.nodes) > 1:
        return _wait(State(outcome.workflow, Pending(nodes=pending.nodes[1:])), parsed)
    return _applied(state, parsed, outcome)


def _wait(state: State, parsed: ParsedEdit) -> Taken:
    operator = state.awaiting
    return Taken(state, parsed, PromptWanted(operator, f"write the prompt of {operator}"))


def _read_edit(data: Mapping[str, Any] | None) -> AddOperator | Modify | None:
    if data is None:
        return None
    values = {key: value for key, value in data.items() if key != "action"}
    values["inputs"] = tuple(values["inputs"])
    if data["action"] == Modify.action:
        return Modify(**values)
    return AddOperator(**{**values, "place": Place(**values["place"])})
