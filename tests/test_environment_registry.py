"""Environments by configuration, with the real sandbox."""

from __future__ import annotations

import asyncio

import pytest

from wfr.config import Config
from wfr.environments.canvas_router import heuristic_policy
from wfr.environments.registry import LazySandbox, make_factory
from wfr.sandbox.confinement import SandboxUnavailableError
from wfr.tasks.registry import make_source
from wfr.trajectory import StopReason, WorldFailureError

PROGRAM = "<think> years </think> <tool> Programmer: 1931 - 1904 </tool>"


def test_environments_share_one_real_sandbox(require):
    require("bubblewrap")
    config = Config.model_validate({"environment": {"prompt": "question"}})
    source = make_source(config)

    async def compute():
        factory = make_factory(config, source)
        try:
            environments = [factory() for _ in range(3)]
            for environment in environments:
                environment.reset(source.train()[0])
            return await asyncio.gather(*(e.step(PROGRAM, "stop") for e in environments))
        finally:
            await factory.close()

    steps = asyncio.run(compute())
    assert [s.messages[0].content for s in steps] == ["<info>27</info>"] * 3


def test_a_canvas_writes_tests_and_grades_programs_in_the_sandbox(require):
    require("bubblewrap")
    config = Config.model_validate(
        {
            "tasks": {"format": "mixed_world"},
            "environment": {"kind": "canvas", "finish_gate": {"code_test": True}},
        }
    )
    source = make_source(config)
    task = next(t for t in source.train() if t.skill == "program")

    async def episode():
        factory = make_factory(config, source)
        canvas = factory()
        canvas.reset(task)
        try:
            while not (step := await canvas.step(heuristic_policy(canvas.view()), "stop")).last:
                calls.update(call.operator for call in step.calls)
        finally:
            await factory.close()
        return canvas.reward()

    calls = set()
    reward = asyncio.run(episode())
    assert (reward.total, reward.metrics["correct"]) == (1.0, 1.0)
    assert {"Programmer", "Test"} <= calls


def test_search_finds_passages_of_the_source():
    config = Config.model_validate({"environment": {"search": {"style": "text"}}})
    source = make_source(config)
    document = source.corpus()[0]

    async def search():
        factory = make_factory(config, source)
        environment = factory()
        environment.reset(source.train()[0])
        step = await environment.step(
            f"<think>a</think><tool>Search: {document.title}</tool>", "stop"
        )
        await factory.close()
        return step

    assert asyncio.run(search()).messages[0].content == f"<info>{document.text}</info>"


def test_an_unknown_operator_is_refused_before_anything_runs():
    config = Config.model_validate({"environment": {"pool": ["Search", "Serch"]}})
    with pytest.raises(ValueError, match="does not know Serch"):
        make_factory(config, make_source(config))


def test_a_machine_without_a_sandbox_is_a_fault_of_the_world(monkeypatch):
    def choose(config):
        raise SandboxUnavailableError("no bubblewrap")

    monkeypatch.setattr("wfr.sandbox.sandbox.choose", choose)
    with pytest.raises(WorldFailureError, match="no bubblewrap") as caught:
        asyncio.run(LazySandbox(Config().sandbox).run("1"))
    assert caught.value.reason is StopReason.SANDBOX_UNAVAILABLE
