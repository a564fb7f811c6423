"""The tests' side of a trial: runs them against a program that lives in another process.

A test is a piece of Python. Every name that it uses and does not define is asked of the program:
functions and classes become handles whose calls run over there, values arrive as copies. What the
program returns is rebuilt from builtin types, and what it did to the arguments of a call is done to
ours. So a test that passes has compared plain data, in a process that the program never touched.
"""

from __future__ import annotations

import ast
import builtins
import itertools
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wfr.sandbox.inside import values
else:
    import values

_FILE = "<test>"
_MESSAGE = 300
_MAX_HANDLES = 10_000


class CandidateError(Exception):
    """The program raised something that is not a builtin exception."""


class _LostError(Exception):
    """The program is gone, or answers nonsense."""


class _NotOursError(Exception):
    """The test needs what a trial cannot give: no fault of the program."""


class Handle:
    """Something of the program's that is not data: it can be called, read and iterated there."""

    __slots__ = ("_channel", "_number")

    def __init__(self, channel: Channel, number: int) -> None:
        self._channel = channel
        self._number = number

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call it over there."""
        return self._channel.call(self._number, list(arguments), named)

    def __getattr__(self, name: str) -> Any:
        """Read an attribute; raises AttributeError for special names."""
        if name.startswith("__"):
            raise AttributeError(name)
        return self._channel.ask("attribute", self._number, name)

    def __iter__(self) -> Iterator[Any]:
        """All items at once (at most 100,000)."""
        return iter(self._channel.ask("items", self._number))


class Channel:
    """Requests to the program, one reply each."""

    def __init__(self, requests: int, replies: int) -> None:
        self._requests = requests
        self._replies = replies
        self._handles: dict[int, Handle] = {}

    def loaded(self) -> bytes:
        """Wait for the program: T it ran past its last line; M, E it did not; L it is gone."""
        try:
            return {"loaded": b"T", "memory": b"M", "error": b"E"}.get(str(self._receive()), b"L")
        except _LostError:
            return b"L"

    def call(self, number: int, arguments: list[Any], named: dict[str, Any]) -> Any:
        """Call a handle; lists, dicts and sets among `arguments` change as they did over there."""
        reply = self._exchange("call", number, self._encode(arguments), self._encode(named))
        if len(reply) == 3:
            for mine, theirs in zip(arguments, self._decode(reply[2]), strict=False):
                _become(mine, theirs)
        return self._decode(reply[1])

    def ask(self, what: str, target: Any, *details: Any) -> Any:
        """Any other request."""
        return self._decode(self._exchange(what, target, *details)[1])

    def _exchange(self, *request: Any) -> list[Any]:
        try:
            values.send(self._requests, list(request))
        except OSError:
            raise _LostError("the program has ended") from None
        except ValueError as error:
            raise _NotOursError(str(error)) from None
        reply = self._receive()
        if not isinstance(reply, list) or len(reply) < 2 or reply[0] not in ("value", "raised"):
            raise _LostError("the program sent no answer")
        if reply[0] == "raised":
            raise _exception(reply)
        return reply

    def _receive(self) -> Any:
        try:
            return values.receive(self._replies)
        except (EOFError, OSError):
            raise _LostError("the program ended before it answered") from None
        except (ValueError, RecursionError, MemoryError):
            raise _LostError("the program sent no answer") from None

    def _encode(self, value: Any) -> Any:
        try:
            return values.encode(value, self._number)
        except RecursionError:
            raise _NotOursError("the argument contains itself") from None

    def _number(self, value: object) -> int:
        if not isinstance(value, Handle):
            raise _NotOursError(f"the test hands over a {type(value).__name__}")
        return value._number

    def _decode(self, data: Any) -> Any:
        try:
            return values.decode(data, self._handle)
        except (ValueError, TypeError, RecursionError, ArithmeticError):
            raise _LostError("the program sent no value") from None

    def _handle(self, number: int) -> Handle:
        if len(self._handles) >= _MAX_HANDLES:
            raise ValueError("too many handles")
        return self._handles.setdefault(number, Handle(self, number))


def _exception(reply: list[Any]) -> Exception:
    names, message = reply[1], str(reply[2]) if len(reply) > 2 else ""
    for name in names if isinstance(names, list) else ():
        kind = getattr(builtins, str(name), None)
        if kind not in (Exception, BaseException, None) and _is_exception(kind):
            made: Exception = kind(message)
            return made
    return CandidateError(f"{names[0] if names else 'error'}: {message}")


def _is_exception(kind: Any) -> bool:
    if not isinstance(kind, type) or not issubclass(kind, Exception):
        return False
    return kind not in _AWKWARD and not issubclass(kind, ImportError)


# Made of more than a message; and a missing module of the program is no missing module of the test.
_AWKWARD = (UnicodeDecodeError, UnicodeEncodeError, UnicodeTranslateError)


def _become(mine: Any, theirs: Any) -> None:
    """Make a mutable argument equal to what the program made of its copy."""
    if type(mine) is not type(theirs):
        return
    if isinstance(mine, (list, bytearray)):
        mine[:] = theirs
    elif isinstance(mine, (dict, set, deque)):
        mine.clear()
        update: Callable[[Any], None] = getattr(mine, "update", None) or mine.extend  # type: ignore[union-attr]
        update(theirs)


def judge(tests: Sequence[str], channel: Channel, report: Callable[[list[str]], None]) -> None:
    """Run the tests in order in one namespace; report one [status, message] for each at once.

    `failed`: an assertion did not hold. `error`: anything else was raised. `lost`: the program
    ended or stopped making sense; so have all tests after it. `unsupported`: the test needs what
    a trial cannot do.
    """
    scope: dict[str, Any] = {"__name__": "__test__"}
    for test in tests:
        report(_one(test, scope, channel))


def _one(test: str, scope: dict[str, Any], channel: Channel) -> list[str]:
    try:
        tree = ast.parse(test, _FILE)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return ["unsupported", f"the test is no Python: {error}"]
    try:
        _resolve(tree, scope, channel)
        exec(compile(tree, _FILE, "exec"), scope)
    except AssertionError as error:
        return ["failed", _line(error)]
    except _LostError as error:
        return ["lost", str(error)]
    except (_NotOursError, ImportError) as error:
        return ["unsupported", str(error)[:_MESSAGE]]
    except BaseException as error:  # noqa: BLE001 (whatever the program's answer led to)
        return ["error", _line(error)]
    return ["passed", ""]


def _resolve(tree: ast.Module, scope: dict[str, Any], channel: Channel) -> None:
    """Ask the program for every name that the test uses and nobody here defines."""
    for name in sorted(_used(tree) - _bound(tree) - scope.keys() - vars(builtins).keys()):
        try:
            scope[name] = channel.ask("name", name)
        except KeyError:  # the program does not define it: the test will say so
            continue


def _used(tree: ast.Module) -> set[str]:
    return {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }


def _bound(tree: ast.Module) -> set[str]:
    """Names that the test itself gives a meaning to, in whatever scope."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            found.add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ExceptHandler) and node.name:
            found.add(node.name)
    return found


def _line(error: BaseException) -> str:
    lines = traceback.format_exception_only(type(error), error)
    return "".join(itertools.islice(lines, 5)).strip()[:_MESSAGE]
