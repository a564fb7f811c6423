"""The think-act reward: a format term plus exact match (Workflow-R1, section 3.3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from wfr.grading.base import Grade
from wfr.grading.texts import grade_text
from wfr.rewards import legacy_think_act
from wfr.rewards.base import Reward
from wfr.tasks.source import Task
from wfr.trajectory import TurnKind
from wfr.turn_parser import ParsedTurn


@dataclasses.dataclass(frozen=True, slots=True)
class PlayedTurn:
    """One turn as it was played: its text, what the parser made of it, and what came back.

    `observation` is the whole content of the message, empty after the last turn.
    """

    text: str
    parsed: ParsedTurn
    observation: str = ""


def final_answer(turns: Sequence[PlayedTurn]) -> str:
    """The answer that ended the episode, or the empty string."""
    return turns[-1].parsed.answer if turns else ""


def paper(turns: Sequence[PlayedTurn], graded: Grade) -> Reward:
    """Format {0 correct, −0.5 a fault in some turn, −1 no answer} + 1 if the answer is right.

    `graded` is the verdict on `final_answer(turns)`.

    Reads structured turns only: nothing that an observation says, and no tag inside a thought or
    an argument, can change it. A blank answer is no answer.
    """
    answer = final_answer(turns)
    faulty = any(turn.parsed.fault for turn in turns)
    form = -1.0 if not answer else -0.5 if faulty else 0.0
    graded = graded if answer else Grade(0.0)
    return _reward(form, graded.correct, graded, turns)


def legacy_code(turns: Sequence[PlayedTurn], task: Task) -> Reward:
    """The released scorer on the decoded response; −1.5 where there is no answer.

    Raises:
        ValueError: the task's metric is none that compares texts.
    """
    return legacy_response(decoded(turns), task, turns)


def legacy_response(response: str, task: Task, turns: Sequence[PlayedTurn] = ()) -> Reward:
    """The released scorer on any decoded response; `turns` are only counted for the metrics."""
    answer = legacy_think_act.last_answer(response)
    graded = grade_text(task, answer) if answer else Grade(0.0)
    outcome = graded.correct if answer else -1.0
    return _reward(legacy_think_act.format_score(response), outcome, graded, turns)


def decoded(turns: Sequence[PlayedTurn]) -> str:
    """The response as the released code sees it: Qwen2.5's template without special tokens."""
    parts = []
    for turn in turns:
        parts.append(turn.text)
        if turn.observation:
            parts.append(
                f"user\n<tool_response>\n{turn.observation}\n</tool_response>\nassistant\n"
            )
    return "".join(parts)


def _reward(form: float, outcome: float, graded: Grade, turns: Sequence[PlayedTurn]) -> Reward:
    metrics = {
        "correct": graded.correct,
        **graded.metrics,
        "turns": float(len(turns)),
        "operator_turns": float(sum(t.parsed.kind is TurnKind.TOOL for t in turns)),
        "format_faults": float(sum(t.parsed.fault is not None for t in turns)),
    }
    return Reward(form + outcome, {"format": form, "outcome": outcome}, metrics)
