"""A program that a model wrote, run to its last line or to what it raises."""

from __future__ import annotations

import ast
import linecache
import sys
import traceback
import types
from typing import Any

_FILE = "<program>"
_RECURSION = 10_000  # competition programs recurse deeply and do not always say so


class _Outcome:
    """Turns whatever the program raises into one letter for the report, and prints it."""

    letter = b"E"

    def __enter__(self) -> _Outcome:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> bool:
        if kind is None:
            return False
        self.letter = b"M" if issubclass(kind, MemoryError) else b"E"
        if error is not None:
            traceback.print_exception(kind, error, _below(trace), limit=-20)
        return True


def _below(trace: types.TracebackType | None) -> types.TracebackType | None:
    """The part of a traceback that lies in the program."""
    while trace is not None and trace.tb_frame.f_code.co_filename != _FILE:
        trace = trace.tb_next
    return trace


def execute(code: str) -> tuple[bytes, str, dict[str, Any]]:
    """Run the program in a fresh `__main__`.

    Returns:
        One letter, the repr of its last expression, and the names that it defined.
    """
    main_module = types.ModuleType("__main__")
    sys.modules["__main__"] = main_module
    sys.setrecursionlimit(_RECURSION)
    sys.argv = [_FILE]
    linecache.cache[_FILE] = (len(code), None, code.splitlines(keepends=True), _FILE)
    value = None
    with _Outcome() as outcome:
        value = _evaluate(code, main_module.__dict__)
        sys.stdout.flush()
        outcome.letter = b"P" if value is None else b"V"
    with _Outcome():
        sys.stdout.flush()
        sys.stderr.flush()
    return outcome.letter, value or "", main_module.__dict__


def _evaluate(code: str, scope: dict[str, Any]) -> str | None:
    tree = ast.parse(code, _FILE)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, _FILE, "exec"), scope)
    if not isinstance(last, ast.Expr):
        return None
    value = eval(compile(ast.Expression(last.value), _FILE, "eval"), scope)
    return None if value is None else repr(value)
