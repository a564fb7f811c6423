"""Read one assistant turn: a thought, then exactly one tool call or answer.

The form is `<think>…</think><tool>OperatorName: input</tool>` or `…<answer>…</answer>`.
A tag is one of five lower-case names without attributes; anything else in angle brackets is text.
Inside `<think>`, `<tool>` and `<answer>` every other tag is text too: such an element ends at its
own first closing tag. Text between the elements is ignored, as the released scorer does. Linear in
the length of the turn.
"""

from __future__ import annotations

import dataclasses
import re
from enum import StrEnum

from wfr.trajectory import TurnKind

_TAG = re.compile(r"<(/?)(think|tool_response|tool|answer|info)>")
_ACTIONS = ("tool", "answer")
_FORGED = ("info", "tool_response")
_STRAY_CLOSE = "/"


class Fault(StrEnum):
    """What is wrong with the format of a turn; a turn has at most one, the first that applies."""

    UNCLOSED = "unclosed"
    """A think, tool or answer element was opened and never closed."""
    FORGED_TAG = "forged_tag"
    """The policy wrote a tag that only the environment writes."""
    STRAY_CLOSE = "stray_close"
    """A closing tag closes nothing."""
    NO_ACTION = "no_action"
    """There is neither a tool call nor an answer."""
    SEVERAL_ACTIONS = "several_actions"
    """There is more than one tool call or answer."""
    NO_THINK = "no_think"
    """The action does not follow a thought."""
    EXTRA_THINK = "extra_think"
    """There is a second thought, or one after the action."""
    EMPTY_THINK = "empty_think"
    """The thought is blank."""
    BAD_CALL = "bad_call"
    """The tool call is not of the form `OperatorName: input`."""


@dataclasses.dataclass(frozen=True, slots=True)
class ParsedTurn:
    """One turn in structured form.

    A turn of kind TOOL is well formed. A turn of kind ANSWER carries the answer even where it also
    has a fault (an answer always ends the episode). A turn of kind MALFORMED has a fault.
    """

    kind: TurnKind
    think: str = ""
    operator: str = ""
    argument: str = ""
    answer: str = ""
    fault: Fault | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class _Element:
    name: str
    body: str


def parse_turn(text: str) -> ParsedTurn:
    """Parse the whole text of one turn; never raises.

    >>> parse_turn("<think> find mother </think> <tool> Search: Rip Fese </tool>").argument
    'Rip Fese'
    """
    elements, still_open = _scan(text)
    fault = _fault([e.name for e in elements], still_open)
    think = next((e.body.strip() for e in elements if e.name == "think"), "")
    if fault is None and not think:
        fault = Fault.EMPTY_THINK
    answers = [e.body.strip() for e in elements if e.name == "answer"]
    if answers:
        return ParsedTurn(TurnKind.ANSWER, think, answer=answers[-1], fault=fault)
    if fault is not None:
        return ParsedTurn(TurnKind.MALFORMED, think, fault=fault)
    return _call(think, elements[-1].body)


def turn_complete(text: str) -> bool:
    """False while a think, tool or answer element is open: a stop string in it is mere text."""
    return not _scan(text)[1]


def _call(think: str, body: str) -> ParsedTurn:
    name, colon, argument = body.partition(":")
    if not colon or not name.strip():
        return ParsedTurn(TurnKind.MALFORMED, think, fault=Fault.BAD_CALL)
    return ParsedTurn(TurnKind.TOOL, think, name.strip(), argument.strip())


def _scan(text: str) -> tuple[list[_Element], bool]:
    elements: list[_Element] = []
    position = 0
    while match := _TAG.search(text, position):
        closing, name = match.groups()
        position = match.end()
        if name in _FORGED:
            elements.append(_Element(name, ""))
        elif closing:
            elements.append(_Element(_STRAY_CLOSE, ""))
        else:
            end = text.find(f"</{name}>", position)
            if end < 0:
                return elements, True
            elements.append(_Element(name, text[position:end]))
            position = end + len(name) + 3
    return elements, False


def _fault(names: list[str], still_open: bool) -> Fault | None:
    actions = sum(name in _ACTIONS for name in names)
    if still_open:
        return Fault.UNCLOSED
    if any(name in _FORGED for name in names):
        return Fault.FORGED_TAG
    if _STRAY_CLOSE in names:
        return Fault.STRAY_CLOSE
    if actions != 1:
        return Fault.SEVERAL_ACTIONS if actions else Fault.NO_ACTION
    if names[0] != "think":
        return Fault.NO_THINK
    return Fault.EXTRA_THINK if len(names) > 2 else None
