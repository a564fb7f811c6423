"""The program's side of a trial: answers the calls of the tests, and sees nothing but arguments.

Nothing here is trusted: the program may replace all of it. All it can win is a wrong answer.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wfr.sandbox.inside import values
else:
    import values

_MAX_ITEMS = 100_000


class Candidate:
    """The names that a program defined, and the objects that its tests hold handles of."""

    def __init__(self, scope: dict[str, Any], requests: int, replies: int) -> None:
        self._scope = scope
        self._requests = requests
        self._replies = replies
        self._kept: dict[int, object] = {}

    def serve(self) -> None:
        """Answer until the tests are done."""
        values.send(self._replies, "loaded")
        while True:
            try:
                request = values.receive(self._requests)
            except EOFError:
                return
            values.send(self._replies, self._answer(request))

    def _answer(self, request: list[Any]) -> list[Any]:
        try:
            return self._do(*request)
        except BaseException as error:  # noqa: BLE001 (SystemExit too: the tests go on)
            return ["raised", _names(type(error)), str(error)[:500]]

    def _do(self, what: str, target: Any, *details: Any) -> list[Any]:
        if what == "name":
            return ["value", self._encode(self._scope[target])]
        value = self._kept[target]
        if what == "attribute":
            return ["value", self._encode(getattr(value, details[0]))]
        if what == "items":
            return ["value", self._encode(list(itertools.islice(value, _MAX_ITEMS)))]  # type: ignore[call-overload]
        arguments, named = (values.decode(item, self._kept.__getitem__) for item in details)
        result = value(*arguments, **named)  # type: ignore[operator]
        return ["value", self._encode(result), self._encode(arguments)]

    def _encode(self, value: object) -> Any:
        return values.encode(value, self._keep)

    def _keep(self, value: object) -> int:
        self._kept[id(value)] = value
        return id(value)


def give_up(replies: int, why: str) -> None:
    """Say that the program did not load."""
    values.send(replies, why)


def _names(kind: type) -> list[str]:
    """An exception's class and its bases, nearest first."""
    return [base.__name__ for base in kind.__mro__]
