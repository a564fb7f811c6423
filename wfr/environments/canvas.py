"""The canvas environment of FlowSteer: edit a workflow, see it run, edit again, …, finish."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from wfr.canvas_config import CanvasConfig
from wfr.environments import canvas_feedback
from wfr.environments.base import Reward, TimeStep
from wfr.environments.canvas_feedback import Notice, disarm
from wfr.environments.canvas_prompts import canvas_prompt, problem_text, prompt_with_feedback
from wfr.environments.canvas_result import CanvasResult
from wfr.environments.canvas_router import CanvasView, advise
from wfr.environments.finish_gate import missing
from wfr.grading.base import AnswerGrader, Grade
from wfr.operators.base import NodeOperator, Scope
from wfr.operators.meter import Budget
from wfr.rewards.canvas import PlayedCanvas, score
from wfr.tasks.source import Task
from wfr.trajectory import Message, OperatorCall, StopReason, TurnKind
from wfr.workflow.edits import Applied, Refused
from wfr.workflow.graph import Workflow
from wfr.workflow.interpreter import Interpreter
from wfr.workflow.memory import Memory
from wfr.workflow.protocol import Finished, PromptWanted, State, Taken, take
from wfr.workflow.rules import Limits, Rules

_GATE = "finish_gate"
_RETOLD = 10
"""Turns that a director with the last feedback only is reminded of, as in the released code."""


class Canvas:
    """One episode at a time over a pool of operators, which may be shared.

    Any text is a legal turn: one that is no edit, or an edit that cannot be made, gets feedback
    with a reason code and costs the turn. A turn ends with the end-of-sequence token.
    """

    stop: tuple[str, ...] = ()

    def __init__(
        self, config: CanvasConfig, operators: Mapping[str, NodeOperator], grader: AnswerGrader
    ) -> None:
        """Offer `operators` in their order."""
        self._config = config
        self._specs = {name: operator.spec for name, operator in operators.items()}
        limits = Limits(max_nodes=config.max_nodes, max_depth=config.max_depth)
        self._rules = Rules(self._specs, limits)
        self._interpreter = Interpreter(operators, legacy_inverted=config.legacy_inverted)
        self._grader = grader
        self._begin(None)

    def _begin(self, task: Task | None) -> None:
        self._task = task
        self._state = State()
        self._memory = Memory()
        self._result = CanvasResult()
        self._grade = Grade(0.0)
        self._turns = self._refused = self._format_faults = 0
        self._told: list[str] = []
        self._last_kind = TurnKind.MALFORMED
        self._stop_reason: StopReason | None = None

    def reset(self, task: Task) -> TimeStep:
        """Begin an episode."""
        self._begin(task)
        return TimeStep.first(*self._prompt(task))

    def turn_complete(self, text: str) -> bool:
        """Always: nothing but the end of the sequence ends a turn."""
        return True

    async def step(self, text: str, finish_reason: str) -> TimeStep:
        """Take one whole turn; raises WorldFailureError, after which the turn was not taken."""
        task = self._running()
        taken = take(
            self._state,
            text,
            self._rules,
            protocol=self._config.add_protocol,
            mode=self._config.grammar,
        )
        result, calls = await self._execute(taken, task)
        # Graded now, because an episode may end between two turns. The director never sees it.
        if result is not self._result:
            self._grade = await self._grader.grade(task, _graded(task, result))
        self._state, self._result = taken.state, result
        self._turns += 1
        self._format_faults += taken.parsed.format_faults
        notice = self._notice(taken)
        self._refused += not notice.ok
        self._last_kind = _kind(taken, notice)
        if self._last_kind is TurnKind.ANSWER:
            self._stop_reason = StopReason.FINISHED
            return TimeStep.terminated(
                StopReason.FINISHED, turn_kind=TurnKind.ANSWER, operator="finish"
            )
        action = taken.parsed.edit.action if taken.parsed.edit else ""
        if self._turns >= self._config.max_turns:
            self._stop_reason = StopReason.OUT_OF_TURNS
            return TimeStep.truncated(
                self._stop_reason, turn_kind=self._last_kind, operator=action, calls=calls
            )
        feedback = self._feedback(notice)
        self._told = [*self._told, _retold(taken, notice)][-_RETOLD:]
        return self._mid(feedback, action, calls)

    def _prompt(self, task: Task) -> tuple[Message, ...]:
        return canvas_prompt(task, self._specs.values(), self._config)

    def _mid(self, feedback: Message, action: str, calls: tuple[OperatorCall, ...]) -> TimeStep:
        """The episode goes on, behind all that was said or behind the feedback alone."""
        if self._config.history == "full":
            return TimeStep.mid(feedback, turn_kind=self._last_kind, operator=action, calls=calls)
        brief = self._config.feedback == "brief"
        outline = disarm(self._state.workflow.outline()) if brief else ""
        return TimeStep.fresh_context(
            *prompt_with_feedback(self._prompt(self._running()), feedback, outline),
            turn_kind=self._last_kind,
            operator=action,
            calls=calls,
        )

    def truncate(self, reason: StopReason) -> TimeStep:
        """End the episode because a limit was reached after the last turn."""
        self._running()
        self._stop_reason = reason
        return TimeStep.truncated(reason, turn_kind=self._last_kind)

    def reward(self) -> Reward:
        """Score the finished episode by its last workflow and that workflow's last result."""
        assert self._task is not None, "reward before the first reset"
        assert self._stop_reason is not None, "reward before the end of the episode"
        assert not self._stop_reason.is_world_failure, self._stop_reason
        played = PlayedCanvas(
            workflow=self._state.workflow,
            grade=self._grade,
            turns=self._turns,
            refused=self._refused,
            format_faults=self._format_faults,
            finished=self._stop_reason is StopReason.FINISHED,
            calls=self._memory.spent.calls,
        )
        return score(played, self._specs, self._config.reward)

    def answer(self) -> str:
        """The output of the workflow, or the empty string."""
        return _graded(self._task, self._result) if self._task else ""

    @property
    def workflow(self) -> Workflow:
        """The workflow as it stands."""
        return self._state.workflow

    def view(self) -> CanvasView:
        """What a hand-written policy decides by."""
        task = self._running()
        gate, reward = self._config.finish_gate, self._config.reward
        return CanvasView(
            self._state.workflow,
            self._result,
            task.meta.get("problem_type", ""),
            bool(task.public_tests),
            max(gate.min_operators, reward.min_operators),
            frozenset(self._specs),
        )

    def state(self) -> Mapping[str, Any]:
        """Workflow, pending prompts, results of operators, and the counts."""
        return {
            "state": self._state.to_json(),
            "memory": self._memory.state(),
            "result": self._result.to_json(),
            "grade": [self._grade.correct, dict(self._grade.metrics)],
            "counts": [self._turns, self._refused, self._format_faults],
            "told": self._told,
            "last_kind": self._last_kind,
            "stop_reason": self._stop_reason,
        }

    def restore(self, task: Task, state: Mapping[str, Any]) -> None:
        """Continue the episode of `task` that `state()` described."""
        self._begin(task)
        self._state = State.from_json(state["state"])
        self._memory.restore(state["memory"])
        self._result = CanvasResult.from_json(state["result"])
        self._grade = Grade(*state["grade"])
        self._turns, self._refused, self._format_faults = state["counts"]
        self._told = list(state["told"])
        self._last_kind = TurnKind(state["last_kind"])
        reason = state["stop_reason"]
        self._stop_reason = StopReason(reason) if reason else None

    def _running(self) -> Task:
        assert self._task is not None, "step before the first reset"
        assert self._stop_reason is None, f"the episode has ended: {self._stop_reason}"
        return self._task

    async def _execute(
        self, taken: Taken, task: Task
    ) -> tuple[CanvasResult, tuple[OperatorCall, ...]]:
        workflow = taken.state.workflow
        if not taken.edited:
            return self._result, ()
        if not workflow.size:
            return CanvasResult(), ()
        config = self._config
        execution = await self._interpreter.run(
            workflow,
            problem_text(task),
            _scope(task),
            memory=self._memory,
            budget=Budget(config.episode_calls, config.episode_tokens, config.episode_seconds),
        )
        order = [node.id for node in workflow.operators]
        return CanvasResult.of(execution, order), execution.calls

    def _notice(self, taken: Taken) -> Notice:
        match taken.outcome:
            case Refused(code=code, message=message, hint=hint):
                return Notice(ok=False, message=message, code=code, hint=hint)
            case Applied(nodes=nodes, message=message, notes=notes):
                odd = notes[0] if notes else None
                return Notice(
                    ok=True,
                    message=message,
                    code=odd.code if odd else "",
                    hint=odd.hint if odd else "",
                    node=nodes[0] if nodes else "",
                )
            case PromptWanted(operator=operator, message=message):
                return Notice(ok=True, message=f"{message}: {self._description(operator)}")
            case Finished():
                return self._may_finish()

    def _description(self, operator: str) -> str:
        return self._specs[operator].description if operator in self._specs else ""

    def _may_finish(self) -> Notice:
        task = self._running()
        lacking = missing(
            self._state.workflow,
            self._specs,
            self._config.finish_gate,
            has_tests=bool(task.public_tests),
            result=self._result.answer,
        )
        if lacking:
            return Notice(
                ok=False,
                message=f"the workflow cannot be finished yet: it lacks {lacking}",
                code=_GATE,
                hint=f"add {lacking}",
            )
        return Notice(ok=True, message="finished")

    def _feedback(self, notice: Notice) -> Message:
        if self._config.router == "heuristic" and not self._state.awaiting:
            advice = advise(self.view())
            notice = _advised(notice, advice.label, advice.reason)
        if self._config.feedback == "brief":
            return canvas_feedback.brief(notice, self._result, chars=self._config.result_chars)
        spent = self._memory.spent
        forgets = self._config.history == "last_feedback"
        return canvas_feedback.full(
            notice,
            self._state.workflow,
            self._result,
            previous=self._told if forgets else (),
            round=f"{self._turns}/{self._config.max_turns}",
            spent=f"{spent.calls} calls, {spent.tokens} tokens",
            chars=self._config.result_chars,
        )


def _retold(taken: Taken, notice: Notice) -> str:
    """What came of a turn, in a few words."""
    if isinstance(taken.outcome, PromptWanted):
        return f"asked for the prompt of {taken.outcome.operator}"
    return notice.message if notice.ok else f"refused ({notice.code})"


def _advised(notice: Notice, label: str, reason: str) -> Notice:
    return dataclasses.replace(notice, next=label, reason=reason)


def _kind(taken: Taken, notice: Notice) -> TurnKind:
    if taken.parsed.code is not None:
        return TurnKind.MALFORMED
    finished = isinstance(taken.outcome, Finished) and notice.ok
    return TurnKind.ANSWER if finished else TurnKind.TOOL


_PROGRAM_METRICS = frozenset({"hidden_tests", "stdin_tests"})


def _graded(task: Task, result: CanvasResult) -> str:
    """What of a result is graded."""
    return result.program if task.metric in _PROGRAM_METRICS else result.answer


def _scope(task: Task) -> Scope:
    """What operators may know of the task; its answers and the tests that grade are not in it."""
    return Scope(task.id, task.corpus, task.public_tests, task.meta.get("entry_point", ""))
