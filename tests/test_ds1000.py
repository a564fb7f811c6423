"""DS-1000's rows, of the documented shape: run in their own context, in the real sandbox."""

from __future__ import annotations

import asyncio

import pytest

from wfr.config import SandboxConfig
from wfr.grading.grader import Grader
from wfr.grading.maths_process import MathsProcess
from wfr.sandbox import Sandbox, available
from wfr.tasks.source import Task
from wfr.trajectory import WorldFailureError

CONFIG = SandboxConfig(wall_s=20, memory_mib=4096, packages=True)
REASON = available(CONFIG)
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

CONTEXT = '''
import numpy as np
import copy


def generate_test_case(test_case_id):
    def generate_ans(data):
        return data.cumsum()

    test_input = np.array([1, 2, 3, 4]) if test_case_id == 1 else np.arange(5)
    return test_input, generate_ans(copy.deepcopy(test_input))


def exec_test(result, ans):
    try:
        np.testing.assert_array_equal(result, ans)
        return 1
    except:
        return 0


exec_context = r"""
import numpy as np
a = test_input
[insert]
result = b
"""


def test_execution(solution: str):
    code = exec_context.replace("[insert]", solution)
    for i in range(2):
        test_input, expected_result = generate_test_case(i + 1)
        test_env = {"test_input": test_input}
        exec(code, test_env)
        assert exec_test(test_env["result"], expected_result)


def test_string(solution: str):
    assert "for" not in solution
'''
TASK = Task("ds1000/1", "sums of a, in b", (), "ds1000", metric="ds1000", tests=(CONTEXT,))


def grade(*programs, task=TASK, config=CONFIG):
    async def main():
        async with Sandbox(config) as sandbox:
            grader = Grader(sandbox, MathsProcess())
            return [(await grader.grade(task, program)).correct for program in programs]

    return asyncio.run(main())


def test_right_wrong_and_dishonest_programs():
    right = "b = a.cumsum()"
    wrong = [
        "b = a",
        "b = a.cumsum(",
        "raise KeyError",
        "pass",
        "b = 1 / 0",
    ]
    forged = ["import os; os._exit(0)"]
    forged += ["raise SystemExit(0)", "b = a.cumsum()\nfor _ in (): pass", "print('passed'); b = a"]
    assert grade(right, *wrong, *forged) == [1.0] + [0.0] * 9


def test_a_row_whose_package_is_not_there_is_not_graded():
    context = CONTEXT.replace("import copy", "import copy, no_such_package_here")
    with pytest.raises(WorldFailureError, match=r"needs no_such_package_here, .*sandbox\.packages"):
        grade("b = a", task=Task("t", "q", (), "s", metric="ds1000", tests=(context,)))


def test_without_packages_programs_see_none():
    with pytest.raises(WorldFailureError, match="needs numpy"):
        grade("b = a", config=SandboxConfig(wall_s=20))
