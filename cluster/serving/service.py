"""What a replica does with requests; HTTP is the business of `cluster.serving.api`."""

from __future__ import annotations

import asyncio
import contextlib
import time
import traceback
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Protocol

from cluster.serving.admission import Admission
from cluster.serving.api_keys import ApiKey
from cluster.serving.directors import Directors
from cluster.serving.errors import ServingError
from cluster.serving.flywheel import Flywheel
from cluster.serving.metrics import ServingMetrics, merged
from cluster.serving.player import Player, sound
from cluster.serving.requests import Rating, WorkflowRequest, WorkflowView
from wfr.backends.base import BackendConfigError
from wfr.config import Config
from wfr.trajectory import StopReason, Trajectory

Event = tuple[str, Mapping[str, Any]]


class RegistryLike(Protocol):
    """What replicas share; see `cluster.serving.registry.Registry`."""

    def take(self, key: ApiKey) -> Awaitable[None]:
        """Count a request."""
        ...

    def begin(self, owner: str, key: str, view: dict[str, Any]) -> Awaitable[None]:
        """A workflow begins."""
        ...

    def end(self, view: dict[str, Any]) -> Awaitable[None]:
        """It has ended."""
        ...

    def get(self, name: str, key: str) -> Awaitable[dict[str, Any]]:
        """A workflow by its id."""
        ...

    def cancel(self, name: str, key: str) -> Awaitable[dict[str, Any]]:
        """Ask for its end."""
        ...

    def cancelled(self, owner: str) -> Awaitable[list[str]]:
        """Wait for workflows that are to end."""
        ...

    def exchange(self, owner: str, text: str) -> Awaitable[dict[str, str]]:
        """Give this replica's metrics and get everybody's."""
        ...


