"""Reading one row: every fault names the field, what was expected and what was found."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from wfr.tasks.source import Document


class FieldError(ValueError):
    """A row that is not what its format says; the text names the field."""


@dataclasses.dataclass(frozen=True, slots=True)
class Fields:
    """The fields of one row."""

    row: Any

    def __post_init__(self) -> None:
        """Refuse rows that have no fields."""
        if not isinstance(self.row, Mapping):
            raise FieldError(f"expected an object, found {shown(self.row)}")

    def __contains__(self, name: str) -> bool:
        """Whether the row has the field, and something in it."""
        return self.row.get(name) is not None

    def text(self, *names: str, default: str | None = None) -> str:
        """Text of the first of these fields that is there; not blank unless there is a default."""
        name = self._first(names)
        value = self.row.get(name)
        if value is None and default is not None:
            return default
        if isinstance(value, str) and (value.strip() or default is not None):
            return value.strip()
        raise self.wrong(name, "text", value)

    def raw(self, name: str, default: str | None = None) -> str:
        """Text as it stands, white space kept: programs; not blank unless there is a default."""
        value = self.row.get(name, default)
        if isinstance(value, str) and (value.strip() or default is not None):
            return value.replace("\r\n", "\n")
        raise self.wrong(name, "text", value)

    def number(self, *names: str) -> str:
        """A number, or text of one, as text."""
        name = self._first(names)
        value = self.row.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise self.wrong(name, "a number", value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        return str(value).strip()

    def flag(self, name: str, *, default: bool) -> bool:
        """A boolean."""
        value = self.row.get(name, default)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false", value)
        return value

    def texts(self, name: str, *, empty: bool = False) -> tuple[str, ...]:
        """A list of texts, blank ones left out; also as JSON in text."""
        value = self.row.get(name)
        if isinstance(value, str):
            value = self._json(name, value)
        value = _listed(value)
        if value is None or not all(isinstance(item, str) for item in value):
            raise self.wrong(name, "a list of texts", self.row.get(name))
        found = tuple(item.strip() for item in value if item.strip())
        if not found and not empty:
            raise self.wrong(name, "a list with a text in it", self.row.get(name))
        return found

    def items(self, name: str) -> list[Any]:
        """A list of anything."""
        value = _listed(self.row.get(name))
        if value is None:
            raise self.wrong(name, "a list", self.row.get(name))
        return value

    def mapping(self, name: str) -> Fields:
        """A nested object."""
        value = self.row.get(name)
        if not isinstance(value, Mapping):
            raise self.wrong(name, "an object", value)
        return Fields(value)

    def paragraphs(self, name: str = "context") -> Iterator[Document]:
        """[title, [sentence, ...]] pairs, or their columns `title` and `sentences`."""
        value = self.row.get(name)
        if isinstance(value, str):
            value = self._json(name, value)
        if isinstance(value, Mapping):
            titles, texts = _listed(value.get("title")), _listed(value.get("sentences"))
            if titles is None or texts is None or len(titles) != len(texts):
                raise self.wrong(name, "`title` and `sentences` of one length", value)
            value = [[title, _listed(text)] for title, text in zip(titles, texts, strict=True)]
        pairs = _listed(value)
        if pairs is None:
            raise self.wrong(name, "a list of [title, sentences]", value)
        for number, pair in enumerate(pairs):
            match _listed(pair):
                case [str(title), [*sentences]] if all(isinstance(s, str) for s in sentences):
                    yield Document(title, "".join(sentences).strip())
                case _:
                    raise self.wrong(f"{name}[{number}]", "[title, sentences]", pair)

    def wrong(self, name: str, expected: str, found: Any) -> FieldError:
        """The error to raise for a field."""
        return FieldError(f"field {name!r}: expected {expected}, found {shown(found)}")

    def _first(self, names: tuple[str, ...]) -> str:
        return next((name for name in names if name in self), names[0])

    def _json(self, name: str, text: str) -> Any:
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            raise self.wrong(name, "JSON in text", text) from None


def _listed(value: Any) -> list[Any] | None:
    """A list, tuple or array as a list; None for anything else."""
    if isinstance(value, (str, bytes, Mapping)) or not hasattr(value, "__iter__"):
        return None
    return list(value)


def shown(value: Any) -> str:
    """A value for an error message: its type and its beginning."""
    if value is None:
        return "nothing"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 40 else text[:37] + '...'}"


def identity(source: str, *parts: str) -> str:
    """An id made of a row's text, for benchmarks that have none."""
    return f"{source}/{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:12]}"
