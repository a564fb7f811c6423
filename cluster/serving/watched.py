"""An environment that tells what happens in it, and ends where a request's budgets end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cluster.serving.requests import Budgets, CallView, TurnView
from wfr.environments.base import Environment, Reward, TimeStep
from wfr.environments.canvas import Canvas
from wfr.tasks.source import Task
from wfr.trajectory import OperatorCall, StopReason, TurnKind

Tell = Callable[[str, Mapping[str, Any]], None]


class WatchedEnvironment:
    """Passes every call on to `environment`."""

    def __init__(
        self,
        environment: Environment,
        budgets: Budgets,
        tell: Tell,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`tell` gets the events `turn`, `observation` and `graph`."""
        self._environment = environment
        self._budgets = budgets
        self._tell = tell
        self._clock = clock
        self._began = 0.0
        self.stop = environment.stop
        self.turns: list[TurnView] = []
        self.calls: list[OperatorCall] = []
        self.exhausted = ""

    def reset(self, task: Task) -> TimeStep:
        """Begin an episode."""
        self._began = self._clock()
        return self._environment.reset(task)

    def turn_complete(self, text: str) -> bool:
        """Whether a stop string ends the turn."""
        return self._environment.turn_complete(text)

    async def step(self, text: str, finish_reason: str) -> TimeStep:
        """Take one whole turn; one that reaches a budget is the last."""
        index = len(self.turns)
        self._tell("turn", {"turn": index, "text": text})
        step = await self._environment.step(text, finish_reason)
        calls = [_view(call) for call in step.calls]
        now = self._clock()
        turn = TurnView(
            text=text,
            kind=str(step.turn_kind or ""),
            operator=step.operator,
            observation="" if step.last else step.messages[-1].content,
            calls=calls,
            seconds=round(now - self._began, 6),
        )
        self._began = now
        self.turns.append(turn)
        self.calls.extend(step.calls)
        seen = turn.model_dump(exclude={"text"})
        self._tell("observation", {"turn": index, **seen})
        self._tell("graph", {"turn": index, **self.graph()})
        self.exhausted = "" if step.last else self._reached()
        if not self.exhausted:
            return step
        truncated = self._environment.truncate(StopReason.OUT_OF_TURNS)
        return TimeStep.truncated(
            StopReason.OUT_OF_TURNS,
            turn_kind=truncated.turn_kind or TurnKind.MALFORMED,
            operator=step.operator,
            calls=step.calls,
        )

    def graph(self) -> dict[str, Any]:
        """The operators so far: `workflow` as plain data and `mermaid` as a picture's source."""
        if isinstance(self._environment, Canvas):
            workflow = self._environment.workflow
            return {"workflow": workflow.to_json()["nodes"], "mermaid": workflow.to_mermaid()}
        return _sequence(self.turns)

    def truncate(self, reason: StopReason) -> TimeStep:
        """End the episode from outside."""
        return self._environment.truncate(reason)

    def reward(self) -> Reward:
        """Of the finished episode; nothing is graded here."""
        return self._environment.reward()

    def answer(self) -> str:
        """The answer so far."""
        return self._environment.answer()

    def state(self) -> Mapping[str, Any]:
        """What `restore` needs."""
        return self._environment.state()

    def restore(self, task: Task, state: Mapping[str, Any]) -> None:
        """Continue an episode."""
        self._environment.restore(task, state)

    def _reached(self) -> str:
        """Name of a budget that is used up."""
        used = {
            "turns": len(self.turns),
            "operator_calls": len(self.calls),
            "usd": sum(call.cost_usd for call in self.calls),
        }
        for name, amount in used.items():
            bound = getattr(self._budgets, name)
            if bound is not None and amount >= bound:
                return name
        return ""


def _view(call: OperatorCall) -> CallView:
    return CallView(
        operator=call.operator,
        backend=call.backend,
        seconds=round(call.seconds, 6),
        cost_usd=call.cost_usd,
        tokens=call.prompt_tokens + call.completion_tokens,
        cached=call.cache_hit,
        status=call.status,
    )


def _sequence(turns: Sequence[TurnView]) -> dict[str, Any]:
    """Operators that were called one after the other."""
    called = [turn.operator for turn in turns if turn.kind == TurnKind.TOOL and turn.operator]
    nodes = [{"id": f"node_{n}", "operator": name} for n, name in enumerate(called, 1)]
    lines = ["flowchart TD", *(f'    {n["id"]}["{n["operator"]} · {n["id"]}"]' for n in nodes)]
    lines += [f"    node_{n} --> node_{n + 1}" for n in range(1, len(nodes))]
    return {"workflow": nodes, "mermaid": "\n".join(lines)}
