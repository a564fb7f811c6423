"""TRL's side of the comparison: the same episodes, as far as TRL can."""

from __future__ import annotations

import asyncio
import inspect

import pytest

from benchmarks.end_to_end import LATE, rate
from benchmarks.series import CONFIG
from benchmarks.trl_side import as_text, environment, rewarded, score, settings
from wfr.config import load_config
from wfr.tasks.registry import make_source
from wfr.tasks.source import Task

TASK = Task("t", "job of Rip Fese ?", ("painter",), "made up")


def called(think, argument):
    function = {"name": "Search", "arguments": {"argument": argument}}
    call = {"type": "function", "function": function}
    return {"role": "assistant", "content": think, "tool_calls": [call]}


FOUND = {"role": "tool", "name": "Search", "content": "<info>job painter</info>"}


def answered(text):
    content = f"<think> so </think> <answer> {text} </answer>"
    return {"role": "assistant", "content": content}


@pytest.mark.parametrize(
    ("messages", "reward"),
    [
        ([called("<think> find </think>", "Rip"), FOUND, answered("painter")], 1.0),
        ([called("<think> find </think>", "Rip"), FOUND, answered("baker")], 0.0),
        ([called("", "Rip"), FOUND, answered("painter")], 0.5),  # a turn without a thought
        ([called("<think> find </think>", "Rip"), FOUND], -1.0),  # no answer
    ],
)
def test_the_reward_is_ours(messages, reward):
    assert score(messages, TASK) == reward
    assert rewarded([TASK])(completions=[messages], number=[0]) == [reward]


def test_a_turn_is_put_together_as_it_was_written():
    assert as_text(called("<think> a </think>", "Rip")) == (
        "<think> a </think><tool> Search: Rip </tool>"
    )


@pytest.mark.parametrize("pool", ["Search, Programmer", LATE])
def test_tools_are_the_operators_of_the_run(pool):
    config = load_config(CONFIG, (f"environment.pool=[{pool}]",))
    source = make_source(config)
    made = environment(config, source.corpus(), source.train())()
    made.reset(number=0)
    document = source.corpus()[0]
    text = asyncio.run(made.Search(document.title))
    assert text.startswith("<info>")
    assert document.text[:10] in text
    assert "input" in asyncio.run(made.Search(" "))
    offered = {n for n, _ in inspect.getmembers(made, inspect.ismethod) if not n.startswith("_")}
    assert offered == {"reset", "Search", "Programmer"}


def test_batches_are_as_large_as_ours():
    config = load_config(CONFIG)
    found = settings(config, 5)
    rows = found["per_device_train_batch_size"] * found["gradient_accumulation_steps"]
    assert rows == config.train.groups_per_batch * config.rollout.group_size
    assert found["num_generations"] == config.rollout.group_size


def test_a_rate_leaves_the_first_steps_out():
    assert rate([100.0, 110.0, 112.0, 114.0], 8, 2) == 4.0
