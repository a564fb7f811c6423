"""What is found to be wrong with a trajectory, by name."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest

from wfr.soundness import BatchRefusedError, Refusal, fault

NAN, INF = float("nan"), float("inf")


def recorded(**changes):
    """Two turns, at tokens 1-2 and 4, of trajectory 7/1."""
    fields = {
        "group_id": "7",
        "sibling": 1,
        "turn_id": np.array([-1, 0, 0, -1, 1, -1], np.int16),
        "behaviour_logprob": np.array([0, -1, -2, 0, 0, 0], np.float32),
        "reward": 0.5,
    }
    return SimpleNamespace(**{**fields, **changes})


def logprobs(at, value):
    column = recorded().behaviour_logprob
    column[at] = value
    return {"behaviour_logprob": column}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (logprobs(2, NAN), "trajectory 7/1, turn 0: behaviour_logprob is nan at token 2"),
        (logprobs(4, -INF), "trajectory 7/1, turn 1: behaviour_logprob is -inf at token 4"),
        (logprobs(1, 0.5), "trajectory 7/1, turn 0: behaviour_logprob is 0.5 at token 1"),
        ({"reward": NAN}, "trajectory 7/1: the reward is nan"),
        ({"turn_id": np.array([-1, 1, 1, -1, 0, -1])}, "trajectory 7/1, turn 0: turn_id is out of"),
        ({"turn_id": np.full(6, -1)}, "trajectory 7/1: its 0 policy tokens must exist"),
        ({"turn_id": np.array([0, 0, 0, -1, 1, -1])}, "trajectory 7/1: its 4 policy tokens must"),
        ({}, ""),
        (logprobs(3, NAN), ""),
        (logprobs(1, 5e-5), ""),
    ],
)
def test_faults_are_named(changes, message):
    found = fault(recorded(**changes))
    assert found.startswith(message)
    assert bool(found) == bool(message)


def test_a_refusal_survives_a_process_boundary():
    error = BatchRefusedError([Refusal("1", "not_finite", "loss is nan"), Refusal("2", "x", "y")])
    copy = pickle.loads(pickle.dumps(error))
    assert copy.refusals == error.refusals
    assert str(copy) == "group 1 refused as not_finite: loss is nan (and 1 groups more)"
