"""Operators that a backend carries out: a prompt, the tags of its reply, what is shown of it."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Sequence

from wfr.backends.base import Backend, Completion, Inputs, OperatorRequest
from wfr.operators.base import OperatorSpec, Outcome, Scope, read_inputs, tagged
from wfr.trajectory import OperatorCall


@dataclasses.dataclass(frozen=True, slots=True)
class Prompted:
    """A declared operator.

    Attributes:
        prompt: words the request for a language model.
        show: makes the observation out of the replies, one per sample.
        samples: replies drawn concurrently for one call.
    """

    spec: OperatorSpec
    prompt: Callable[[Inputs], str]
    show: Callable[[Sequence[str]], str]
    samples: int = 1
    temperature: float = 0.0


class PromptedOperator:
    """A declared operator bound to the backend that carries it out."""

    def __init__(self, declaration: Prompted, backend: Backend) -> None:
        """Bind `declaration` to `backend`."""
        self.spec = declaration.spec
        self._declaration = declaration
        self._backend = backend

    async def call(self, argument: str, scope: Scope) -> Outcome:
        """Ask the backend; raises ArgumentError, and WorldFailureError as the backend does."""
        inputs = read_inputs(self.spec, argument)
        started = time.perf_counter()
        replies = await self._replies(inputs)
        call = OperatorCall(
            self.spec.name,
            replies[0].backend or self._backend.name,
            time.perf_counter() - started,
            prompt_tokens=sum(r.prompt_tokens for r in replies),
            completion_tokens=sum(r.completion_tokens for r in replies),
            cost_usd=sum(r.cost_usd for r in replies),
            cache_hit=all(r.cache_hit for r in replies),
            status=next((r.status for r in replies if r.status != "ok"), "ok"),
        )
        return Outcome(self._declaration.show([r.text for r in replies]), call)

    async def _replies(self, inputs: Inputs) -> list[Completion]:
        prompt = self._declaration.prompt(inputs)
        requests = [
            OperatorRequest(
                self.spec.name, inputs, prompt, self._declaration.temperature, sample=index
            )
            for index in range(self._declaration.samples)
        ]
        if len(requests) == 1:
            return [await self._backend.complete(requests[0])]
        tasks = [asyncio.ensure_future(self._backend.complete(r)) for r in requests]
        try:  # not a TaskGroup, which would hide a world failure in an exception group
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()


def thought_and_answer(name: str) -> Callable[[Sequence[str]], str]:
    """Show thought and answer; the answer alone without a thought; else the raw reply."""

    def show(replies: Sequence[str]) -> str:
        (reply,) = replies
        thought, answer = _first(reply, "think"), _first(reply, "answer")
        if not answer:
            return reply.strip()
        if not thought:
            return f"{name} answer: {answer}"
        return f"{name} thought process: {thought}\n\n{name} answer: {answer}"

    return show


def labelled(label: str, tag: str) -> Callable[[Sequence[str]], str]:
    """Show one tag of the reply behind a label; else the raw reply."""

    def show(replies: Sequence[str]) -> str:
        (reply,) = replies
        content = _first(reply, tag)
        return f"{label}: {content}" if content else reply.strip()

    return show


def numbered_answers(name: str) -> Callable[[Sequence[str]], str]:
    """Show the answers of all samples in numbered blocks, without their thoughts."""

    def show(replies: Sequence[str]) -> str:
        answers = (_first(reply, "answer") or reply.strip() for reply in replies)
        return "\n\n".join(f"[Answer {i}]\n{name} answer: {a}" for i, a in enumerate(answers, 1))

    return show


def _first(text: str, tag: str) -> str:
    contents = tagged(text, tag)
    return contents[0] if contents else ""