class Service:
    """One replica."""

    def __init__(
        self,
        config: Config,
        directors: Directors,
        player: Player,
        registry: RegistryLike,
        *,
        flywheel: Flywheel | None = None,
        replica: str = "0",
        log: Callable[[str], None],
    ) -> None:
        """Answer with `directors`; `registry` is shared with other replicas."""
        serving = config.serving
        self.config = config
        self.directors = directors
        self.replica = replica
        self.metrics = ServingMetrics(replica)
        self._player = player
        self._registry = registry
        self._flywheel = flywheel
        self.log = log
        self.places = {
            kind: Admission(places, serving.queue, serving.queue_timeout_s)
            for kind, places in (
                ("workflow", serving.concurrency),
                ("completion", serving.completions),
            )
        }
        self._playing: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Heed cancellations from other replicas until cancelled."""
        while True:
            for name in await self._registry.cancelled(self.replica):
                if name in self._playing:
                    self._playing[name].cancel()

    async def share_metrics(self, every_s: float) -> None:
        """Keep the other replicas' picture of this one fresh until cancelled."""
        while True:
            await self.prometheus()
            await asyncio.sleep(every_s)

    async def prometheus(self) -> bytes:
        """Metrics of all replicas."""
        text = self.metrics.text(self.places, self.directors)
        return merged(await self._registry.exchange(self.replica, text))

    async def take(self, key: ApiKey) -> None:
        """Count a request; raises ServingError where the key has used up its limits."""
        await self._registry.take(key)

    def check(self, request: WorkflowRequest) -> None:
        """Raise ServingError (400) for what no director could be asked."""
        most, kind = self.config.serving.max_question_chars, self.config.environment.kind
        if len(request.question) > most:
            raise ServingError(400, "question_too_long", f"the question has over {most} characters")
        if request.environment not in (None, kind):
            raise ServingError(400, "unknown_environment", f"this service plays {kind} alone")
        if request.stream and request.background:
            raise ServingError(400, "contradiction", "choose one of stream and background")

    @contextlib.asynccontextmanager
    async def playing(self, request: WorkflowRequest, key: str) -> AsyncIterator[Playing]:
        """Play a workflow; whoever leaves before its end ends it.

        Raises:
            ServingError: there is no room for it.
        """
        async with self.places["workflow"].hold(), self.directors.hold() as director:
            view = WorkflowView(
                id=f"wf-{uuid.uuid4().hex}",
                created=int(time.time()),
                model=f"{self.config.serving.name}:workflow",
                policy_version=director.version,
                environment=self.config.environment.kind,
                question=request.question,
            )
            playing = Playing(view)
            await self._registry.begin(self.replica, key, view.model_dump())
            task = asyncio.create_task(self._play(request, playing, director))
            task.add_done_callback(playing.finish)  # even where it never took its first step
            self._playing[view.id] = task
            try:
                yield playing
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                del self._playing[view.id]
                await self._ended(view)

    async def get(self, name: str, key: str) -> dict[str, Any]:
        """A workflow by its id; raises ServingError (404)."""
        return await self._registry.get(name, key)

    async def cancel(self, name: str, key: str) -> dict[str, Any]:
        """Ask for the end of a workflow; raises ServingError (404)."""
        return await self._registry.cancel(name, key)

    async def rate(self, name: str, key: str, rating: Rating) -> None:
        """Keep a workflow with its reward; raises ServingError where it is not there to be kept."""
        if self._flywheel is None:
            raise ServingError(409, "not_kept", "this service journals nothing (serving.journal)")
        await self._registry.get(name, key)
        self._flywheel.rate(name, rating.reward)

    async def _play(self, request: WorkflowRequest, playing: Playing, director: Any) -> None:
        view = playing.view
        trajectory: Trajectory | None = None
        try:
            trajectory = await self._player.play(request, view, director, playing.tell)
        except BackendConfigError:
            pass
        except Exception:  # noqa: BLE001 - a fault of ours: the client gets an answer, the log the rest
            view.status, view.error = "failed", "internal error; see the service's log"
            self.log(traceback.format_exc())
        if trajectory is not None and trajectory.stop_reason.is_world_failure:
            self.log(f"{view.id}: {trajectory.stop_reason}: {trajectory.error}")
        verdict = self.directors.note(view.policy_version, sound=sound(view))
        if verdict is not None:
            self.metrics.decided(verdict)
        if self._flywheel is not None and trajectory is not None and view.status == "done":
            self._flywheel.keep(view.id, view.policy_version, trajectory)

    async def _ended(self, view: WorkflowView) -> None:
        self.metrics.ended(view)
        await self._registry.end(view.model_dump())


class Playing:
    """A workflow under way: its view, and its events as they happen."""

    def __init__(self, view: WorkflowView) -> None:
        """Nothing has happened."""
        self.view = view
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._done = asyncio.Event()

    def tell(self, kind: str, data: Mapping[str, Any]) -> None:
        """Something has happened."""
        self._events.put_nowait((kind, data))

    def finish(self, task: asyncio.Task[None]) -> None:
        """Nothing more will happen."""
        if task.cancelled():
            self.view.status, self.view.stop_reason = "cancelled", StopReason.CANCELLED.value
        self._done.set()
        self._events.put_nowait(None)

    async def wait(self) -> WorkflowView:
        """Wait for the end."""
        await self._done.wait()
        return self.view

    async def events(self) -> AsyncIterator[Event]:
        """Events up to the end, from the first on."""
        while (event := await self._events.get()) is not None:
            yield event


def failure(view: WorkflowView) -> ServingError | None:
    """What a workflow that did not come to an answer is answered with."""
    if view.status == "cancelled":
        return ServingError(409, "cancelled", f"workflow {view.id} was cancelled")
    if view.status != "failed":
        return None
    if view.stop_reason == StopReason.PROMPT_TOO_LONG:
        return ServingError(400, "prompt_too_long", view.error)
    transient = StopReason(view.stop_reason).is_transient if view.stop_reason else False
    status = 502 if view.stop_reason == StopReason.BACKEND_FAILED else 503 if transient else 500
    again = 5.0 if transient else None
    return ServingError(status, view.stop_reason or "failed", view.error, again)
