"""APPS: competition problems, with standard input or with a function's name."""

from __future__ import annotations

import json
from typing import Any

from wfr.tasks.formats.fields import Fields, identity
from wfr.tasks.source import Task

_PUBLIC = 1


def task(row: Fields) -> Task:
    """From `question` and `input_output` (an object, or JSON in text), maybe `difficulty`."""
    question = row.text("question")
    pairs = _pairs(row)
    name = pairs.get("fn_name")
    inputs, outputs = pairs["inputs"], pairs["outputs"]
    if len(inputs) != len(outputs) or not inputs:
        raise row.wrong("input_output", "as many outputs as inputs, at least one", pairs)
    both = zip(inputs, outputs, strict=True)
    tests = tuple(_call(str(name), *pair) if name else _stdin(*pair) for pair in both)
    starter = row.raw("starter_code", default="").strip()
    return Task(
        identity("apps", question),
        f"{question}\n\n{starter}".strip(),
        (),
        "apps",
        row.text("difficulty", default="apps"),
        "hidden_tests" if name else "stdin_tests",
        tests=tests,
        public_tests=tests[:_PUBLIC],
        meta={"entry_point": str(name)} if name else {},
    )


def _pairs(row: Fields) -> dict[str, Any]:
    value = row.row.get("input_output")
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise row.wrong("input_output", "JSON in text", value) from None
    if not isinstance(value, dict) or not {"inputs", "outputs"} <= value.keys():
        raise row.wrong("input_output", "an object with `inputs` and `outputs`", value)
    return value


def _stdin(given: Any, wanted: Any) -> str:
    """A test as JSON: what stands on standard input, and what must stand on standard output."""
    lines = [
        "\n".join(map(str, text)) if isinstance(text, list) else text for text in (given, wanted)
    ]
    return json.dumps({"stdin": lines[0], "stdout": lines[1]})


def _call(name: str, arguments: Any, wanted: Any) -> str:
    """A test of a return value: tuples count as lists, and a list of one may wrap the value."""
    return (
        "import json\n"
        f"_got = json.loads(json.dumps({name}(*json.loads({json.dumps(arguments)!r}))))\n"
        f"_want = json.loads({json.dumps(wanted)!r})\n"
        "assert _got == _want or [_got] == _want"
    )
