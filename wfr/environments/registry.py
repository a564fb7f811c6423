"""Environments by configuration: what they share is built once per process."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence

from wfr.backends.base import Backend
from wfr.backends.executors import Executors
from wfr.backends.hub import Hub, HubLike
from wfr.canvas_config import CanvasConfig
from wfr.config import Config, SandboxConfig, ThinkActConfig
from wfr.environments.base import Environment
from wfr.environments.canvas import Canvas
from wfr.environments.think_act import ThinkAct
from wfr.grading.base import AnswerGrader
from wfr.grading.grader import Grader
from wfr.grading.judge import JudgedGrader
from wfr.grading.maths_process import MathsProcess
from wfr.operators.library import make_nodes, make_pool
from wfr.operators.search import Index, Search
from wfr.retrieval.disk_index import open_index
from wfr.retrieval.memory_index import MemoryIndex
from wfr.sandbox import Result, Sandbox
from wfr.sandbox.confinement import SandboxUnavailableError
from wfr.search_config import SearchConfig
from wfr.tasks.source import TaskSource
from wfr.trajectory import StopReason, WorldFailureError


def make_factory(
    config: Config,
    source: TaskSource,
    hub: HubLike | None = None,
    worker: str = "worker",
    grader: AnswerGrader | None = None,
) -> EnvironmentFactory:
    """Build the shared parts; `hub` is what all workers share of the executors, none: alone.

    `grader` takes the place of the configured one.

    Raises:
        ValueError: the configuration names what is not there.
        BackendConfigError: an executor's key or file is not there.
    """
    executors = Executors(config.executor, hub or Hub(config.executor), worker)
    return EnvironmentFactory(config, source, executors, grader)


class EnvironmentFactory:
    """Makes environments that share one search index, one sandbox and one backend."""

    def __init__(
        self,
        config: Config,
        source: TaskSource,
        executors: Executors,
        grader: AnswerGrader | None = None,
    ) -> None:
        """Build the index now; the sandbox starts at its first use."""
        self._sandbox = LazySandbox(config.sandbox)
        self._maths = MathsProcess()
        self._executors = executors
        if grader is None:
            grader = Grader(self._sandbox, self._maths)
            if config.grading.judge:
                grader = JudgedGrader(grader, executors)
        self._make = _maker(config.environment, source, self._sandbox, executors, grader)

    def __call__(self) -> Environment:
        """A new environment; any number may run at once in one event loop."""
        return self._make()

    @property
    def executors(self) -> Executors:
        """Who carries out operators."""
        return self._executors

    async def close(self) -> None:
        """End the executors' connections and the processes of sandbox and grader."""
        await self._executors.close()
        await self._maths.close()
        await self._sandbox.close()


def _maker(
    config: ThinkActConfig | CanvasConfig,
    source: TaskSource,
    sandbox: LazySandbox,
    backend: Backend,
    grader: AnswerGrader,
) -> Callable[[], Environment]:
    search = Search(config.search, index_of(config.search, source), _web(config.search, backend))
    if isinstance(config, CanvasConfig):
        nodes = make_nodes(config.pool, search=search, sandbox=sandbox, backend=backend)
        return functools.partial(Canvas, config, nodes, grader)
    pool = make_pool(config.pool, search=search, sandbox=sandbox, backend=backend)
    return functools.partial(ThinkAct, config, pool, grader)


def index_of(
    config: SearchConfig, source: TaskSource, progress: Callable[[str, int], None] | None = None
) -> Index:
    """The passages that all tasks share; raises FormatError for a corpus that is none."""
    if config.corpus is None:
        return MemoryIndex(source.corpus())
    return open_index(config.corpus, config.index_dir, progress)


def _web(config: SearchConfig, backend: Backend) -> Backend | None:
    return backend if config.engine == "web" else None


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
