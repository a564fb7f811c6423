"""MBPP, full and sanitized: small programs with assertions."""

from __future__ import annotations

from wfr.tasks.formats.fields import Fields
from wfr.tasks.source import Task


def task(row: Fields) -> Task:
    """From `task_id`, `text` (sanitized: `prompt`), `test_list` and the set-up code.

    The prompt shows the first assertion, because nothing else names the function; that one is the
    public test. All of them grade.
    """
    tests = row.texts("test_list")
    imports = row.texts("test_imports", empty=True) if "test_imports" in row else ()
    setup = row.raw("test_setup_code", default="").strip()
    before = "\n".join(part for part in (*imports, setup) if part)
    text = row.text("text", "prompt")
    return Task(
        f"mbpp/{row.number('task_id')}",
        f"{text}\nYour program must pass this test:\n{tests[0]}",
        (),
        "mbpp",
        "mbpp",
        "hidden_tests",
        tests=tuple(part for part in (before, *tests) if part),
        public_tests=tuple(part for part in (before, tests[0]) if part),
    )
