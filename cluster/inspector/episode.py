"""One trajectory as people read it: its prompt, then turn by turn what was thought, done, seen."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wfr.trajectory import Message, OperatorCall, Trajectory, Turn

_PART = re.compile(r"<(think|tool|answer)>(.*?)(?:</\1>|\Z)", re.DOTALL)


@dataclasses.dataclass(frozen=True, slots=True)
class Split:
    """The messages of an episode: those before the first turn, then each turn and what came of it.

    Attributes:
        turns: the turn's own text, and the messages after it. The text is None where a turn that
            was cut short left no message.
    """

    prompt: Sequence[Message]
    turns: Sequence[tuple[str | None, Sequence[Message]]]


def split(trajectory: Trajectory) -> Split:
    """Sort the messages by turns."""
    prompt: list[Message] = []
    turns: list[tuple[str | None, list[Message]]] = []
    for message in trajectory.messages:
        if message.role == "assistant":
            turns.append((message.content, []))
        else:
            (turns[-1][1] if turns else prompt).append(message)
    missing = len(trajectory.turns) - len(turns)
    return Split(prompt, [*turns, *[(None, []) for _ in range(missing)]])


def parts(text: str) -> list[dict[str, str]]:
    """A turn's text as `think`, `tool`, `answer` and other `text`; nothing of it is left out."""
    found: list[dict[str, str]] = []
    at = 0
    for match in _PART.finditer(text):
        _add(found, "text", text[at : match.start()])
        _add(found, match[1], match[2])
        at = match.end()
    _add(found, "text", text[at:])
    return found


def view(trajectory: Trajectory, consumed: int | None, max_turn_lag: int | None) -> dict[str, Any]:
    """Everything about a trajectory but its tokens, as plain data.

    Args:
        trajectory: of the current schema.
        consumed: the version that the step which used it trained; None: none did.
        max_turn_lag: turns that are older were masked in that step; None: none are.
    """
    told = split(trajectory)
    turns = []
    for number, turn in enumerate(trajectory.turns):
        text, observed = told.turns[number]
        old, new = _versions(trajectory, turn)
        lag = None if consumed is None or old is None else consumed - old
        turns.append(
            {
                **_plain(turn),
                "number": number,
                "parts": None if text is None else parts(text),
                "observed": [dataclasses.asdict(message) for message in observed],
                "fresh_context": _fresh(trajectory.turns, number),
                "logprob_mean": _mean(trajectory.behaviour_logprob[turn.start : turn.end]),
                "oldest": old,
                "newest": new,
                "lag": lag,
                "masked": lag is not None and max_turn_lag is not None and lag > max_turn_lag,
            }
        )
    return {
        "prompt": [dataclasses.asdict(message) for message in told.prompt],
        "turns": turns,
        "reward_parts": dict(trajectory.reward_parts),
        "calls": waterfall(trajectory.operator_calls, trajectory.started_at),
        "seconds": trajectory.finished_at - trajectory.started_at,
        "answer": trajectory.answer,
        "error": trajectory.error,
        "tokens": len(trajectory.tokens),
    }


def token_rows(
    trajectory: Trajectory, number: int, trained: np.ndarray | None = None
) -> Mapping[str, Any]:
    """The tokens of a turn and of its observation: ids, log-probs, versions, and which are its own.

    Args:
        trajectory: of the current schema.
        number: of the turn.
        trained: float32 [tokens up to the policy's last], log-probs as the learner computed them;
            from them come the importance ratios, which are None without.

    Raises:
        IndexError: there is no such turn.
    """
    turn = trajectory.turns[number]
    part = slice(turn.start, turn.observation_end)
    ratio = None
    if trained is not None:
        now = np.zeros(len(trajectory.tokens), np.float64)
        now[: len(trained)] = trained
        ratio = np.round(np.exp(now - trajectory.behaviour_logprob)[part], 4).tolist()
    return {
        "ids": trajectory.tokens[part].tolist(),
        "logprob": [round(float(value), 4) for value in trajectory.behaviour_logprob[part]],
        "version": trajectory.token_versions()[part].tolist(),
        "own": (trajectory.turn_id[part] == number).tolist(),
        "ratio": ratio,
    }


def waterfall(calls: Sequence[OperatorCall], started_at: float) -> list[dict[str, Any]]:
    """Operator calls with `begin`, in seconds since the episode began.

    Where nobody recorded when a call ended, it is placed behind the one before it, and `placed`.
    """
    rows = []
    behind = 0.0
    for call in calls:
        placed = call.ended_at <= 0
        begin = behind if placed else max(0.0, call.ended_at - call.seconds - started_at)
        behind = begin + call.seconds
        rows.append({**dataclasses.asdict(call), "begin": begin, "placed": placed})
    return rows


def _plain(turn: Turn) -> dict[str, Any]:
    return {**dataclasses.asdict(turn), "kind": turn.kind.value}


def _fresh(turns: Sequence[Turn], number: int) -> bool:
    return number > 0 and turns[number].context != turns[number - 1].context


def _versions(trajectory: Trajectory, turn: Turn) -> tuple[int | None, int | None]:
    """The oldest and the newest version of a turn; None where an unsound record has none."""
    spans = trajectory.version_spans
    found = [s.version for s in spans if s.start < turn.end and s.end > turn.start]
    return min(found, default=None), max(found, default=None)


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _add(found: list[dict[str, str]], kind: str, text: str) -> None:
    if text.strip():
        found.append({"kind": kind, "text": text})
