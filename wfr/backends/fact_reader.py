"""Reading made-up-world passages: which facts they state, and what follows for a question.

A passage is one line, `SUBJECT attribute value attribute value …`, with or without commas: the
subject and names are capitalised or numbers, attributes are lower-case words. Questions are the
forms of the embedded benchmark: `job of X ?`, `X's friend's home?`, `The singer X's home?`,
`The older of X and Y: job?`, `who is older , X or Y ?`, `X is how many years younger than Y?`.
Nothing but the text that is handed in is known here.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence

_COMPARED = re.compile(
    r"\b(?P<how>older|younger)\s*(?:of|,)\s*(?P<one>.+?)\s+(?:and|or)\s+(?P<two>[^:]+?)"
    r"(?:\s*:\s*(?P<asked>\w+))?$"
)
_YEARS = re.compile(
    r"^(?:(?P<one>.+?) is how many years|how many years is (?P<uno>.+?)) "
    r"(?:older|younger) than (?P<two>.+)$"
)
_LEAD = re.compile(r"^(?:(?:what|who|where|when) (?:is|was) )?(?:the )?", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, slots=True)
class Passage:
    """What one line states."""

    subject: str
    facts: Mapping[str, str]

    def about(self, entity: str) -> bool:
        """True when the name occurs in the subject and any qualifier, as in `singer X`, fits."""
        name = " ".join(word for word in entity.split() if _is_name(word))
        rest = {word for word in entity.split() if not _is_name(word)} - {"the", "The"}
        stated = {word for value in self.facts.values() for word in value.split()}
        return bool(name) and name in self.subject and rest <= stated


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """An answer with the facts it rests on; without an answer, what was missing."""

    answer: str
    reasons: tuple[str, ...]
    missing: str = ""


class _MissingFactError(LookupError):
    """The text does not state a fact that the question needs."""


def split_question(text: str) -> tuple[str, str]:
    """The question (to its question mark, or the first line) and the text that follows it."""
    mark = "?" if "?" in text else "\n"
    question, _, context = text.strip().partition(mark)
    return " ".join(question.split()), context.strip()


def read_passages(text: str) -> list[Passage]:
    """The passages in a text: one per line that states at least one fact."""
    passages = (_read_passage(line) for line in re.split(r"[\n;|]", text))
    return [passage for passage in passages if passage.facts]


def read_answer(question: str, passages: Sequence[Passage]) -> Reading:
    """Answer a question from passages alone."""
    reasons: list[str] = []
    try:
        answer = _answer(question, passages, reasons)
    except _MissingFactError as missing:
        return Reading("", tuple(reasons), str(missing))
    return Reading(answer, tuple(reasons))


def _answer(question: str, passages: Sequence[Passage], reasons: list[str]) -> str:
    if compared := _COMPARED.search(question):
        older, younger = sorted(
            (compared["one"], compared["two"]), key=lambda name: _born(name, passages, reasons)
        )
        chosen = older if compared["how"] == "older" else younger
        asked = compared["asked"]
        return _fact(chosen, asked, passages, reasons) if asked else chosen
    if years := _YEARS.match(question):
        one = years["one"] or years["uno"]
        born = [_born(name, passages, reasons) for name in (one, years["two"])]
        return str(abs(born[0] - born[1]))
    entity, path = _chain(question)
    for attribute in path:
        entity = _fact(entity, attribute, passages, reasons)
    return entity


def _chain(question: str) -> tuple[str, list[str]]:
    """Entity and the attributes to follow from it."""
    bare = _LEAD.sub("", question)
    if "'s " in bare:
        entity, *path = bare.split("'s ")
    else:
        *path, entity = bare.split(" of ")
        path.reverse()
    if not path:
        raise _MissingFactError(f"a fact that answers {question!r}")
    return entity.strip(), [attribute.strip().removeprefix("the ") for attribute in path]


def _born(name: str, passages: Sequence[Passage], reasons: list[str]) -> int:
    year = _fact(name, "born", passages, reasons)
    if not year.isdigit():
        raise _MissingFactError(f"a year of birth of {name}")
    return int(year)


def _fact(entity: str, attribute: str, passages: Sequence[Passage], reasons: list[str]) -> str:
    about = [passage for passage in passages if passage.about(entity)]
    if not about:
        raise _MissingFactError(f"a passage about {entity}")
    for passage in about:
        if attribute in passage.facts:
            value = passage.facts[attribute]
            reasons.append(f"{attribute} of {entity} is {value}")
            return value
    raise _MissingFactError(f"the {attribute} of {entity}")


def _read_passage(line: str) -> Passage:
    head, *segments = line.split(",")
    facts = dict(_fact_in(segment) for segment in segments) if segments else _facts_among(head)
    names = itertools.takewhile(_is_name, head.split())
    subject = " ".join(names)
    return Passage(subject, {a: v for a, v in facts.items() if a and v} if subject else {})


def _fact_in(segment: str) -> tuple[str, str]:
    """Attribute and value of `mother Vin Numo`."""
    attribute, _, value = segment.strip().partition(" ")
    return attribute, value.strip()


def _facts_among(line: str) -> dict[str, str]:
    """Facts of a line without commas: a value is one word and the capitalised ones after it."""
    facts: dict[str, str] = {}
    attribute = ""
    for word in itertools.dropwhile(_is_name, line.split()):
        if attribute and (not facts[attribute] or _is_name(word)):
            facts[attribute] = f"{facts[attribute]} {word}".strip()
        else:
            attribute = word
            facts[attribute] = ""
    return facts


def _is_name(word: str) -> bool:
    return word[0].isupper() or word[0].isdigit()
