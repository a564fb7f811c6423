"""A deterministic program in place of a language model: it reads the text that it is given.

It knows nothing else: not the task, not the corpus, not the accepted answers.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping

from wfr.backends.base import Completion, OperatorRequest
from wfr.backends.fact_reader import Reading, split_question
from wfr.backends.mistakes import PLANNED, Mistakes
from wfr.backends.problem_solver import (
    arithmetic_program,
    kind_of,
    plain,
    same_answer,
    short_answer,
    solve,
    steps,
    sub_problems,
)

_UNKNOWN = "unknown"


class RuleBased:
    """The embedded backend.

    Solving operators and Revise solve the problem as they read it; several samples of one request
    differ in their mistakes only. Review and Verify compare a solution with one of their own, the
    ensembles take the majority, Plan and Decompose say what to do, Format keeps the conclusion.
    """

    name = "rule_based"

    def __init__(self, mistakes: Mistakes | None = None) -> None:
        """Make `mistakes`; none: every call goes right."""
        self._mistakes = mistakes or Mistakes()

    async def complete(self, request: OperatorRequest) -> Completion:
        """Answer one request; raises ValueError for an operator that it has no rule for."""
        started = time.perf_counter()
        rule = _RULES.get(request.operator)
        if rule is None:
            raise ValueError(
                f"backend 'rule_based' has no rule for {request.operator!r}; "
                f"it serves {', '.join(_RULES)}"
            )
        return Completion(rule(request, self._mistakes), seconds=time.perf_counter() - started)


def _reply(**tags: str) -> str:
    return "".join(f"<{tag}>{text}</{tag}>" for tag, text in tags.items())


def _thought(reading: Reading) -> str:
    missing = (f"the text lacks {reading.missing}",) if reading.missing else ()
    return "; ".join((*reading.reasons, *missing))


def _attempt(request: OperatorRequest, mistakes: Mistakes, text: str) -> Reading:
    """Solve the problem that `text` begins with; a plan in it helps."""
    factor = PLANNED if "\n1. " in text else 1.0
    return solve(text, mistakes.slip(request, kind_of(text), factor))


def _told(request: OperatorRequest, mistakes: Mistakes, text: str, answer: str) -> str:
    """The answer, or a sentence that ends with it; a program is never put in a sentence."""
    talks = kind_of(text) != "code" and mistakes.talks(request)
    return f"Looking at it closely, the answer is {answer}." if talks else answer


def _answer(request: OperatorRequest, mistakes: Mistakes, text: str) -> str:
    reading = _attempt(request, mistakes, text)
    answer = _told(request, mistakes, text, reading.answer or _UNKNOWN)
    return _reply(think=_thought(reading), answer=answer)


def _answer_generate(request: OperatorRequest, mistakes: Mistakes) -> str:
    return _answer(request, mistakes, request.inputs["content"][0])


def _custom(request: OperatorRequest, mistakes: Mistakes) -> str:
    inputs = request.inputs
    return _answer(request, mistakes, "\n".join(inputs["task"] or inputs["instruction"]))


def _programmer(request: OperatorRequest, mistakes: Mistakes) -> str:
    text = "\n".join((*request.inputs["problem"], *request.inputs["analysis"]))
    kind = kind_of(text)
    if kind == "math":
        factor = PLANNED if "\n1. " in text else 1.0
        return _reply(code=arithmetic_program(text, mistakes.slip(request, kind, factor)))
    reading = _attempt(request, mistakes, text)
    code = reading.answer if kind == "code" else f"print({(reading.answer or _UNKNOWN)!r})"
    return _reply(code=code)


def _prompt_optimizer(request: OperatorRequest, mistakes: Mistakes) -> str:
    text = request.inputs["content"][0]
    missing = solve(text).missing if kind_of(text) == "qa" else ""
    question, context = split_question(text)
    needed = f" First find {missing}." if missing else ""
    rest = f"\n{context}" if context and not missing else ""
    return _reply(think="say what has to be known", answer=f"{question}?{needed}{rest}")


def _plan(request: OperatorRequest, mistakes: Mistakes) -> str:
    return _reply(plan=_numbered(steps(request.inputs["problem"][0])), approach="step by step")


def _decompose(request: OperatorRequest, mistakes: Mistakes) -> str:
    return _reply(sub_problems=_numbered(sub_problems(request.inputs["problem"][0])))


def _numbered(lines: list[str]) -> str:
    return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 1))


def _review(request: OperatorRequest, mistakes: Mistakes) -> str:
    question, solution = request.inputs["question"][0], request.inputs["solution"][0]
    reading = _attempt(request, mistakes, question)
    because = "; ".join(reading.reasons)
    right = same_answer(solution, reading.answer)
    if not reading.answer:
        feedback = f"cannot be checked: the text lacks {reading.missing}"
    elif right:
        feedback = f"right: {because}"
    else:
        feedback = f"wrong: {because}; so it is {reading.answer}, not {solution}"
    return _reply(review_result=_bool(right or not reading.answer), feedback=feedback)


def _verify(request: OperatorRequest, mistakes: Mistakes) -> str:
    question, solution = request.inputs["question"][0], request.inputs["solution"][0]
    reading = _attempt(request, mistakes, question)
    right = same_answer(solution, reading.answer)
    return _reply(
        is_correct=_bool(right or not reading.answer),
        answer=reading.answer or short_answer(solution),
        confidence="high" if reading.answer else "low",
        verification_steps=_thought(reading),
    )


def _bool(value: bool) -> str:
    return "true" if value else "false"


def _revise(request: OperatorRequest, mistakes: Mistakes) -> str:
    question, solution = request.inputs["question"][0], request.inputs["solution"][0]
    reading = _attempt(request, mistakes, question)
    answer = _told(request, mistakes, question, reading.answer or solution)
    return _reply(think=_thought(reading), answer=answer)


def _vote(request: OperatorRequest, mistakes: Mistakes) -> str:
    solutions = request.inputs["solution"]
    chosen, count = _majority(solutions)
    return _reply(think=f"{count} of {len(solutions)} agree", answer=chosen)


def _aggregate(request: OperatorRequest, mistakes: Mistakes) -> str:
    solutions = request.inputs["solution"]
    if request.inputs.get("sub_problem"):
        return _reply(answer=solutions[-1], selection_reason="the last one is the whole problem")
    chosen, count = _majority(solutions)
    return _reply(answer=chosen, selection_reason=f"{count} of {len(solutions)} agree")


def _majority(solutions: tuple[str, ...]) -> tuple[str, int]:
    """The first of the solutions that conclude what most conclude, and how many do."""
    votes = Counter(plain(solution) for solution in solutions)
    # Counter keeps the order of first occurrence, so a tie goes to the earliest solution.
    winner, count = votes.most_common(1)[0]
    return next(solution for solution in solutions if plain(solution) == winner), count


def _format(request: OperatorRequest, mistakes: Mistakes) -> str:
    return _reply(answer=short_answer(request.inputs["solution"][0]))


def _one_shot(request: OperatorRequest, mistakes: Mistakes) -> str:
    """A workflow by the problem's type alone."""
    solver, check = _ONE_SHOT.get(request.inputs["kind"][0], _ONE_SHOT[""])
    last = "" if check == "Test" else " -> Format"
    return _reply(workflow=f"Plan -> {solver} -> {check} ? done : Revise{last}")


_ONE_SHOT: Mapping[str, tuple[str, str]] = {
    "": ("Custom", "Review"),
    "math": ("Programmer", "Verify"),
    "code": ("Programmer", "Test"),
}


_RULES: Mapping[str, Callable[[OperatorRequest, Mistakes], str]] = {
    "Plan": _plan,
    "Decompose": _decompose,
    "Programmer": _programmer,
    "Custom": _custom,
    "AnswerGenerate": _answer_generate,
    "MultiAnswerGenerate": _answer_generate,
    "PromptOptimizer": _prompt_optimizer,
    "Review": _review,
    "Verify": _verify,
    "Revise": _revise,
    "ScEnsemble": _vote,
    "MdEnsemble": _vote,
    "Aggregate": _aggregate,
    "Format": _format,
    "OneShot": _one_shot,
}
