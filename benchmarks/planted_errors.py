"""Operators that err once: declarations for `environment.pool`.

`benchmarks.planted_errors:SEARCH_MIXED_UP` in the place of `Search` answers the first of equal
calls of a task with what somebody else's call found; whoever asks the same again is told the truth.
`SEARCH_OUT_OF_ORDER` says instead that it failed, so that everybody can see it.
"""

from __future__ import annotations

import dataclasses

from wfr.operators.base import OperatorSpec, Outcome, Scope
from wfr.operators.coded import Coded, CodedOperator
from wfr.operators.library import SEARCH
from wfr.operators.meter import Meter
from wfr.operators.programmer import PROGRAMMER
from wfr.operators.values import NodeInput, NodeOutcome

OUT_OF_ORDER = "error: no answer, please ask again"


class ErringOperator:
    """An operator whose first answer to a call of a task is wrong."""

    def __init__(self, operator: CodedOperator, *, seen: bool) -> None:
        """Err in the place of `operator`; `seen`: the answer says that it is an error."""
        self._operator = operator
        self._seen = seen
        self._asked: set[tuple[str, str]] = set()
        self._other = ""
        self.parameters = f"erring {operator.parameters}"

    @property
    def spec(self) -> OperatorSpec:
        """The operator's own declaration."""
        return self._operator.spec

    async def call(self, argument: str, scope: Scope) -> Outcome:
        """Carry out; the first of equal calls of a task is told something else.

        Raises what the operator raises: nothing is planted there.
        """
        outcome = await self._operator.call(argument, scope)
        first = (scope.task_id, argument) not in self._asked
        self._asked.add((scope.task_id, argument))
        wrong = OUT_OF_ORDER if self._seen else self._other
        if outcome.text != self._other:
            self._other = outcome.text
        if not first or not wrong or wrong == outcome.text:
            return outcome
        return dataclasses.replace(outcome, text=wrong)

    async def run(self, inputs: NodeInput, scope: Scope, meter: Meter) -> NodeOutcome:
        """Carry out a node of a workflow, without an error; raises what the operator raises."""
        return await self._operator.run(inputs, scope, meter)


def _erring(operator: Coded, *, seen: bool) -> Coded:
    return Coded(
        operator.spec,
        lambda services: ErringOperator(operator.make(services), seen=seen),
        where=operator.where,
    )


SEARCH_MIXED_UP = _erring(SEARCH, seen=False)
SEARCH_OUT_OF_ORDER = _erring(SEARCH, seen=True)
PROGRAMMER_MIXED_UP = _erring(PROGRAMMER, seen=False)
