"""The heuristic router: hand-written advice on the next edit, after FlowSteer's (section 1.6).

In the released code this advice stands in every feedback, so that its results mix learning with an
expert. Here it is off unless asked for, and it is a policy of its own to compare with.
"""

from __future__ import annotations

import dataclasses

from wfr.environments.canvas_result import CanvasResult
from wfr.workflow.edit_text import edit_text
from wfr.workflow.edits import AddConditional, AddOperator, AddParallel, Edit, Finish
from wfr.workflow.graph import Workflow


@dataclasses.dataclass(frozen=True, slots=True)
class CanvasView:
    """What the router looks at: nothing that a director could not see.

    `needed` is the number of operators that finishing and the reward ask for.
    """

    workflow: Workflow
    result: CanvasResult
    problem_type: str
    has_tests: bool
    needed: int
    offered: frozenset[str]


@dataclasses.dataclass(frozen=True, slots=True)
class Advice:
    """The next edit and why."""

    edit: Edit
    reason: str

    @property
    def label(self) -> str:
        """The edit as the feedback names it: `ADD:Plan`, `FINISH`."""
        match self.edit:
            case AddOperator(operator=operator):
                return f"ADD:{operator}"
            case AddParallel(operators=operators):
                return f"ADD:parallel({','.join(operators)})"
            case AddConditional(condition=check, on_true=one, on_false=other):
                return f"ADD:conditional({check},{one or 'done'},{other or 'done'})"
        return "FINISH"


def heuristic_policy(view: CanvasView) -> str:
    """The router as a policy: the text of its next turn."""
    advice = advise(view)
    return edit_text(advice.edit, thought=advice.reason)


def advise(view: CanvasView) -> Advice:
    """Plan, solve, check, format, finish; an error is met by Revise."""
    names = {node.operator for node in view.workflow.operators}
    if view.result.error and "Revise" not in names and view.workflow.size:
        return _add(view, "Revise", "the last execution failed")
    if not names & {"Plan", "Decompose"} and not view.workflow.size:
        return _add(view, "Plan", "begin with a plan")
    if not names & {"Programmer", "Custom", "AnswerGenerate"}:
        return _solve(view)
    if not names & {"Verify", "Test", "Review"}:
        return _check(view, names)
    if "Format" not in names and "Format" in view.offered:
        return Advice(AddOperator("Format"), "the answer has to be short")
    return Advice(Finish(), "the answer is checked and short")


def _add(view: CanvasView, operator: str, reason: str) -> Advice:
    if operator in view.offered:
        return Advice(AddOperator(operator), reason)
    return _solve(view)


def _solver(view: CanvasView) -> str:
    first = "Programmer" if view.problem_type in ("math", "code") else "Custom"
    solvers = [name for name in (first, "Custom", "AnswerGenerate") if name in view.offered]
    return solvers[0] if solvers else sorted(view.offered)[0]


def _solve(view: CanvasView) -> Advice:
    solver = _solver(view)
    if view.needed > 5 and {"AnswerGenerate", "ScEnsemble"} <= view.offered:
        return Advice(AddParallel((solver, "AnswerGenerate")), "two ways to solve it")
    return Advice(AddOperator(solver), "solve the problem")


def _check(view: CanvasView, names: set[str]) -> Advice:
    parallel = len(view.workflow.operators) > len(view.workflow.nodes)
    if parallel and not names & {"ScEnsemble", "Aggregate"}:
        return _add(view, "ScEnsemble", "several answers have to become one")
    check = {"math": "Verify", "code": "Test" if view.has_tests else "Review"}.get(
        view.problem_type, "Review"
    )
    if {check, "Revise"} <= view.offered:
        return Advice(AddConditional(check, "", "Revise"), "check, and repair what is wrong")
    return Advice(Finish(), "nothing can check it")
