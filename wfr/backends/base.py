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
    """A reply and what it took: tokens, seconds, US dollars.

    Attributes:
        status: `ok`; or why there is no proper reply, which is the operator's business: `refused`
            by the model or its filter, `too_long` for the model, `over_budget` of the episode (the
            text then says so), `cut` at the most tokens that were allowed.
        backend: who replied, where the backend that was asked passes requests on.
        saved_usd: what the reply would have cost, had a cache not given it.
    """

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    cost_usd: float = 0.0
    cache_hit: bool = False
    status: str = "ok"
    backend: str = ""
    saved_usd: float = 0.0


class BackendError(Exception):
    """A request that failed in a way that may pass: worth another attempt.

    Attributes:
        retry_after_s: how long the backend asked to be left alone, if it did.
        busy: the backend is well, but asked too much.
    """

    def __init__(
        self, message: str, retry_after_s: float | None = None, *, busy: bool = False
    ) -> None:
        """Say what failed."""
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.busy = busy


class RejectedError(Exception):
    """A request that the backend, which is well, will never take: the episode is set aside."""


class BackendConfigError(Exception):
    """A request that fails however often it is made: the run stops, with the remedy in the text."""


class Backend(Protocol):
    """Who carries out operators that need a language model."""

    @property
    def name(self) -> str:
        """Short name for records and metrics."""
        ...

    async def complete(self, request: OperatorRequest) -> Completion:
        """Answer one request.

        Raises:
            BackendError: another attempt may succeed.
            RejectedError: no attempt at this request will.
            BackendConfigError: none will; the run has to stop.
        """
        ...
