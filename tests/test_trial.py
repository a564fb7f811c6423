"""Tests of a program that it cannot see, change or answer for."""

from __future__ import annotations

import asyncio

import pytest

from wfr.config import SandboxConfig
from wfr.sandbox import Limits, Sandbox, Status, available

REASON = available(SandboxConfig())
pytestmark = [
    pytest.mark.engine,  # for its time
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
]


def judge(code, *tests, **options):
    async def main():
        async with Sandbox(SandboxConfig()) as sandbox:
            return await sandbox.run(code, tests=tests, **options)

    return asyncio.run(main())


ADD = "def add(a, b):\n    return a + b\n"


def test_all_pass():
    result = judge(ADD, "assert add(2, 3) == 5", "assert add('a', 'b') == 'ab'")
    assert result.status == Status.PASSED
    assert [outcome.status for outcome in result.tests] == ["passed", "passed"]
    assert result.value is None


def test_each_test_has_its_outcome():
    result = judge(
        ADD,
        "assert add(2, 3) == 6, 'two and three'",
        "add(1)",
        "assert subtract(1, 1) == 0",
        "assert add(1, 1) == 2",
    )
    assert result.status == Status.FAILED
    assert [(o.status, o.message.split(":")[0]) for o in result.tests] == [
        ("failed", "AssertionError"),
        ("error", "TypeError"),
        ("error", "NameError"),
        ("passed", ""),
    ]
    assert "two and three" in result.tests[0].message


def test_a_program_that_does_not_load():
    result = judge("def add(:", "assert add(2, 3) == 5")
    assert result.status == Status.ERROR
    assert "SyntaxError" in result.stderr
    assert result.tests == ()


def test_tests_share_names_and_see_their_own_first():
    result = judge(
        "def f(x):\n    return x\ndef helper(x):\n    return 'theirs'",
        "import math\ndef helper(x):\n    return x * 2",
        "assert helper(f(2)) == 4 and math.pi > 3",
    )
    assert result.status == Status.PASSED, result.tests


def test_humaneval_style():
    check = """
METADATA = {'author': 'x'}
def check(candidate):
    for i in range(5):
        assert candidate([i, 1]) == [1, i], i
    try:
        candidate(None)
        assert False
    except TypeError:
        pass
"""
    code = "def reverse(x):\n    return list(reversed(x))"
    assert judge(code, check, "check(reverse)").status == Status.PASSED


@pytest.mark.parametrize(
    ("code", "test"),
    [
        ("def f(x):\n    x.sort()", "data = [3, 1]\nf(data)\nassert data == [1, 3]"),
        ("def f(x):\n    x['a'] = 1", "data = {}\nf(data)\nassert data == {'a': 1}"),
        ("def f(x):\n    x[0][0] = 9", "data = [[1], [2]]\nf(data)\nassert data == [[9], [2]]"),
        ("def f(x):\n    for i in range(x): yield i", "assert list(f(3)) == [0, 1, 2]"),
        ("def f(x):\n    return map(str, x)", "assert list(f([1])) == ['1']"),
        ("def f(x):\n    return lambda y: x + y", "assert f(2)(3) == 5"),
        ("def f():\n    return float('nan')", "import math\nassert math.isnan(f())"),
        ("class A:\n    n = 1\n    def g(self):\n        return self.n", "assert A().g() == 1"),
        ("class A:\n    def g(self):\n        return 7", "a = A()\nassert a.g() == 7"),
        ("LIMIT = 5", "assert LIMIT == 5"),
        ("def f(g):\n    return g(2)\ndef h(x):\n    return x + 1", "assert f(h) == 3"),
        ("def f(x, *, y=0):\n    return x + y", "assert f(1, y=2) == 3"),
        ("def f():\n    raise ValueError('no')", "try:\n    f()\nexcept ValueError: pass"),
        ("class E(KeyError): 0\ndef f():\n    raise E(1)", "try:\n    f()\nexcept KeyError: 0"),
        ("import sys\ndef f(n):\n    return n and f(n - 1)", "assert f(5000) == 0"),
        ("import collections as c\ndef f(x):\n    return c.Counter(x)", "assert f([1]) == {1: 1}"),
        ("n = int(input())\ndef f():\n    return n", "assert f() == 4"),
    ],
)  # fmt: skip
def test_ordinary_programs_and_tests(code, test):
    result = judge(code, test, stdin="4\n")
    assert result.status == Status.PASSED, result


@pytest.mark.parametrize(
    ("code", "test", "message"),
    [
        (ADD, "assert add(lambda: 1, 2)", "hands over a function"),
        (ADD, "import numpy", "No module named 'numpy'"),
        (ADD, "assert add(", "no Python"),
        (ADD, "x = []\nx.append(x)\nadd(x, x)", "contains itself"),
    ],
)
def test_what_a_trial_cannot_do_is_nobodys_fault(code, test, message):
    result = judge(code, test)
    assert result.status == Status.UNAVAILABLE
    assert result.tests[0].status == "unsupported"
    assert message in result.tests[0].message


def test_a_module_that_the_program_lacks_is_the_programs_fault():
    result = judge("def f():\n    import numpy", "f()")
    assert result.status == Status.FAILED
    assert "No module named 'numpy'" in result.tests[0].message


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("def f():\n    while True: pass", Status.TIMEOUT),
        ("def f():\n    import os; os._exit(0)", Status.FAILED),
        ("def f():\n    return bytearray(2**31)", Status.FAILED),
        ("def f():\n    return 'x' * (50 << 20)", Status.FAILED),
        ("def f():\n    while True: print('x' * 4096)", Status.OUTPUT_LIMIT),
        ("x = bytearray(2**31)", Status.MEMORY),
        ("while True: pass", Status.TIMEOUT),
        ("import sys\nsys.exit(0)", Status.ERROR),
    ],
)
def test_limits_hold_on_both_sides_of_the_last_line(code, status):
    result = judge(code, "assert 1 == 1", "f()", limits=Limits(wall_s=1.0))
    assert result.status == status, result


def test_after_the_program_is_lost_every_call_is():
    code = "import os\ndef f(n):\n    if n == 2: os._exit(0)\n    return n"
    result = judge(code, *(f"assert f({n}) == {n}" for n in range(4)))
    assert [outcome.status for outcome in result.tests] == ["passed", "passed", "lost", "lost"]


def test_many_tests():
    result = judge(ADD, *(f"assert add({n}, 1) == {n + 1}" for n in range(2000)))
    assert result.status == Status.PASSED
    assert len(result.tests) == 2000


def test_files_and_limits():
    result = judge(
        "text = open('data/in.txt').read()", "assert text == 'é'", files={"data/in.txt": "é"}
    )
    assert result.status == Status.PASSED, result
    with pytest.raises(ValueError, match="below the program's directory"):
        judge("", files={"../x": ""})
    with pytest.raises(ValueError, match="at least 16"):
        Limits(memory_mib=1)
    small = judge("x = bytearray(100 << 20)", limits=Limits(memory_mib=64))
    assert small.status == Status.MEMORY


def test_usage_is_measured():
    result = judge("x = bytearray(64 << 20)\nfor i in range(10**6): pass")
    assert 0 < result.usage.cpu_seconds < result.usage.seconds * 2 + 1
    assert result.usage.peak_memory_mib > 64
