"""One episode of a policy that is a program."""

from __future__ import annotations

import dataclasses
import time
import traceback
from collections import Counter
from collections.abc import Sequence

from wfr.backends.base import BackendConfigError
from wfr.backends.spending import charged_to
from wfr.environments.base import Environment
from wfr.evaluation.policies.base import AsksExecutor, Policies
from wfr.evaluation.prediction import Prediction
from wfr.tasks.source import Task
from wfr.trajectory import Message, OperatorCall, StopReason, WorldFailureError


@dataclasses.dataclass(slots=True)
class _Episode:
    turns: int = 0
    calls: list[OperatorCall] = dataclasses.field(default_factory=list)
    asked: Sequence[OperatorCall] = ()


async def play(
    environment: Environment, policies: Policies, task: Task, *, policy: str, dataset: str
) -> Prediction:
    """Play one task to its end; one that the world failed is not scored.

    Raises:
        BackendConfigError: no episode can be played with this executor.
    """
    started, episode = time.perf_counter(), _Episode()
    correct, answer, metrics = None, "", dict[str, float]()
    try:
        with charged_to(task.source):
            reason = await _play(environment, policies, task, episode)
        reward = environment.reward()
        metrics, answer = {**reward.parts, **reward.metrics}, environment.answer()
        correct = metrics["correct"]
    except WorldFailureError as failure:
        reason = failure.reason
    except BackendConfigError:
        raise  # every other episode would fail alike
    except Exception:  # noqa: BLE001 - a user's environment may raise anything
        reason, answer = StopReason.ENVIRONMENT_FAILED, traceback.format_exc()
    return Prediction(
        policy=policy,
        dataset=dataset,
        task_id=task.id,
        skill=task.skill,
        sample=0,
        answer=answer,
        correct=correct,
        stop_reason=reason.value,
        turns=episode.turns,
        seconds=time.perf_counter() - started,
        cost_usd=sum(call.cost_usd for call in (*episode.calls, *episode.asked)),
        metrics=metrics,
        operators=dict(Counter(call.operator for call in (*episode.calls, *episode.asked))),
    )


async def _play(
    environment: Environment, policies: Policies, task: Task, episode: _Episode
) -> StopReason:
    step = environment.reset(task)
    player = policies(environment)
    asked = dataclasses.replace(task, answers=(), tests=())
    messages = list(step.messages)
    while not step.last:
        text = await player.act(asked, messages)
        if isinstance(player, AsksExecutor):
            episode.asked = player.calls
        step = await environment.step(text, "stop")
        episode.turns += 1
        episode.calls.extend(step.calls)
        messages += [Message("assistant", text), *step.messages]
    assert step.stop_reason is not None
    return step.stop_reason
