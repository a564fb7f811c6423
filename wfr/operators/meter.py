"""Count what the operators of a workflow spend, and stop them at the budget."""

from __future__ import annotations

import dataclasses

from wfr.trajectory import OperatorCall


@dataclasses.dataclass(frozen=True, slots=True)
class Budget:
    """The most that an episode may spend: calls, tokens (prompt and reply), seconds; None: any."""

    calls: int | None = None
    tokens: int | None = None
    seconds: float | None = None


@dataclasses.dataclass(slots=True)
class Spent:
    """What was spent: calls, tokens, seconds of execution, US dollars."""

    calls: int = 0
    tokens: int = 0
    seconds: float = 0.0
    cost_usd: float = 0.0


class BudgetSpentError(Exception):
    """No further call is allowed; `what` names the budget."""

    def __init__(self, what: str, limit: float) -> None:
        """Say which budget was spent."""
        super().__init__(f"the budget of {limit:g} {what} is spent")
        self.what = what


class Meter:
    """Counts one execution on top of what the episode spent before.

    An operator claims a call before it makes it and records it afterwards:

        meter.claim()
        ...
        meter.record(OperatorCall(...))
    """

    def __init__(self, budget: Budget | None = None, before: Spent | None = None) -> None:
        """Stop at `budget`; without one, never."""
        self._budget = budget or Budget()
        self._before = before or Spent()
        self._claimed = 0
        self.calls: list[OperatorCall] = []
        self.spent = Spent()

    def claim(self) -> None:
        """Reserve a call; raises BudgetSpentError."""
        budget, before = self._budget, self._before
        if budget.calls is not None and before.calls + self._claimed >= budget.calls:
            raise BudgetSpentError("calls", budget.calls)
        if budget.tokens is not None and before.tokens + self.spent.tokens >= budget.tokens:
            raise BudgetSpentError("tokens", budget.tokens)
        self._claimed += 1

    def record(self, call: OperatorCall) -> None:
        """Count a call that was made."""
        self.calls.append(call)
        self.spent.calls += 1
        self.spent.tokens += call.prompt_tokens + call.completion_tokens
        self.spent.cost_usd += call.cost_usd
