"""Environments by configuration: what they share is built once per process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from wfr.backends.base import Backend
from wfr.backends.retry import Retrying
from wfr.backends.rule_based import RuleBased
from wfr.config import Config, ExecutorConfig, SandboxConfig
from wfr.environments.base import Environment
from wfr.environments.think_act import ThinkAct
from wfr.operators.library import make_pool
from wfr.operators.search import Search
from wfr.sandbox import Result, Sandbox
from wfr.sandbox.confinement import SandboxUnavailableError
from wfr.tasks.source import TaskSource
from wfr.trajectory import StopReason, WorldFailureError


def make_factory(config: Config, source: TaskSource) -> EnvironmentFactory:
    """Build the shared parts; raises ValueError where the configuration names what is not there."""
    return EnvironmentFactory(config, source)


def make_backend(config: ExecutorConfig) -> Backend:
    """The executor that the configuration names, with its timeout and retries."""
    return Retrying(RuleBased(), timeout_s=config.timeout_s, retries=config.retries)


class EnvironmentFactory:
    """Makes environments that share one search index, one sandbox and one backend."""

    def __init__(self, config: Config, source: TaskSource) -> None:
        """Build the index now; the sandbox starts at its first use."""
        self._config = config.environment
        self._sandbox = LazySandbox(config.sandbox)
        self._pool = make_pool(
            config.environment.pool,
            search=Search(config.environment.search, source.corpus()),
            sandbox=self._sandbox,
            backend=make_backend(config.executor),
        )

    def __call__(self) -> Environment:
        """A new environment; any number may run at once in one event loop."""
        return ThinkAct(self._config, self._pool)

    async def close(self) -> None:
        """End the sandbox's processes."""
        await self._sandbox.close()


class LazySandbox:
    """A sandbox that starts when the first program comes."""

    def __init__(self, config: SandboxConfig) -> None:
        """Start nothing yet."""
        self._config = config
        self._starting = asyncio.Lock()
        self._sandbox: Sandbox | None = None

    async def run(self, code: str, *, stdin: str = "", tests: Sequence[str] = ()) -> Result:
        """Run one program; raises WorldFailureError where there is no sandbox to be had."""
        try:
            return await (await self._started()).run(code, stdin=stdin, tests=tests)
        except SandboxUnavailableError as error:
            raise WorldFailureError(StopReason.SANDBOX_UNAVAILABLE, str(error)) from error

    async def close(self) -> None:
        """End the sandbox's processes, if it ever started."""
        if self._sandbox is not None:
            await self._sandbox.close()

    async def _started(self) -> Sandbox:
        async with self._starting:
            if self._sandbox is None:
                self._sandbox = await Sandbox(self._config).__aenter__()
            return self._sandbox
