"""The think-act environment of Workflow-R1: think, call an operator, read, …, answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wfr.config import ThinkActConfig
from wfr.environments import observations, prompts
from wfr.environments.base import Reward, TimeStep
from wfr.grading.base import AnswerGrader, Grade
from wfr.grading.texts import TextGrader
from wfr.operators.base import ArgumentError, Operator, Scope
from wfr.rewards import think_act as rewards
from wfr.rewards.think_act import PlayedTurn
from wfr.tasks.source import Task
from wfr.trajectory import Message, OperatorCall, StopReason, TurnKind
from wfr.turn_parser import ParsedTurn, parse_turn, turn_complete

_REJECTED = "rejected"
_UNKNOWN = "unknown"


class ThinkAct:
    """One episode at a time over a pool of operators, which may be shared.

    A malformed turn is answered by a warning and counts as an operator turn; so does a call of an
    unknown operator or without its inputs. An answer always ends the episode.
    """

    stop: tuple[str, ...] = ("</tool>", "</answer>")

    def __init__(
        self,
        config: ThinkActConfig,
        pool: Mapping[str, Operator],
        grader: AnswerGrader | None = None,
    ) -> None:
        """Offer the operators of `pool`, in its order; without a grader, texts are compared."""
        self._config = config
        self._pool = pool
        self._grader = grader or TextGrader()
        self._grade = Grade(0.0)
        self._brief = config.prompt == "question"
        self._task: Task | None = None
        self._turns: list[PlayedTurn] = []
        self._stop_reason: StopReason | None = None

    def reset(self, task: Task) -> TimeStep:
        """Begin an episode."""
        self._task, self._turns, self._stop_reason = task, [], None
        self._grade = Grade(0.0)
        if self._brief:
            return TimeStep.first(*prompts.question_prompt(task.question))
        specs = (operator.spec for operator in self._pool.values())
        calls = self._config.max_operator_turns
        return TimeStep.first(*prompts.full_prompt(task.question, specs, calls))

    def turn_complete(self, text: str) -> bool:
        """False while the turn has an open element, in which a stop string is mere text."""
        return turn_complete(text)

    async def step(self, text: str, finish_reason: str) -> TimeStep:
        """Take one whole turn; raises WorldFailureError, after which the turn was not taken.

        `finish_reason` does not matter here: a turn that a token budget cut short counts by what
        it holds.
        """
        task = self._running()
        parsed = parse_turn(text)
        if parsed.kind is TurnKind.ANSWER:
            if parsed.answer and self._config.reward == "paper":
                self._grade = await self._grader.grade(task, parsed.answer)
            self._turns.append(PlayedTurn(text, parsed))
            self._stop_reason = StopReason.ANSWERED
            return TimeStep.terminated(StopReason.ANSWERED, turn_kind=parsed.kind)
        if self._out_of_turns():
            self._turns.append(PlayedTurn(text, parsed))
            return self.truncate(StopReason.OUT_OF_TURNS)
        message, calls = await self._observe(parsed, task)
        self._turns.append(PlayedTurn(text, parsed, message.content))
        name = self._named(parsed)
        return TimeStep.mid(message, turn_kind=parsed.kind, operator=name, calls=calls)

    def truncate(self, reason: StopReason) -> TimeStep:
        """End the episode because a limit was reached after the last turn."""
        self._running()
        self._stop_reason = reason
        last = self._turns[-1].parsed if self._turns else parse_turn("")
        return TimeStep.truncated(reason, turn_kind=last.kind, operator=self._named(last))

    def reward(self) -> Reward:
        """Score the finished episode."""
        assert self._task is not None, "reward before the first reset"
        assert self._stop_reason is not None, "reward before the end of the episode"
        assert not self._stop_reason.is_world_failure, self._stop_reason
        if self._config.reward == "legacy_code":
            return rewards.legacy_code(self._turns, self._task)
        return rewards.paper(self._turns, self._grade)

    def answer(self) -> str:
        """The final answer, or the empty string."""
        return rewards.final_answer(self._turns)

    def state(self) -> Mapping[str, Any]:
        """The texts of the turns and observations, why the episode ended if it did, its grade."""
        return {
            "turns": [[turn.text, turn.observation] for turn in self._turns],
            "stop_reason": self._stop_reason,
            "grade": [self._grade.correct, dict(self._grade.metrics)],
        }

    def restore(self, task: Task, state: Mapping[str, Any]) -> None:
        """Continue the episode of `task` that `state()` described."""
        reason = state["stop_reason"]
        self._task = task
        self._stop_reason = StopReason(reason) if reason else None
        self._grade = Grade(*state["grade"])
        self._turns = [PlayedTurn(text, parse_turn(text), seen) for text, seen in state["turns"]]

    def _running(self) -> Task:
        assert self._task is not None, "step before the first reset"
        assert self._stop_reason is None, f"the episode has ended: {self._stop_reason}"
        return self._task

    def _out_of_turns(self) -> bool:
        played = len(self._turns)  # each was answered by an observation
        return played + 1 >= self._config.max_turns or played >= self._config.max_operator_turns

    def _named(self, parsed: ParsedTurn) -> str:
        """The operator for records: what the policy made up would be a label without bounds."""
        if parsed.kind is not TurnKind.TOOL:
            return ""
        return parsed.operator if parsed.operator in self._pool else _UNKNOWN

    async def _observe(
        self, parsed: ParsedTurn, task: Task
    ) -> tuple[Message, tuple[OperatorCall, ...]]:
        if parsed.kind is TurnKind.MALFORMED:
            return observations.warning(brief=self._brief), ()
        text, call = await self._call(parsed, Scope(task.id, task.corpus))
        return observations.info(text, self._config.observation_chars), (call,)

    async def _call(self, parsed: ParsedTurn, scope: Scope) -> tuple[str, OperatorCall]:
        operator = self._pool.get(parsed.operator)
        if operator is None:
            text = observations.unknown_operator(parsed.operator, self._pool, brief=self._brief)
            return text, OperatorCall(_UNKNOWN, "", 0.0, status=_REJECTED)
        try:
            outcome = await operator.call(parsed.argument, scope)
        except ArgumentError as error:
            return str(error), OperatorCall(parsed.operator, "", 0.0, status=_REJECTED)
        return outcome.text, outcome.call
