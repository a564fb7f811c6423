"""Launching: a run that has lost a process goes on by itself, and not for ever."""

from __future__ import annotations

import pytest

from cluster.failures import ProcessLostError, RunFailedError
from wfr.config import parse_config

pytestmark = pytest.mark.engine  # launching imports ray


@pytest.fixture
def play(monkeypatch):
    """Play launches that end as told, with `samplers` up each; what each was asked."""

    def _play(*outcomes, restarts=2, samplers=(), **options):
        asked, left = [], list(samplers)

        def once(config, *, overwrite, resume, quiet, recording, survivors):
            asked.append((overwrite, resume))
            took.append(survivors and survivors.take())
            if survivors and (up := left.pop(0) if left else {}):
                survivors.samplers = up
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

    took = []
    _play.took = took
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


def test_samplers_that_are_up_are_taken_over_unless_it_was_the_last_attempt(play):
    lost = ProcessLostError("the buffer died")
    play(lost, lost, {"status": "done"}, samplers=[{"sampler-0": 1}, {}])
    assert play.took == [{}, {"sampler-0": 1}, None]


def test_other_failures_are_no_lost_process(play):
    result, asked = play(RunFailedError("ten tasks in a row"))
    assert (str(result), len(asked)) == ("ten tasks in a row", 1)
    assert len(play(ProcessLostError("x"), restarts=0)[1]) == 1
