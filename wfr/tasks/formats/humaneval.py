"""HumanEval: complete a function from its signature and docstring."""

from __future__ import annotations

import ast
import doctest

from wfr.tasks.formats.fields import Fields
from wfr.tasks.source import Task


def task(row: Fields) -> Task:
    """From `task_id`, `prompt`, `entry_point` and `test`; the docstring's examples are public."""
    prompt, name = row.raw("prompt"), row.text("entry_point")
    return Task(
        row.text("task_id"),
        f"Complete this program. Answer with the whole program.\n\n{prompt}",
        (),
        "humaneval",
        "humaneval",
        "hidden_tests",
        tests=(row.raw("test"), f"check({name})"),
        public_tests=tuple(examples(prompt)),
        meta={"prompt": prompt, "entry_point": name},
    )


def examples(prompt: str) -> list[str]:
    """Assertions from the `>>> call` examples in a prompt; those that are no value are left out."""
    try:
        functions = [
            node
            for node in ast.walk(ast.parse(f"{prompt}\n    pass\n"))
            if isinstance(node, ast.FunctionDef)
        ]
        texts = [ast.get_docstring(function) or "" for function in functions]
        found = [e for text in texts for e in doctest.DocTestParser().get_examples(text)]
    except (SyntaxError, ValueError):
        return []
    return [f"assert {e.source.strip()} == {e.want.strip()}" for e in found if _is_value(e)]


def _is_value(example: doctest.Example) -> bool:
    try:
        ast.parse(example.source.strip(), mode="eval")
        ast.literal_eval(example.want.strip())
    except (SyntaxError, ValueError):
        return False
    return True
