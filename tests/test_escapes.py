"""Every program of the corpus is contained, ends as it must, and leaves the sandbox working."""

from __future__ import annotations

import asyncio
import socket

import pytest

from tests.escapes import CORPUS
from wfr.config import SandboxConfig
from wfr.sandbox import Sandbox, available, confinement

REASON = available(SandboxConfig())
pytestmark = [
    pytest.mark.engine,  # for its time
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
]
WALLS = {"bubblewrap": confinement.bubblewrap, "namespaces": confinement.namespaces}
TEST = "assert add(2, 3) == 5"
HASTY, PATIENT = SandboxConfig(wall_s=0.7), SandboxConfig(wall_s=30)
"""For programs that never end, and for those that a slow machine must not cut short."""


def test_the_corpus_is_large():
    assert len(CORPUS) >= 40


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """What the programs aim at: a listener, a file, a variable of the environment."""
    canary = tmp_path_factory.mktemp("outside") / "canary"
    canary.write_text("safe")
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.MonkeyPatch.context() as patch:
        patch.setenv("WFR_CANARY", "secret")
        listener.setblocking(False)
        yield listener, canary


@pytest.fixture(scope="module", params=sorted(WALLS))
def results(request, world):
    """Every program of the corpus behind one wall, each followed by an innocent one."""
    reason = confinement.why_not(WALLS[request.param])
    if reason:
        pytest.skip(f"{request.param}: {reason}")
    listener, canary = world
    wall = WALLS[request.param]()

    async def main():
        found = {}
        async with Sandbox(HASTY) as hasty, Sandbox(PATIENT) as patient:
            for name, escape in CORPUS.items():
                sandbox = hasty if "timeout" in escape.status else patient
                port = str(listener.getsockname()[1])
                code = escape.code.replace("PORT", port).replace("CANARY", str(canary))
                tests = [TEST] if escape.graded else []
                found[name] = await sandbox.run(code, tests=tests), await sandbox.run("6 * 7")
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wfr.sandbox.sandbox.choose", lambda config: wall)
        return asyncio.run(main())


@pytest.mark.parametrize("name", CORPUS)
def test_contained(results, name):
    escape, (result, after) = CORPUS[name], results[name]
    assert result.status in escape.status.split("|"), result
    if escape.value is not None:
        assert result.value == escape.value
    assert result.status != "passed" or not escape.graded
    assert after.value == "42", "the sandbox does not work any more"


def test_the_world_is_as_it_was(results, world):
    listener, canary = world
    assert canary.read_text() == "safe"
    assert [path.name for path in canary.parent.iterdir()] == ["canary"]
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_an_honest_program_passes_the_test_that_the_corpus_fails():
    async def main():
        async with Sandbox(PATIENT) as sandbox:
            return await sandbox.run("def add(a, b):\n    return a + b", tests=[TEST])

    assert asyncio.run(main()).status == "passed"
