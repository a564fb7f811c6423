"""Plays one workflow for a request."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import time
import zlib
from collections.abc import Callable
from typing import Any

from actors.rollout import EpisodeId, Limits, RendererLike, Rollout
from cluster.serving.directors import DirectorLike
from cluster.serving.neutral import Neutral
from cluster.serving.requests import Tokens, TurnView, WorkflowRequest, WorkflowView
from cluster.serving.watched import Tell, WatchedEnvironment
from wfr.backends.base import BackendConfigError
from wfr.backends.spending import charged_to
from wfr.config import Config
from wfr.environments.base import Environment
from wfr.grading.base import Gradable, Grade
from wfr.protocols import PeerLostError, Sample, SamplingRequest
from wfr.tasks.source import Document, Task
from wfr.trajectory import StopReason, Trajectory, TurnKind, WorldFailureError

SOURCE = "served"
"""Source of the tasks that clients bring."""
OUT_OF_TIME = "out_of_time"


class Ungraded:
    """The grader where nobody knows the answer."""

    async def grade(self, task: Gradable, answer: str) -> Grade:
        """Neither right nor wrong."""
        return Grade(0.0)


class Player:
    """Shared by all requests of a replica."""

    def __init__(
        self,
        config: Config,
        make_environment: Callable[[], Environment],
        renderer: RendererLike,
        neutral: Neutral,
    ) -> None:
        """Play in environments of `make_environment`, under the limits of `config`."""
        self._config = config
        self._make_environment = make_environment
        self._renderer = renderer
        self._neutral = neutral

    async def play(
        self, request: WorkflowRequest, view: WorkflowView, director: DirectorLike, tell: Tell
    ) -> Trajectory | None:
        """Play to the end and keep `view` up to date.

        Returns:
            What could be trained on; None where time ran out.

        Raises:
            BackendConfigError: no workflow can be played with this executor.
        """
        environment = WatchedEnvironment(self._make_environment(), request.budgets, tell)
        view.turns = environment.turns
        rollout = Rollout(
            environment,
            self._renderer,
            self._sampler(request, view, director, environment, tell),
            self._limits(request),
        )
        seconds = self._config.serving.workflow_timeout_s
        seconds = min(seconds, request.budgets.seconds or seconds)
        began = time.monotonic()
        trajectory = None
        try:
            async with asyncio.timeout(seconds):
                with charged_to(SOURCE):
                    task = self._task(view.id, request)
                    trajectory = await rollout.run(task, EpisodeId(SOURCE, view.id, 0))
        except TimeoutError:
            view.status, view.stop_reason = "done", OUT_OF_TIME
            view.answer = environment.answer()
        except BackendConfigError as error:
            view.status, view.error = "failed", str(error)
            raise
        finally:
            view.seconds = round(time.monotonic() - began, 6)
            view.operator_calls = len(environment.calls)
            view.cost_usd = sum(call.cost_usd for call in environment.calls)
            graph = environment.graph()
            view.workflow, view.mermaid = graph["workflow"], graph["mermaid"]
        if trajectory is not None:
            _conclude(view, trajectory, environment.exhausted)
        return trajectory

    def _sampler(
        self,
        request: WorkflowRequest,
        view: WorkflowView,
        director: DirectorLike,
        environment: WatchedEnvironment,
        tell: Tell,
    ) -> Callable[[SamplingRequest], Any]:
        numbers = itertools.count()

        async def sample(wanted: SamplingRequest) -> Sample:
            turn = len(environment.turns)
            number = next(numbers)
            if number == 0:
                view.tokens.prompt = len(wanted.tokens)
            if request.seed is not None:
                seed = zlib.crc32(f"{request.seed}/{number}".encode())
                wanted = dataclasses.replace(wanted, seed=seed)
            try:
                sampled = await director.sample(
                    wanted, lambda text: tell("token", {"turn": turn, "text": text})
                )
            except PeerLostError as error:
                raise WorldFailureError(StopReason.SAMPLER_FAILED, str(error)) from error
            view.tokens.completion += len(sampled.tokens)
            return sampled

        return sample

    def _limits(self, request: WorkflowRequest) -> Limits:
        environment, serving = self._config.environment, self._config.serving
        most = environment.max_response_tokens
        temperature = request.temperature
        return Limits(
            self._config.model.max_length,
            min(most, request.budgets.tokens or most),
            environment.max_turn_tokens,
            serving.temperature if temperature is None else temperature,
            self._config.rollout.top_p,
        )

    def _task(self, name: str, request: WorkflowRequest) -> Task:
        clean = self._neutral
        meta = {"problem_type": request.problem_type, "entry_point": request.entry_point}
        return Task(
            id=name,
            question=clean(request.question),
            answers=(),
            source=SOURCE,
            corpus=tuple(Document(clean(d.title), clean(d.text)) for d in request.documents),
            meta={key: clean(value) for key, value in meta.items() if value},
            public_tests=tuple(request.tests),
        )


def sound(view: WorkflowView) -> bool:
    """Whether a workflow ended as a good director ends one: no failure, and every turn parsed."""
    malformed = any(turn.kind == TurnKind.MALFORMED for turn in view.turns)
    return view.status == "done" and not malformed


def _conclude(view: WorkflowView, trajectory: Trajectory, exhausted: str) -> None:
    if len(trajectory.turns) > len(view.turns):  # the last one ran out of tokens in its middle
        last = next(m for m in reversed(trajectory.messages) if m.role == "assistant")
        view.turns.append(TurnView(text=last.content, kind=TurnKind.MALFORMED))
    prompt, total = view.tokens.prompt, len(trajectory.tokens)
    view.tokens = Tokens(prompt=prompt, completion=trajectory.policy_tokens, total=total)
    view.answer = trajectory.answer
    view.stop_reason = f"out_of_{exhausted}" if exhausted else trajectory.stop_reason.value
    view.status = "failed" if trajectory.stop_reason.is_world_failure else "done"
    if view.status == "failed":
        view.error = _cause(trajectory)


def _cause(trajectory: Trajectory) -> str:
    """What a client may know of a failure; the rest stands in the log."""
    if trajectory.stop_reason is StopReason.ENVIRONMENT_FAILED:
        return "the environment failed; see the service's log"
    return trajectory.error.strip().rpartition("\n")[2]
