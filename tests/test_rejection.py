"""Rejection sampling: which episodes are kept, and that a director learns from them."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
from typer.testing import CliRunner

from cluster import cli
from learner import tiny
from learner.warmstart import demonstration_tokens, warmstart
from wfr.config import ConfigError, parse_config
from wfr.journal import Journal
from wfr.rejection import rewarded
from wfr.schema import to_batch
from wfr.tasks.demonstrations import demonstrate
from wfr.tasks.world import World
from wfr.trajectory import Group, StopReason, Trajectory, Turn, TurnKind, VersionSpan

CONFIG = parse_config(
    {
        "model": {"tiny": {"layers": 1, "hidden": 32, "intermediate": 64, "heads": 2}},
        "tasks": {"world": {"people": 40, "namesakes": 12, "cities": 12, "firms": 12}},
        "warmstart": {"steps": 80, "batch": 4, "threads": 1},
    }
)


def episodes(count):
    """Demonstrations as if a director had sampled them."""
    rng = random.Random(2)
    drawn = [demonstrate(World.draw(CONFIG.tasks.world, rng), rng) for _ in range(count)]
    tokenizer = tiny.build_tokenizer()
    made = []
    for number, (ids, learned) in enumerate(demonstration_tokens(drawn, tokenizer)):
        turn_id = np.full(len(ids), -1, np.int16)
        starts = [i for i, own in enumerate(learned) if own and not learned[i - 1]]
        turns, spans = [], []
        for turn, start in enumerate(starts):
            stop = next((i for i in range(start, len(ids)) if not learned[i]), len(ids))
            turn_id[start:stop] = turn
            turns.append(Turn(start, stop, stop, TurnKind.TOOL, "stop"))
            spans.append(VersionSpan(start, stop, 0))
        made.append(
            Trajectory(
                *("run", "task", str(number), 0),
                tokens=np.array(ids, np.int32),
                turn_id=turn_id,
                behaviour_logprob=np.zeros(len(ids), np.float32),
                version_spans=spans,
                turns=turns,
                messages=list(drawn[number].messages),
                stop_reason=StopReason.ANSWERED,
                reward=float(number),
            )
        )
    return made


def write(directory, trajectories):
    with Journal(directory / "journal" / "worker-0") as journal:
        for number, trajectory in enumerate(trajectories):
            row = dataclasses.replace(trajectory, group_id=str(number))
            journal.append(to_batch(Group(str(number), "task", 0, [row])))


def test_rewarded_episodes_are_kept_once(tmp_path):
    some = episodes(4)
    down = StopReason.BACKEND_FAILED
    failed = dataclasses.replace(some[3], stop_reason=down, reward=float("nan"))
    write(tmp_path, [*some[:3], dataclasses.replace(some[2], reward=9.0), failed])
    assert [t.reward for t in rewarded(tmp_path, 1.0)] == [1.0, 2.0]
    assert [t.reward for t in rewarded(tmp_path / "journal", 2.0)] == [2.0]
    with pytest.raises(ConfigError, match="the best of 4 has 9"):
        rewarded(tmp_path, 10.0)
    with pytest.raises(ConfigError, match="neither a run directory nor a journal"):
        rewarded(tmp_path / "nothing", 1.0)


@pytest.mark.engine  # transformers imports deepspeed where it saves
def test_a_director_learns_from_them(tmp_path):
    losses = []
    made = warmstart(CONFIG, tmp_path, lambda _, loss: losses.append(loss), episodes(6))
    assert (made.steps, len(losses)) == (80, 80)
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert (tmp_path / "model.safetensors").exists()


@pytest.mark.engine  # transformers imports deepspeed where it saves
def test_it_goes_on_from_the_director_of_the_configuration(tmp_path):
    first, second = [], []
    warmstart(CONFIG, tmp_path / "a", lambda _, loss: first.append(loss), episodes(6))
    model = CONFIG.model.model_copy(update={"path": str(tmp_path / "a")})
    further = CONFIG.model_copy(update={"model": model})
    warmstart(further, tmp_path / "b", lambda _, loss: second.append(loss), episodes(6))
    assert second[0] < 0.9 * first[0]


def test_token_ids_of_another_tokenizer_are_refused(tmp_path):
    other = parse_config({"environment": {"kind": "canvas"}}).environment
    canvas = CONFIG.model_copy(update={"environment": other})
    with pytest.raises(ConfigError, match="sampled with another tokenizer"):
        warmstart(canvas, tmp_path, lambda *_: None, episodes(2))


def test_the_command_says_what_is_wrong(tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("warmstart: {steps: 1}")
    base = ["warmstart", str(config), "--out", str(tmp_path / "o")]
    alone = CliRunner().invoke(cli.app, [*base, "--min-reward", "1"])
    assert (alone.exit_code, "belong together" in alone.output) == (2, True)
    absent = CliRunner().invoke(cli.app, [*base, "--min-reward", "1", "--from", str(tmp_path)])
    assert (absent.exit_code, "no scored episode" in absent.output) == (2, True)
