"""What a policy is, and what it may rely on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

from wfr.backends.base import Backend
from wfr.canvas_config import CanvasConfig
from wfr.config import Config
from wfr.environments.base import Environment
from wfr.operators.base import OperatorSpec
from wfr.operators.library import canvas_specs, declarations
from wfr.tasks.source import Task
from wfr.trajectory import Message, OperatorCall


class PolicyError(ValueError):
    """A policy that cannot play this configuration: which, why, what to do."""


class Policy(Protocol):
    """Plays one turn after another."""

    async def act(self, task: Task, messages: Sequence[Message]) -> str:
        """The text of the next turn, after `messages`; the task comes without what grades it."""
        ...


@runtime_checkable
class AsksExecutor(Protocol):
    """A policy that asks an executor itself, besides what the environment does."""

    calls: Sequence[OperatorCall]


Policies: TypeAlias = Callable[[Environment], Policy]
"""A policy for the episodes of an environment."""


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """What a policy plays: the kind of the environment, the operators on offer, whom it may ask."""

    kind: str
    offered: Mapping[str, OperatorSpec]
    seed: int
    two_turn: bool = False
    backend: Backend | None = None

    @classmethod
    def of(cls, config: Config) -> Setting:
        """The setting of a configuration; raises LibraryError for a pool that is none."""
        environment = config.environment
        if isinstance(environment, CanvasConfig):
            two_turn = environment.add_protocol == "two_turn"
            offered = canvas_specs(environment.pool)
            return cls("canvas", offered, config.run.seed, two_turn)
        found = declarations(environment.pool)
        specs = {name: declaration.spec for name, declaration in found.items()}
        return cls("think_act", specs, config.run.seed)

    def need(self, policy: str, *operators: str) -> None:
        """Raise PolicyError where one of the operators is not on offer, or no edit is one turn."""
        missing = [name for name in operators if name not in self.offered]
        if missing:
            raise PolicyError(
                f"policy {policy!r} needs {', '.join(missing)}, which environment.pool="
                f"{list(self.offered)} lacks; add it to the pool or leave the policy out"
            )
        if self.two_turn:
            raise PolicyError(
                f"policy {policy!r} makes each edit in one turn, which environment.add_protocol="
                "two_turn contradicts; set it to one_turn"
            )

    def need_kind(self, policy: str, kind: str) -> None:
        """Raise PolicyError for another environment."""
        if self.kind != kind:
            raise PolicyError(
                f"policy {policy!r} plays environment.kind={kind}, not {self.kind}; leave it out"
            )
