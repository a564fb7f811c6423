"""The grader: programs by hidden tests, maths by value, everything else by text."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfr.config import SandboxConfig
from wfr.grading.base import Grade
from wfr.grading.grader import Grader, known_metrics
from wfr.grading.programs import pass_at_k, same_output
from wfr.sandbox import Sandbox, available
from wfr.tasks.files import load_tasks
from wfr.tasks.source import Task
from wfr.trajectory import WorldFailureError

SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "data"
REASON = available(SandboxConfig())
sandboxed = pytest.mark.skipif(REASON is not None, reason=str(REASON))


class Maths:
    """Compares by text, and counts."""

    def __init__(self):
        self.asked = 0

    async def equal(self, answer, gold):
        self.asked += 1
        return answer == gold


def grade_all(pairs, config=SandboxConfig(wall_s=20)):  # noqa: B008 (never changed)
    async def main():
        async with Sandbox(config) as sandbox:
            grader = Grader(sandbox, Maths())
            return [await grader.grade(task, answer) for task, answer in pairs]

    return asyncio.run(main())


def program(*tests, metric="hidden_tests"):
    return Task("p", "q", (), "test", metric=metric, tests=tests)


@sandboxed
def test_hidden_tests_and_their_share():
    task = program("assert f(1) == 2", "assert f(2) == 3")
    right, half, wrong, blank = grade_all(
        [
            (task, "def f(x):\n    return x + 1"),
            (task, "def f(x):\n    return 2"),
            (task, "pass"),
            (task, " "),
        ]
    )
    assert (right.correct, right.metrics) == (1.0, {"tests_passed": 1.0})
    assert (half.correct, half.metrics) == (0.0, {"tests_passed": 0.5})
    assert wrong.correct == blank.correct == 0.0


FOOLS = {
    "prints the verdict and leaves": "print('{\"passed\": true}')\nimport os\nos._exit(0)",
    "always equal": "class Y:\n    def __eq__(s, o): return True\ndef f(x): return Y()",
    "says pass": "def f(x): pass  # bypass",
    "quits early": "raise SystemExit(0)",
}


@sandboxed
@pytest.mark.parametrize("fool", FOOLS)
def test_what_fooled_the_released_grader_is_wrong(fool):
    (graded,) = grade_all([(program("assert f(1) == 2"), FOOLS[fool])])
    assert graded.correct == 0.0


REFUSED_ELSEWHERE = {
    "a constant first": "LIMIT = 2\ndef f(x): return LIMIT",
    "a class first": "class A:\n    n = 2\ndef f(x): return A.n",
    "imports": "import os, sys, math, subprocess\ndef f(x): return int(math.sqrt(4))",
    "deep recursion": "def g(n): return n and g(n - 1)\ndef f(x): return g(5000) + 2",
    "a word in a comment": "# from socket import everything\ndef f(x): return 2",
    "reads input": "n = input()\ndef f(x): return 2",
}


@sandboxed
@pytest.mark.parametrize("kind", [k for k in REFUSED_ELSEWHERE if k != "reads input"])
def test_what_the_released_grader_refused_is_right(kind):
    task = program("assert f(1) == 2, 'with a message'")
    (graded,) = grade_all([(task, REFUSED_ELSEWHERE[kind])])
    assert graded.correct == 1.0


@sandboxed
def test_standard_input_and_output():
    tests = [json.dumps({"stdin": f"{n}\n", "stdout": f"{n * n}\n"}) for n in range(3)]
    task = program(*tests, metric="stdin_tests")
    right, late, wrong = grade_all(
        [
            (task, "print(int(input()) ** 2)"),
            (task, "n = int(input())\nprint(n * n if n < 2 else 'no')"),
            (task, "print(1)"),
        ]
    )
    assert right.correct == 1.0
    assert (late.correct, late.metrics["tests_passed"]) == (0.0, pytest.approx(2 / 3))
    assert wrong.correct == 0.0


@sandboxed
def test_a_test_that_nobody_can_run_is_no_fault_of_the_program():
    with pytest.raises(WorldFailureError, match=r"'p' cannot be run: .*numpy"):
        grade_all([(program("import numpy"), "x = 1")])


@sandboxed
@pytest.mark.parametrize(
    ("format", "name"), [("humaneval", "humaneval/sample.jsonl.gz"), ("mbpp", "mbpp/sample.jsonl")]
)
def test_gold_programs_pass_and_blank_ones_do_not(format, name):
    path = SAMPLES / name
    if not path.exists():
        pytest.skip(f"the public sample {name} is not beside this checkout")
    data = path.read_bytes()
    lines = (gzip.decompress(data) if name.endswith(".gz") else data).splitlines()
    golds = {}
    for row in map(json.loads, lines):
        key = row["task_id"] if format == "humaneval" else f"mbpp/{row['task_id']}"
        golds[key] = row["code"] if "code" in row else row["prompt"] + row["canonical_solution"]
    tasks, _ = load_tasks(format, path)
    graded = grade_all([(task, golds[task.id]) for task in tasks])
    assert [task.id for task, g in zip(tasks, graded, strict=True) if g.correct != 1.0] == []
    assert not any(g.correct for g in grade_all([(task, "x = 1") for task in tasks[:8]]))


def test_costly_verdicts_are_kept_and_cheap_ones_need_no_process():
    maths = Maths()
    grader = Grader(runner=None, maths=maths)
    task = Task("m", "q", ("5",), "test", metric="math")

    async def main():
        first = await grader.grade(task, "5")
        again = await grader.grade(task, "5")
        blank = await grader.grade(task, "")
        text = await grader.grade(Task("t", "q", ("x",), "test"), "X.")
        return first, again, blank, text

    first, again, blank, text = asyncio.run(main())
    assert first == again == Grade(1.0, {"string": 1.0})
    assert maths.asked == 1
    assert (blank.correct, text.correct) == (0.0, 1.0)


def test_an_unknown_metric_is_named():
    with pytest.raises(ValueError, match=r"'bleu'; known: aime, choice"):
        asyncio.run(Grader(None, Maths()).grade(Task("t", "q", (), "test", metric="bleu"), "x"))
    assert len(known_metrics()) == 13


@pytest.mark.parametrize(
    ("printed", "wanted", "same"),
    [
        ("1\n2\n", "1\n2", True),
        ("1 \n\n 2", "1\n2", True),
        ("0.3333333", "0.33333331", True),
        ("0.33", "0.3333", False),
        ("1000000", "1000001", False),
        ("1\n2", "1 2", False),
        ("nan", "1.0", False),
        ("YES", "yes", False),
        ("", "", True),
    ],
)
def test_output_is_compared_line_by_line(printed, wanted, same):
    assert same_output(printed, wanted) is same


@given(
    st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n)))
)
def test_pass_at_k_is_the_share_of_draws_with_a_right_one(numbers):
    """Against all draws of k samples, one by one."""
    n, c, k = numbers
    draws = list(itertools.combinations(range(n), k))
    lucky = sum(any(sample < c for sample in draw) for draw in draws)
    assert pass_at_k(n, c, k) == pytest.approx(lucky / len(draws))


@pytest.mark.parametrize("numbers", [(3, 1, 4), (3, 4, 1), (3, -1, 1), (3, 1, 0)])
def test_impossible_counts_are_refused(numbers):
    with pytest.raises(ValueError, match="impossible"):
        pass_at_k(*numbers)
