"""What a run says of itself at its end: `summary.json`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from wfr.ledger import Ledger


@dataclasses.dataclass(slots=True)
class Tally:
    """What a run counts besides the buffer's ledger; times are seconds.

    Attributes:
        max_lag_seen: largest lag among the groups that were trained on.
        learner_wait_seconds: the training loop waiting for a full batch.
        idle_shares: share of the training phase in which each core was idle.
    """

    steps: int = 0
    max_lag_seen: int = 0
    worker_restarts: int = 0
    learner_restarts: int = 0
    warmstart_seconds: float = 0.0
    rl_seconds: float = 0.0
    learner_wait_seconds: float = 0.0
    learner_step_seconds: float = 0.0
    publish_seconds: float = 0.0
    idle_shares: list[float] = dataclasses.field(default_factory=list)


def evaluations(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Scores before and after training."""
    return {
        "em_before": before["em"],
        "em_after": after["em"],
        "skills_before": before["skills"],
        "skills_after": after["skills"],
        "reward_before": before["reward"],
        "reward_after": after["reward"],
        "parts_before": before["parts"],
        "parts_after": after["parts"],
        "eval_tasks": after["tasks"],
    }


def tokens(ledger: Ledger, cut_short: int) -> dict[str, Any]:
    """Where the policy's tokens went; `cut_short` were under way when the run ended."""
    return {
        "tokens_generated": ledger.generated + cut_short,
        "tokens_consumed": ledger.consumed,
        "tokens_discarded": {**ledger.discarded, "run_ended": cut_short},
        "tokens_waiting": ledger.waiting,
    }


def tallied(tally: Tally) -> dict[str, Any]:
    """The tally, rounded for people."""
    return {key: _rounded(value) for key, value in dataclasses.asdict(tally).items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 3) if isinstance(value, float) else value
