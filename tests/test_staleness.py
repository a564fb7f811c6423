import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfr import staleness
from wfr.trajectory import StopReason, Trajectory, Turn, TurnKind, VersionSpan


def test_lag_is_counted_from_the_oldest_token_of_each_turn():
    """Tokens 2-6 are turn 0 (versions 3, 3, 4, 4), tokens 8-10 are turn 1 (version 5)."""
    turns = [Turn(2, 6, 8, TurnKind.TOOL, "stop"), Turn(8, 10, 10, TurnKind.ANSWER, "stop")]
    row = Trajectory(
        *("run", "task", "g", 0),
        tokens=np.zeros(10, np.int32),
        turn_id=np.array([-1, -1, 0, 0, 0, 0, -1, -1, 1, 1], np.int16),
        behaviour_logprob=np.zeros(10, np.float32),
        version_spans=[VersionSpan(2, 4, 3), VersionSpan(4, 6, 4), VersionSpan(8, 10, 5)],
        turns=turns,
        messages=[],
        stop_reason=StopReason.ANSWERED,
    )
    assert list(staleness.turn_lags(row, 6)) == [3, 1]
    with pytest.raises(ValueError, match="version 4 consumes tokens of version 5"):
        list(staleness.turn_lags(row, 4))


def inequality(deadlines: list[int], version: int, size: int) -> bool:
    """Inequality (1) as it is written."""
    counts = Counter(deadlines)
    return all(
        sum(n for limit, n in counts.items() if limit <= version + j) <= (j + 1) * size
        for j in range(-len(deadlines) - 10, len(deadlines) + 10)
        if j >= 0
    ) and all(limit >= version for limit in deadlines)


def schedule_exists(deadlines: list[int], version: int, size: int) -> bool:
    """Try every order in which batches could be filled."""
    return any(
        all(version + place // size <= limit for place, limit in enumerate(order))
        for order in itertools.permutations(deadlines)
    )


deadlines = st.lists(st.integers(0, 5), max_size=6).map(sorted)


@given(deadlines, st.integers(0, 4), st.integers(1, 3))
def test_safe_means_that_every_deadline_can_be_met(limits, version, size):
    safe = staleness.is_safe(Counter(limits), version, size)
    assert safe == inequality(limits, version, size) == schedule_exists(limits, version, size)


def test_slots_are_one_batch_per_step_of_lag():
    assert [staleness.slots(lag, 16) for lag in (0, 1, 4)] == [16, 32, 80]
