"""Budgets: what an episode or a run may still spend."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from contextvars import ContextVar

from wfr.backends.base import Completion
from wfr.backends.usage import Usage
from wfr.executor_config import SpendingConfig


class RunBudget:
    """What a run may spend: an estimate is reserved before a call, and settled after it."""

    def __init__(self, config: SpendingConfig) -> None:
        """Nothing is spent."""
        self._config = config
        self._reserved = Usage()
        self.spent = Usage()
        self.refused = ""

    def reserve(self, tokens: float, usd: float) -> bool:
        """Set aside what one call may take; false where it could exceed the budget.

        Where nothing is under way that could take less than was reserved for it, `refused` says
        from then on which bound was reached.
        """
        tokens_ahead = self.spent.tokens + self._reserved.prompt_tokens + tokens
        ahead = {
            "calls": (self._taken("requests") + 1, self._config.calls),
            "tokens": (tokens_ahead, self._config.tokens),
            "seconds": (self.spent.seconds, self._config.seconds),
            "usd": (self._taken("usd") + usd, self._config.usd),
        }
        for name, (amount, bound) in ahead.items():
            if bound is not None and amount > bound:
                if self._reserved.requests == 0:
                    self.refused = f"executor.budget.run.{name}={bound:g}"
                return False
        self._reserved.add(Usage(requests=1, prompt_tokens=round(tokens), usd=usd))
        return True

    def settle(self, tokens: float, usd: float, took: Usage | None = None) -> None:
        """Give back what was reserved for a call, and note what it took instead."""
        self._reserved.add(Usage(requests=-1, prompt_tokens=-round(tokens), usd=-usd))
        self.spent.add(took or Usage())

    def _taken(self, name: str) -> float:
        return float(getattr(self.spent, name) + getattr(self._reserved, name))


@dataclasses.dataclass(slots=True)
class Account:
    """What one episode has used; replies of a cache count as if they had been paid for."""

    source: str = ""
    calls: int = 0
    tokens: int = 0
    seconds: float = 0.0
    usd: float = 0.0

    def add(self, completion: Completion) -> None:
        """Charge one reply."""
        self.tokens += completion.prompt_tokens + completion.completion_tokens
        self.seconds += completion.seconds
        self.usd += completion.cost_usd + completion.saved_usd

    def exhausted(self, budget: SpendingConfig) -> str:
        """Name of a bound that has been reached, or nothing."""
        for name in ("calls", "tokens", "seconds", "usd"):
            bound = getattr(budget, name)
            if bound is not None and getattr(self, name) >= bound:
                return name
        return ""


_CURRENT: ContextVar[Account | None] = ContextVar("account", default=None)


@contextlib.contextmanager
def charged_to(source: str) -> Iterator[Account]:
    """Charge the executor calls made inside, in tasks begun inside too, to one new account."""
    account = Account(source)
    token = _CURRENT.set(account)
    try:
        yield account
    finally:
        _CURRENT.reset(token)


def current_account() -> Account:
    """The account of the episode that is running, or a fresh one outside of any."""
    return _CURRENT.get() or Account()
