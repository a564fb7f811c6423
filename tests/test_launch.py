"""Launching: a run that has lost a process goes on by itself, and not for ever."""

from __future__ import annotations

import pytest

from cluster.failures import ProcessLostError, RunFailedError
from wfr.config import parse_config

pytestmark = pytest.mark.engine  # launching imports ray


@pytest.fixture
def play(monkeypatch):
    """Play launches that end as told; what each was asked."""

    def _play(*outcomes, restarts=2, **options):
        asked = []

        def once(config, *, overwrite, resume, quiet, recording):
            asked.append((overwrite, resume))
            outcome = outcomes[len(asked) - 1]
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        from cluster import launch as module

        monkeypatch.setattr(module, "_launch", once)
        config = parse_config({"run": {"restarts": restarts}})
        try:
            return module.launch(config, quiet=True, **options), asked
        except RunFailedError as error:
            return error, asked

    return _play


def test_it_goes_on_as_with_resume_and_never_overwrites_what_is_left(play):
    lost = ProcessLostError("the buffer died")
    result, asked = play(lost, lost, {"status": "done"}, overwrite=True)
    assert result == {"status": "done"}
    assert asked == [(True, False), (False, True), (False, True)]


def test_it_gives_up_in_the_end(play):
    lost = [ProcessLostError(f"the buffer died, {n}") for n in range(3)]
    result, asked = play(*lost)
    assert (str(result), len(asked)) == ("the buffer died, 2", 3)


def test_other_failures_are_no_lost_process(play):
    result, asked = play(RunFailedError("ten tasks in a row"))
    assert (str(result), len(asked)) == ("ten tasks in a row", 1)
    assert len(play(ProcessLostError("x"), restarts=0)[1]) == 1
