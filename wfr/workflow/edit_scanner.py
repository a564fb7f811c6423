"""Cut a director's turn into elements: `<name>value</name>`, one after the other, no nesting.

A thought, a prompt, an answer are free text: such an element ends at its own closing tag, and every
other tag inside it is text. All other values hold no brackets, so they end at the next tag. Linear
in the length of the turn (but for a logarithm), whatever it holds.
"""

from __future__ import annotations

import bisect
import dataclasses
import re
from collections.abc import Iterator

from wfr.workflow.codes import Code

THOUGHTS = ("think", "thinking")
REMARKS = ("reasoning", "thought")
_FREE = frozenset({*THOUGHTS, *REMARKS, "prompt", "answer"})
_NAMES = (
    *_FREE,
    *("action", "structure", "operator", "operators", "condition", "true", "false"),
    *("count", "until", "position", "target", "inputs"),
)
_BLANK = r"[ \t\r\n]{0,4}"
_TAG = re.compile(
    rf"[<\[]{_BLANK}(/?){_BLANK}({'|'.join(sorted(_NAMES, reverse=True))}){_BLANK}[>\]]",
    re.IGNORECASE,
)
_OTHER_TAG = re.compile(r"</?[A-Za-z_][A-Za-z0-9_-]{0,40}>")
_FENCE = re.compile(r"```[A-Za-z]{0,10}")


@dataclasses.dataclass(frozen=True, slots=True)
class Element:
    """One tag with its value, stripped."""

    name: str
    value: str


@dataclasses.dataclass(frozen=True, slots=True)
class Scan:
    """What a turn holds.

    Attributes:
        faults: what the grammar does not allow, each kind once, in the order of its appearance.
        outside: the text outside every element.
    """

    elements: tuple[Element, ...]
    faults: tuple[Code, ...]
    outside: str


@dataclasses.dataclass(frozen=True, slots=True)
class _Tag:
    start: int
    end: int
    closing: bool
    name: str
    exact: bool


def scan(text: str) -> Scan:
    """Cut a turn; never raises."""
    return _Scanner(text).run()


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tags = list(_tags(text))
        self._closings: dict[tuple[str, bool], list[int]] = {}
        for index, tag in enumerate(self._tags):
            if tag.closing:
                self._closings.setdefault((tag.name, False), []).append(index)
                if tag.exact:
                    self._closings.setdefault((tag.name, True), []).append(index)
        self._elements: list[Element] = []
        self._faults: dict[Code, None] = {}
        self._outside: list[str] = []

    def run(self) -> Scan:
        index = position = 0
        while index < len(self._tags):
            tag = self._tags[index]
            self._outside.append(self._text[position : tag.start])
            index, position = self._element(index, tag)
        self._outside.append(self._text[position:])
        outside = self._check_outside()
        return Scan(tuple(self._elements), tuple(self._faults), outside)

    def _element(self, index: int, tag: _Tag) -> tuple[int, int]:
        """Take the element that begins at a tag; returns where to go on."""
        self._check_form(tag)
        if tag.closing:
            self._faults[Code.UNCLOSED_TAG] = None
            return index + 1, tag.end
        end = self._free_end(index, tag) if tag.name in _FREE else self._value_end(index, tag)
        if end is None:
            return self._unclosed(index, tag)
        closing = self._tags[end]
        self._check_form(closing)
        self._take(tag, closing.start)
        return end + 1, closing.end

    def _unclosed(self, index: int, tag: _Tag) -> tuple[int, int]:
        self._faults[Code.UNCLOSED_TAG] = None
        following = len(self._tags) if tag.name in _FREE else index + 1
        limit = self._tags[following].start if following < len(self._tags) else len(self._text)
        self._take(tag, limit)
        return following, limit

    def _take(self, tag: _Tag, end: int) -> None:
        self._elements.append(Element(tag.name, self._text[tag.end : end].strip()))

    def _free_end(self, index: int, tag: _Tag) -> int | None:
        for exact in (True, False):
            closings = self._closings.get((tag.name, exact), [])
            found = bisect.bisect(closings, index)
            if found < len(closings):
                return closings[found]
        return None

    def _value_end(self, index: int, tag: _Tag) -> int | None:
        if index + 1 == len(self._tags):
            return None
        following = self._tags[index + 1]
        return index + 1 if following.closing and following.name == tag.name else None

    def _check_form(self, tag: _Tag) -> None:
        if not tag.exact:
            self._faults[Code.TAG_FORM] = None

    def _check_outside(self) -> str:
        text = "\n".join(self._outside)
        plain = _FENCE.sub("", text)
        if plain != text:
            self._faults[Code.CODE_FENCE] = None
        without_tags = _OTHER_TAG.sub("", plain)
        if without_tags != plain:
            self._faults[Code.UNKNOWN_TAG] = None
        if without_tags.strip():
            self._faults[Code.STRAY_TEXT] = None
        return without_tags


def _tags(text: str) -> Iterator[_Tag]:
    for match in _TAG.finditer(text):
        slash, name = match[1], match[2]
        yield _Tag(
            match.start(),
            match.end(),
            bool(slash),
            name.lower(),
            exact=match[0] == f"<{slash}{name}>" and name.islower(),
        )
