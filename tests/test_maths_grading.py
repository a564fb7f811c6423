"""Mathematical answers: what is equal, what is not, and what never ends."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wfr.grading import aime, boxed, choice, math_string, maths
from wfr.grading.maths_process import MathsProcess

SAME = [
    ("x = 5", "5"),
    ("-3, 1", "1, -3"),
    ("The answer is 42. Check: 6*7", "42"),
    (r"\frac{1}{2}", "0.5"),
    ("1/2", r"\frac{1}{2}"),
    (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}"),
    ("2*pi", r"2\pi"),
    ("sqrt(2)/2", r"\frac{1}{\sqrt{2}}"),
    ("2**10", "1024"),
    ("(-inf, 3]", r"(-\infty, 3]"),
    ("18.00", "18"),
    ("$18", "18"),
    ("1,000", "1000"),
    (r"\{1, 2\}", r"\{2, 1\}"),
    (r"90^\circ", "90"),
    (r"so \boxed{7}", "7"),
    (r"x=5 \text{ or } x=-5", "5, -5"),
    ("(x-1)(x+1)", "x^2-1"),
    (r"\text{(B)}", "B"),
    (r"\dfrac34", r"\frac{3}{4}"),
]
DIFFERENT = [
    ("-5", "5"),
    ("1/2", "12"),
    ("3.14", "314"),
    ("x^2+3", "23"),
    ("70.01", "70"),
    ("204", "203"),
    ("12", "1 or 2"),
    ("0.3333", "1/3"),
    ("(1, 2)", "(2, 1)"),
    ("[0, 1)", "[0, 1]"),
    ("3*pi", r"3"),
    ("", "5"),
    ("5", ""),
    ("pass", "5"),
    ("bypass", "pass"),
]


@pytest.mark.parametrize(("answer", "gold"), SAME)
def test_equal(answer, gold):
    assert maths.equal(answer, gold)


@pytest.mark.parametrize(("answer", "gold"), DIFFERENT)
def test_different(answer, gold):
    assert not maths.equal(answer, gold)


NUMBERS = st.fractions(max_denominator=50).filter(lambda value: abs(value) < 10**4)


@settings(max_examples=60, deadline=None)
@given(NUMBERS, NUMBERS, st.sampled_from(["plain", "latex", "boxed"]))
def test_rational_numbers_are_equal_when_they_are(left, right, form):
    written = {
        "plain": str(left),
        "latex": rf"\frac{{{left.numerator}}}{{{left.denominator}}}",
        "boxed": rf"Therefore \boxed{{{left}}}.",
    }[form]
    assert maths.equal(written, str(right)) == (left == right)
    assert maths.equal(written, str(left))


def test_generated_sums_agree_with_exact_arithmetic():
    """Sums written in different ways: math-verify against Python's integers."""
    for a in range(-9, 9):
        for b in range(1, 9):
            text, gold = f"{a}+{b}", str(a + b)
            assert maths.equal(text, gold), (text, gold)
            assert not maths.equal(text, str(a + b + 1))


HOSTILE = [
    "9^{9^{9^{9}}}",
    "2^{" * 200 + "2" + "}" * 200,
    "(" * 5000 + "1" + ")" * 5000,
    "\\frac{" * 500,
    "1" * 100_000,
    "\\sqrt{" * 300 + "2" + "}" * 300,
    "factorial(factorial(20))",
    "x" + "^2" * 500,
    "$" * 10_000,
    "\x00\ud800 \u202e 5",
]


@pytest.mark.engine  # for its time
def test_hostile_answers_cost_bounded_time_and_nothing_else():
    async def main():
        async with MathsProcess(timeout_s=0.3) as process:
            started = time.monotonic()
            wrong = [await process.equal(answer, "7") for answer in HOSTILE]
            seconds = time.monotonic() - started
            return wrong, seconds, await process.equal("7.0", "7")

    wrong, seconds, after = asyncio.run(main())
    assert not any(wrong)
    assert after
    assert seconds < len(HOSTILE) * 30


def test_a_cancelled_comparison_leaves_nothing_behind():
    async def main():
        async with MathsProcess(timeout_s=30) as process:
            pid = process._process.pid
            task = asyncio.create_task(process.equal("9^{9^{9^{9}}}", "7"))
            while not process._turn.locked():
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await process.equal("1/2", "0.5")
            return pid, process._process.pid

    before, after = asyncio.run(main())
    assert before != after


def test_concurrent_comparisons_do_not_mix():
    async def main():
        async with MathsProcess() as process:
            pairs = [(str(n), str(n + n % 2)) for n in range(40)]
            return await asyncio.gather(*(process.equal(*pair) for pair in pairs))

    assert asyncio.run(main()) == [n % 2 == 0 for n in range(40)]


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        (r"\boxed{5}", "5"),
        (r"\boxed{\frac{1}{2}} or \boxed{\{x\}}", r"\{x\}"),
        (r"\boxed 5$", "5"),
        (r"\fbox{3}", "3"),
        (r"\boxed{never closed", None),
        ("nothing", None),
    ],
)
def test_last_boxed(text, inside):
    assert boxed.last_boxed(text) == inside


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (r"\dfrac{1}{2}", r"\frac12"),
        (r"\frac{1}2", "1/2"),
        ("x = 5", "5"),
        (r"5\%", "5"),
        (r"90^{\circ}", "90"),
        (".5", "0.5"),
        (r"\sqrt3", r"\sqrt{3}"),
        (r"10\text{ cm}", "10"),
        (r"\left( 1, 2 \right)", "(1,2)"),
        (r"\$5", "5"),
    ],
)
def test_the_string_rule_of_math(left, right):
    assert math_string.equal(left, right)


def test_the_string_rule_knows_no_values():
    assert not math_string.equal("0.50", "0.5")
    assert not math_string.equal("2+2", "4")


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("204", 204),
        ("007", 7),
        (r"\boxed{033}", 33),
        ("12.0", 12),
        (" $5$ ", 5),
        ("1000", None),
        ("-5", None),
        ("204.5", None),
        ("1 or 2", None),
        ("the answer is 5", None),
        ("", None),
    ],
)
def test_aime(answer, number):
    assert aime.integer(answer) == number
    assert aime.correct(answer, "204") == (number == 204)


OPTIONS = {"a": "38", "b": "27.675", "c": "30", "d": "data inadequate", "e": "none of these"}


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("d", True),
        ("(D)", True),
        ("D.", True),
        ("the answer is d", True),
        ("Answer: option (d)", True),
        ("data inadequate", True),
        ("a", False),
        ("a or d", False),
        ("not d, the answer is b", False),
        ("f", False),
        ("", False),
    ],
)
def test_multiple_choice(answer, right):
    assert choice.correct(answer, "d", OPTIONS) is right
