"""A sweep: which runs are made, in what order, and whose samplers serve them."""

from __future__ import annotations

import asyncio
import json

import pytest

from cluster.failures import RunFailedError
from cluster.run_directory import strict
from cluster.survivors import Survivors, fit
from wfr.config import parse_config

pytestmark = pytest.mark.engine  # launching imports ray


def config(tmp_path, name, **sections):
    run = {"name": name, "dir": str(tmp_path), **sections.pop("run", {})}
    return parse_config({"run": run, "model": {"path": "somewhere"}, **sections})


class Engine:
    """A sampler that answers, and notes its end."""

    def __init__(self, name, events):
        self.name = name
        self.events = events

    async def ping(self):
        pass

    async def shutdown(self):
        self.events.append(f"{self.name} stops")

    def kill(self):
        pass


class Placing:
    """Nobody's places."""

    def close(self, keep=()):
        pass


@pytest.fixture
def play(monkeypatch):
    """Play a sweep over launches that end as told by run name; what happened, in order."""
    from cluster import sweep as module

    events = []

    def launch(given, *, survivors, overwrite, resume, quiet):
        name = given.run.name
        how = "".join(word for word, said in (("!", overwrite), ("+", resume)) if said)
        outcome = _play.outcomes.get(name, "done")
        taken = survivors.take() or {f"of-{name}": Engine(f"of-{name}", events)}
        events.append(f"{name}{how} on {','.join(taken)}")
        if isinstance(outcome, Exception):
            raise outcome
        asyncio.run(survivors.keep(taken, Placing(), 1.0, f"{name}/logs"))
        return {"name": name, "status": outcome}

    def _play(configs, **options):
        return list(module.sweep(configs, quiet=True, **options))

    monkeypatch.setattr(module, "launch", launch)
    monkeypatch.setattr(module.ray, "shutdown", lambda: events.append("ray ends"))
    _play.outcomes, _play.events = {}, events
    return _play


def written(run, status):
    """What a run leaves behind."""
    run.run_dir.mkdir(parents=True)
    (run.run_dir / "config.json").write_text(json.dumps(strict(run.model_dump(mode="json"))))
    (run.run_dir / "summary.json").write_text(json.dumps({"status": status, "em_after": 0.5}))


def test_samplers_serve_every_run_that_would_start_them_alike(tmp_path, play):
    runs = [
        config(tmp_path, "a"),
        config(tmp_path, "b", objective={"preset": "grpo"}, train={"steps": 7}),
        config(tmp_path, "c", sampler={"max_num_seqs": 3}),
        config(tmp_path, "d", sampler={"max_num_seqs": 3}, run={"seed": 5}),
    ]
    ended = play(runs)
    assert [each.summary["status"] for each in ended] == ["done"] * 4
    assert play.events == [
        *("a on of-a", "b on of-a", "of-a stops"),
        *("c on of-c", "d on of-c", "of-c stops", "ray ends"),
    ]


def test_one_that_fails_is_named_and_takes_nothing_with_it(tmp_path, play):
    play.outcomes["b"] = RunFailedError("ten tasks in a row")
    ended = play([config(tmp_path, name) for name in "abc"])
    assert [each.error for each in ended] == ["", "ten tasks in a row", ""]
    assert play.events == [
        *("a on of-a", "b on of-a", "ray ends", "c on of-c", "of-c stops", "ray ends")
    ]


def test_one_that_is_told_to_stop_ends_the_sweep(tmp_path, play):
    play.outcomes["b"] = "stopped"
    assert len(play([config(tmp_path, name) for name in "abc"])) == 2
    assert play.events[-2:] == ["of-a stops", "ray ends"]


def test_what_is_done_stays_and_what_was_interrupted_goes_on(tmp_path, play):
    runs = [config(tmp_path, name) for name in "abc"]
    written(runs[0], "done")
    written(runs[1], "stopped")
    ended = play(runs)
    assert ended[0].summary["em_after"] == 0.5
    assert play.events[:2] == ["b+ on of-b", "c on of-b"]
    play.events.clear()
    play(runs, overwrite=True)
    assert play.events[:3] == ["a! on of-a", "b! on of-a", "c! on of-a"]


def test_another_run_is_never_taken_for_this_one(tmp_path, play):
    written(config(tmp_path, "a"), "done")
    with pytest.raises(FileExistsError, match=r"another run\.name or pass --overwrite"):
        play([config(tmp_path, "a", buffer={"max_lag": 9})])


def test_who_asks_for_no_further_run_ends_the_samplers(tmp_path, play):
    from cluster.sweep import sweep

    made = sweep((config(tmp_path, name) for name in "ab"), quiet=True)
    next(made)
    made.close()
    assert play.events == ["a on of-a", "of-a stops", "ray ends"]


@pytest.mark.parametrize(
    ("sections", "alike"),
    [
        ({"objective": {"preset": "grpo"}, "buffer": {"max_lag": 0}, "run": {"seed": 2}}, True),
        ({"environment": {"max_turns": 3}, "learner": {"lr": 1e-3}}, True),
        ({"sampler": {"count": 2}}, False),
        ({"weights": {"bucket_mib": 3}}, False),
        ({"rollout": {"workers": 2}}, False),
        ({"model": {"path": "elsewhere"}}, False),
    ],
)
def test_what_an_engine_is_started_for(tmp_path, sections, alike):
    base, other = config(tmp_path, "a"), parse_config({"model": {"path": "somewhere"}} | sections)
    assert (fit(base) == fit(other)) == alike


def test_a_deterministic_run_has_its_engines_to_itself(tmp_path):
    exact = {
        "buffer": {"max_lag": 0},
        "sampler": {"max_num_seqs": 1, "prefix_cache": False},
    }
    a, b = (config(tmp_path, n, run={"deterministic": True}, **exact) for n in "ab")
    assert fit(a) != fit(b)
    assert fit(config(tmp_path, "a", **exact)) == fit(config(tmp_path, "b", **exact))


def test_the_embedded_director_knows_the_words_of_its_tasks():
    blank = parse_config({})
    assert fit(blank) != fit(parse_config({"environment": {"max_turns": 3}}))
    assert fit(blank) == fit(parse_config({"train": {"steps": 3}}))


def test_samplers_that_were_not_taken_are_still_there():
    """A run that fails before it takes them over has not lost them."""
    survivors, events = Survivors(lasting=True), []
    one = {"sampler-0": Engine("sampler-0", events)}
    asyncio.run(survivors.keep(one, Placing(), 1.0, "a/logs"))
    asyncio.run(survivors.keep({}, Placing(), 1.0, "b/logs"))
    assert (list(survivors.samplers), survivors.logs) == (["sampler-0"], "a/logs")
    asyncio.run(survivors.end())
    assert (events, survivors.placing, survivors.logs) == (["sampler-0 stops"], None, "")
