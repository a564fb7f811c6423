"""Honest mistakes: a seeded share of an executor's calls goes wrong, each in its own way.

Whether a call goes wrong depends on what it was asked, and on nothing else: the same request fails
again, another operator, prompt or sample fails independently. So a workflow that checks, compares
and revises is worth more than one that asks once.
"""

from __future__ import annotations

import hashlib
import json
import random

from wfr.backends.base import OperatorRequest
from wfr.backends.problem_solver import Kind

FACTORS: dict[str, dict[Kind, float]] = {
    "Custom": {"qa": 1.0, "math": 1.4, "code": 1.4},
    "AnswerGenerate": {"qa": 0.8, "math": 1.2, "code": 1.6},
    "MultiAnswerGenerate": {"qa": 0.8, "math": 1.2, "code": 1.6},
    "Programmer": {"qa": 1.8, "math": 0.5, "code": 0.8},
    "Revise": {"qa": 0.5, "math": 0.5, "code": 0.5},
    "Review": {"qa": 0.6, "math": 0.6, "code": 0.8},
    "Verify": {"qa": 0.4, "math": 0.4, "code": 0.8},
}
"""How often an operator goes wrong on a kind of problem, relative to the share."""

PLANNED = 0.6
"""Factor on a solver's mistakes where a plan stands before it."""

TALKATIVE = frozenset({"Custom", "Revise"})
"""Operators that in a share of their calls answer with a sentence instead of the answer."""


class Mistakes:
    """Decides which calls go wrong."""

    def __init__(self, share: float = 0.0, seed: int = 0) -> None:
        """Let about `share` of the calls go wrong, before the factors of operator and problem."""
        self._share = share
        self._seed = seed

    def slip(
        self, request: OperatorRequest, kind: Kind, factor: float = 1.0
    ) -> random.Random | None:
        """A generator to draw the mistake from, or nothing where the call goes right."""
        rate = self._share * factor * FACTORS.get(request.operator, {}).get(kind, 0.0)
        return self._draw("slip", request, rate)

    def talks(self, request: OperatorRequest) -> bool:
        """True where a right or wrong answer comes inside a sentence."""
        rate = self._share if request.operator in TALKATIVE else 0.0
        return self._draw("talk", request, rate) is not None

    def _draw(self, what: str, request: OperatorRequest, rate: float) -> random.Random | None:
        if not rate:
            return None
        asked = [self._seed, what, request.operator, sorted(request.inputs.items()), request.sample]
        rng = random.Random(hashlib.sha256(json.dumps(asked).encode()).digest())
        return rng if rng.random() < min(rate, 0.95) else None
