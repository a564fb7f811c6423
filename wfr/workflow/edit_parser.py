"""Read one edit out of a director's turn: flat tags, one action per turn.

    <action>add</action><operator>NAME</operator>
    <action>add</action><structure>parallel</structure><operators>A,B,C</operators>
    <action>add</action><structure>conditional</structure><condition>C</condition><true>T</true>
        [<false>F</false>]                                        `done` is an arm without operators
    <action>add</action><structure>loop</structure><operators>A,B</operators>
        [<count>3</count>] [<until>C</until>]
    <action>delete</action><target>ID</target>
    <action>modify</action><target>ID</target><operator>NAME</operator>
    <action>set_prompt</action><target>ID</target><prompt>TEXT</prompt>
    <action>finish</action> [<answer>TEXT</answer>]

Every add takes [<position>N</position>] or [<target>ID</target>]; add and modify of an operator
take [<prompt>TEXT</prompt>] and [<inputs>ID,ID</inputs>], a structure one <prompt> per operator. A
turn may begin with <think>…</think>; <reasoning> and <thought> are remarks. The form is that of
FlowSteer (arXiv 2602.01664); until, inputs, the target and the prompts of an add are ours.

The strict parser refuses everything else. The tolerant one reads on, by the rules of `Tolerance`,
each of which counts as a format fault. Neither raises, whatever the text.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Literal

from wfr.workflow.codes import Code
from wfr.workflow.edit_scanner import REMARKS, THOUGHTS, Element, Scan, scan
from wfr.workflow.edits import (
    END,
    AddConditional,
    AddLoop,
    AddOperator,
    AddParallel,
    Delete,
    Edit,
    Finish,
    Modify,
    Place,
    SetPrompt,
)
from wfr.workflow.notation import DONE

Mode = Literal["strict", "tolerant"]

MAX_CHARS = 100_000
"""A longer turn is refused unread."""
MAX_COUNT = 10
_DEFAULT_COUNT = 3

_VERBS = ("add", "delete", "modify", "set_prompt", "finish")
_STRUCTURES = ("parallel", "conditional", "loop")


class Tolerance(StrEnum):
    """What the tolerant parser lets pass; the value is the code under which strict refuses it."""

    TAG_FORM = Code.TAG_FORM
    """Tags and keywords in capitals, spaces inside a tag, square instead of angle brackets."""
    CODE_FENCE = Code.CODE_FENCE
    """Fence marks around the edit are dropped."""
    STRAY_TEXT = Code.STRAY_TEXT
    """Text outside the tags is ignored."""
    UNKNOWN_TAG = Code.UNKNOWN_TAG
    """Tags that the grammar, or this action, does not have are ignored."""
    UNCLOSED_TAG = Code.UNCLOSED_TAG
    """A value without closing tag ends at the next tag, a free text at the end of the turn; a
    closing tag that closes nothing is ignored."""
    SEVERAL_ACTIONS = Code.SEVERAL_ACTIONS
    """The first action counts, with all tags up to the second one."""
    DUPLICATE_TAG = Code.DUPLICATE_TAG
    """The first of several equal tags counts."""
    LIST_SEPARATOR = Code.LIST_SEPARATOR
    """Lists may be separated by semicolons or blanks."""
    BAD_COUNT = Code.BAD_COUNT
    """A count outside 1 to 10 becomes the nearest of them."""
    UNKNOWN_ACTION = Code.UNKNOWN_ACTION
    """`parallel`, `conditional` or `loop` as an action means add with that structure."""
    NO_ACTION = Code.NO_ACTION
    """Without any action, a phrase such as "let's finish" finishes, and the name of exactly one
    operator adds it."""


@dataclasses.dataclass(frozen=True, slots=True)
class ParsedEdit:
    """What a turn asks for, or why it asks for nothing.

    Attributes:
        edit: None where `code` says why.
        think: the thought; remarks are in `reasoning`.
        tolerated: what the tolerant parser let pass.
    """

    edit: Edit | None
    code: Code | None = None
    message: str = ""
    think: str = ""
    reasoning: str = ""
    tolerated: tuple[Tolerance, ...] = ()

    @property
    def format_faults(self) -> int:
        """Count of rules that the turn broke; 1 for a turn that could not be read."""
        return len(self.tolerated) if self.edit is not None else 1


def parse_edit(
    text: str, *, mode: Mode = "tolerant", operators: Collection[str] = ()
) -> ParsedEdit:
    """Read one turn; `operators` are the names that the tolerant parser finds in plain text.

    >>> parse_edit("<action>delete</action><target>node_2</target>").edit
    Delete(target='node_2')
    """
    if len(text) > MAX_CHARS:
        message = f"the turn has {len(text)} characters; {MAX_CHARS} are allowed"
        return ParsedEdit(None, Code.TOO_LONG, message)
    found = scan(text)
    think = _join(found, THOUGHTS)
    reasoning = _join(found, REMARKS)
    reader = _Reader(mode)
    try:
        edit = reader.edit(found, operators)
    except _FaultError as fault:
        return ParsedEdit(None, fault.code, fault.message, think, reasoning)
    return ParsedEdit(edit, None, "", think, reasoning, tuple(reader.tolerated))


def parse_prompt(text: str, target: str) -> ParsedEdit:
    """Read a turn that has to be a prompt: its `<prompt>`, else all but thoughts and tags."""
    if len(text) > MAX_CHARS:
        return parse_edit(text)
    found = scan(text)
    think, reasoning = _join(found, THOUGHTS), _join(found, REMARKS)
    prompts = [e.value for e in found.elements if e.name == "prompt"]
    prompt = prompts[0] if prompts else found.outside.strip()
    if not prompt:
        message = "the turn has to be a prompt, and holds none"
        return ParsedEdit(None, Code.AWAITING_PROMPT, message, think, reasoning)
    return ParsedEdit(SetPrompt(target, prompt), None, "", think, reasoning)


def _join(found: Scan, names: Collection[str]) -> str:
    return "\n".join(e.value for e in found.elements if e.name in names)


class _FaultError(Exception):
    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


_Tags = Mapping[str, list[str]]


class _Reader:
    """Turns elements into an edit, noting what is let pass."""

    def __init__(self, mode: Mode) -> None:
        self._strict = mode == "strict"
        self.tolerated: dict[Tolerance, None] = {}

    def edit(self, found: Scan, operators: Collection[str]) -> Edit:
        elements = [e for e in found.elements if e.name not in (*THOUGHTS, *REMARKS)]
        if not any(e.name == "action" for e in elements):
            return self._without_action(found, elements, operators)
        for code in found.faults:
            self._let_pass(code, f"the turn breaks the grammar: {code}")
        tags = self._first_action(elements)
        action = self._keyword(tags, "action")
        if action in _STRUCTURES:
            self._let_pass(Code.UNKNOWN_ACTION, f"write <action>add</action> for {action!r}")
            return self._structure(action, tags)
        if action not in _VERBS:
            message = f"there is no action {action[:40]!r}; actions: {', '.join(_VERBS)}"
            raise _FaultError(Code.UNKNOWN_ACTION, message)
        return self._verb(action, tags)

    def _without_action(
        self, found: Scan, elements: list[Element], operators: Collection[str]
    ) -> Edit:
        text = " ".join([found.outside, *(e.value for e in elements)]).strip()
        if not text:
            code = Code.THINK_ONLY if found.elements else Code.EMPTY
            what = "holds a thought but no edit" if found.elements else "is blank"
            raise _FaultError(code, f"the turn {what}")
        self._let_pass(Code.NO_ACTION, "there is no <action>")
        if _FINISHING.search(text):
            return Finish()
        named = _named(text, operators)
        if len(named) > 1:
            message = f"there is no <action>, and several operators are named: {', '.join(named)}"
            raise _FaultError(Code.AMBIGUOUS_OPERATOR, message)
        if not named:
            raise _FaultError(Code.NO_ACTION, "there is no <action>")
        return AddOperator(named[0])

    def _first_action(self, elements: list[Element]) -> _Tags:
        tags: dict[str, list[str]] = {}
        for element in elements:
            if element.name == "action" and "action" in tags:
                self._let_pass(Code.SEVERAL_ACTIONS, "there is more than one <action>")
                break
            tags.setdefault(element.name, []).append(element.value)
        return tags

    def _verb(self, action: str, tags: _Tags) -> Edit:
        match action:
            case "add" if "structure" in tags:
                return self._structure(self._keyword(tags, "structure"), tags)
            case "add":
                self._only(tags, "operator", "prompt", "inputs", "position", "target")
                return AddOperator(
                    self._one(tags, "operator"),
                    self._one(tags, "prompt", ""),
                    self._list(tags, "inputs", ()),
                    self._place(tags),
                )
            case "delete":
                self._only(tags, "target")
                return Delete(self._one(tags, "target"))
            case "modify":
                self._only(tags, "target", "operator", "prompt", "inputs")
                return Modify(
                    self._one(tags, "target"),
                    self._one(tags, "operator"),
                    self._one(tags, "prompt", ""),
                    self._list(tags, "inputs", ()),
                )
            case "set_prompt":
                self._only(tags, "target", "prompt")
                return SetPrompt(self._one(tags, "target"), self._one(tags, "prompt"))
            case _:
                self._only(tags, "answer")
                return Finish(self._one(tags, "answer", ""))

    def _structure(self, structure: str, tags: _Tags) -> Edit:
        place = ("structure", "prompt", "position", "target")
        prompts = tuple(tags.get("prompt", ()))
        match structure:
            case "parallel":
                self._only(tags, *place, "operators")
                return AddParallel(self._list(tags, "operators"), prompts, self._place(tags))
            case "conditional":
                self._only(tags, *place, "condition", "true", "false")
                return AddConditional(
                    self._one(tags, "condition"),
                    self._arm(tags, "true", None),
                    self._arm(tags, "false", DONE),
                    prompts,
                    self._place(tags),
                )
            case "loop":
                self._only(tags, *place, "operators", "count", "until")
                return AddLoop(
                    self._list(tags, "operators"),
                    self._count(tags),
                    self._arm(tags, "until", DONE),
                    prompts,
                    self._place(tags),
                )
        message = f"there is no structure {structure[:40]!r}; structures: {', '.join(_STRUCTURES)}"
        raise _FaultError(Code.UNKNOWN_STRUCTURE, message)

    def _one(self, tags: _Tags, name: str, default: str | None = None) -> str:
        values = tags.get(name, ())
        if not values:
            if default is None:
                raise _FaultError(Code.MISSING_TAG, f"the action needs <{name}>…</{name}>")
            return default
        if len(values) > 1:
            self._let_pass(Code.DUPLICATE_TAG, f"<{name}> stands {len(values)} times")
        if name not in ("prompt", "answer"):
            _check_value(name, values[0])
        return values[0]

    def _keyword(self, tags: _Tags, name: str) -> str:
        value = self._one(tags, name)
        if value != value.lower():
            self._let_pass(Code.TAG_FORM, f"write {value.lower()[:40]!r} in small letters")
        return value.lower()

    def _arm(self, tags: _Tags, name: str, default: str | None) -> str:
        value = self._one(tags, name, default)
        return "" if value.lower() == DONE else value

    def _list(
        self, tags: _Tags, name: str, default: tuple[str, ...] | None = None
    ) -> tuple[str, ...]:
        if default is not None and name not in tags:
            return default
        value = self._one(tags, name)
        items = [item.strip() for item in value.split(",")]
        if any(re.search(r"[;\s]", item) for item in items) or not all(items):
            self._let_pass(Code.LIST_SEPARATOR, f"separate the items of <{name}> by commas")
            items = re.split(r"[,;\s]+", value)
        return tuple(filter(None, items))

    def _place(self, tags: _Tags) -> Place:
        if "position" in tags:
            return Place(position=_number("position", self._one(tags, "position")))
        return Place(target=self._one(tags, "target")) if "target" in tags else END

    def _count(self, tags: _Tags) -> int:
        if "count" not in tags:
            return _DEFAULT_COUNT
        count = _number("count", self._one(tags, "count"))
        if 1 <= count <= MAX_COUNT:
            return count
        self._let_pass(Code.BAD_COUNT, f"a count is a number from 1 to {MAX_COUNT}")
        return min(max(count, 1), MAX_COUNT)

    def _only(self, tags: _Tags, *names: str) -> None:
        unknown = [name for name in tags if name not in (*names, "action")]
        if unknown:
            self._let_pass(Code.UNKNOWN_TAG, f"this action has no <{unknown[0]}>")

    def _let_pass(self, code: Code, message: str) -> None:
        if self._strict:
            raise _FaultError(code, message)
        self.tolerated[Tolerance(code)] = None


def _check_value(name: str, value: str) -> None:
    if not value:
        raise _FaultError(Code.MISSING_TAG, f"<{name}> is empty")
    if any(bracket in value for bracket in "<>[]"):
        raise _FaultError(Code.BAD_VALUE, f"<{name}> may not hold any of < > [ ]")


def _number(name: str, value: str) -> int:
    if not re.fullmatch("[+-]?[0-9]{1,9}", value):
        raise _FaultError(Code.BAD_VALUE, f"<{name}>{value[:20]!r} is not a number")
    return int(value)


_FINISHING = re.compile(
    r"\b(?:let(?:'s| us) finish|i(?:'ll| will) finish|finish the workflow"
    r"|workflow is (?:now )?complete|(?:time|ready) to finish|now finish)\b",
    re.IGNORECASE,
)


def _named(text: str, operators: Collection[str]) -> list[str]:
    if not operators:
        return []
    by_lower = {name.lower(): name for name in operators}
    found = _any_of(tuple(by_lower)).finditer(text)
    return list(dict.fromkeys(by_lower[match[0].lower()] for match in found))


@functools.lru_cache(maxsize=16)
def _any_of(names: tuple[str, ...]) -> re.Pattern[str]:
    alternatives = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    return re.compile(rf"\b(?:{alternatives})\b", re.IGNORECASE)
