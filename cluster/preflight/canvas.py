"""Can an episode on the canvas go as the configuration wants it to?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from cluster.preflight.check import Check
from wfr.canvas_config import CanvasConfig
from wfr.config import Config
from wfr.environments.canvas_prompts import canvas_prompt
from wfr.environments.canvas_reach import out_of_reach
from wfr.operators.library import canvas_specs
from wfr.tasks.registry import make_source
from wfr.trajectory import Message


def reach_check(config: Config) -> Check:
    """Some workflow over the pool can be finished, and paid for its answer."""
    environment = config.environment
    found = None
    if isinstance(environment, CanvasConfig):
        found = out_of_reach(environment, canvas_specs(environment.pool))
    key, fault = found or ("", "")
    return Check(
        "workflows",
        found is None,
        f"{key}: {fault}" if found else "what is asked of workflows can be met",
        "change that key, or add such operators to environment.pool",
        key,
    )


Encode = Callable[[Sequence[Message]], Sequence[int]]


def context_checks(config: Config, encode: Callable[[str], Encode]) -> list[Check]:
    """Where every turn repeats the prompt: `learner.max_tokens` holds it `max_turns` times.

    `encode` loads the tokenizer of a checkpoint. To be asked once tasks, operators and the
    director are known to be in order; the embedded director's tokenizer is not made yet.
    """
    environment, path = config.environment, config.model.path
    if not isinstance(environment, CanvasConfig) or environment.history == "full" or path is None:
        return []
    prompt = min(map(len, map(encode(path), _prompts(config, environment))))
    need = environment.max_turns * (prompt + 1)
    most = config.learner.max_tokens // (prompt + 1)
    return [
        Check(
            "contexts",
            need <= config.learner.max_tokens,
            f"environment.history=last_feedback repeats a prompt of at least {prompt} tokens in "
            f"each of environment.max_turns={environment.max_turns} turns, and "
            f"learner.max_tokens={config.learner.max_tokens} holds {most} of them",
            f"raise learner.max_tokens to {need} and what the turns and their feedback need, or "
            "lower environment.max_turns",
            "learner.max_tokens",
        )
    ]


_ASKED = 64
"""Tasks whose prompts are measured."""


def _prompts(config: Config, environment: CanvasConfig) -> Iterator[Sequence[Message]]:
    specs = canvas_specs(environment.pool).values()
    for task in make_source(config).train()[:_ASKED]:
        yield canvas_prompt(task, specs, environment)
