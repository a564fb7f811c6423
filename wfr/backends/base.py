"""The executor contract: a backend turns an operator's request into a completion."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol

Inputs = Mapping[str, tuple[str, ...]]
"""Texts by input name, in the order in which they were given."""


@dataclasses.dataclass(frozen=True, slots=True)
class OperatorRequest:
    """What an operator asks of its executor.

    Attributes:
        inputs: the structured inputs, for backends that are programs.
        prompt: the same request in words, for backends that are language models.
        sample: index among the samples drawn for one call; tells repeated requests apart.
    """

    operator: str
    inputs: Inputs
    prompt: str
    temperature: float = 0.0
    max_tokens: int = 1024
    sample: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Completion:
    """A reply and what it took: tokens, seconds, US dollars."""

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    cost_usd: float = 0.0
    cache_hit: bool = False


class BackendError(Exception):
    """A request that failed in a way that may pass: worth another attempt."""


class Backend(Protocol):
    """Who carries out operators that need a language model."""

    @property
    def name(self) -> str:
        """Short name for records and metrics."""
        ...

    async def complete(self, request: OperatorRequest) -> Completion:
        """Answer one request; raises BackendError where another attempt may succeed."""
        ...
