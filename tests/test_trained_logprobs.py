"""Log-probs that the learner keeps for the inspector: found again, bounded, never in the way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfr.learner_config import LogprobsConfig
from wfr.trained_logprobs import TrainedLogprobs, trained_logprobs

EVERY = LogprobsConfig(every=1)
logps = st.lists(st.floats(-50, 0, width=32), min_size=1, max_size=20)


def values(*numbers):
    return np.array(numbers, np.float32)


@given(
    batches=st.lists(st.lists(logps, min_size=1, max_size=4), max_size=4), ranks=st.integers(1, 3)
)
def test_what_any_rank_kept_is_found_by_name(tmp_path_factory, batches, ranks):
    run = tmp_path_factory.mktemp("run")
    writers = [TrainedLogprobs(run, rank, EVERY) for rank in range(ranks)]
    for number, rows in enumerate(batches):
        names = [f"{number}/{sibling}" for sibling in range(len(rows))]
        flat = np.concatenate([values(*row) for row in rows])
        writers[number % ranks].add(names, [len(row) for row in rows], flat)
    for writer in writers:
        writer.write(7)
    for number, rows in enumerate(batches):
        for sibling, row in enumerate(rows):
            found = trained_logprobs(run, 7, f"{number}/{sibling}")
            assert found.dtype == np.float32
            assert np.array_equal(found, values(*row))
    assert trained_logprobs(run, 7, "none") is None
    assert trained_logprobs(run, 8, "0/0") is None


def test_a_step_holds_its_own_alone(tmp_path):
    writer = TrainedLogprobs(tmp_path, 0, EVERY)
    writer.add(["a/0"], [1], values(-1))
    writer.write(1)
    writer.add(["b/0"], [1], values(-2))
    writer.write(2)
    assert trained_logprobs(tmp_path, 2, "a/0") is None
    writer.add(["a/0"], [1], values(-3))  # version 1 again, after a restart
    writer.write(1)
    assert trained_logprobs(tmp_path, 1, "a/0") == [-3]


def test_which_steps_are_kept(tmp_path):
    every = {n: TrainedLogprobs(tmp_path, 0, LogprobsConfig(every=n)).wanted for n in (0, 1, 3)}
    assert [[v for v in range(7) if wanted(v)] for wanted in every.values()] == [
        [],
        [0, 1, 2, 3, 4, 5, 6],
        [0, 3, 6],
    ]
    assert not list(tmp_path.iterdir())


def test_the_oldest_make_room_on_each_rank(tmp_path):
    small = LogprobsConfig(every=1, mib=1)
    one, other = (TrainedLogprobs(tmp_path, rank, small) for rank in (0, 1))
    half = np.zeros(1 << 17, np.float32)  # half a MiB and some bytes more
    other.add(["o/0"], [1], values(-1))
    other.write(0)
    for version in range(3):
        one.add([f"{version}/0"], [len(half)], half)
        one.write(version)
    kept = [trained_logprobs(tmp_path, version, f"{version}/0") is not None for version in range(3)]
    assert kept == [False, False, True]
    assert trained_logprobs(tmp_path, 0, "o/0") == [-1]
    huge = np.zeros(1 << 19, np.float32)
    one.add(["3/0"], [len(huge)], huge)
    one.write(3)
    assert trained_logprobs(tmp_path, 3, "3/0") is not None, "the newest stays, however large"


@pytest.mark.parametrize("damage", [b"", b"ARROW1", b"no arrow at all" * 100])
def test_a_damaged_record_is_none(tmp_path, damage):
    writer = TrainedLogprobs(tmp_path, 0, EVERY)
    writer.add(["a/0"], [1], values(-1))
    writer.write(1)
    (path,) = (tmp_path / "logprobs").iterdir()
    path.write_bytes(damage)
    assert trained_logprobs(tmp_path, 1, "a/0") is None


def test_a_disk_that_takes_nothing_costs_the_record_alone(tmp_path):
    (tmp_path / "logprobs").write_text("a file where the directory should be")
    writer = TrainedLogprobs(tmp_path, 0, EVERY)
    writer.add(["a/0"], [1], values(-1))
    writer.write(1)
    assert trained_logprobs(tmp_path, 1, "a/0") is None
