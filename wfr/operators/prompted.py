"""Operators that a backend carries out: a prompt, the tags of its reply, what becomes of it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

from wfr.backends.base import Backend, Completion, Inputs, OperatorRequest
from wfr.operators.base import OperatorSpec, Outcome, Scope, read_inputs, tagged
from wfr.operators.meter import Meter
from wfr.operators.node_form import NodeForm
from wfr.operators.origin import calling_line
from wfr.operators.python_code import find_program, unfenced
from wfr.operators.reply import Reply, ask, read_fields
from wfr.operators.together import together
from wfr.operators.values import NodeError, NodeInput, NodeOutcome, Value, ValueKind
from wfr.trajectory import OperatorCall


@dataclasses.dataclass(frozen=True, slots=True)
class Prompted:
    """A declared operator.

    Attributes:
        prompt: words the request for a language model.
        show: makes a tool's observation out of the replies, one per sample.
        samples: replies drawn concurrently for one call.
        node: how it works as a node of a workflow.
        where: file and line of this declaration.
    """

    spec: OperatorSpec
    prompt: Callable[[Inputs], str]
    show: Callable[[Sequence[str]], str]
    node: NodeForm
    samples: int = 1
    temperature: float = 0.0
    where: str = dataclasses.field(default_factory=lambda: calling_line(2), compare=False)

    @property
    def node_prompt(self) -> Callable[[Inputs], str]:
        """Words the request of a node."""
        return self.node.prompt or self.prompt

    @property
    def node_samples(self) -> int:
        """Replies drawn for one run of a node."""
        return self.node.samples or self.samples


class PromptedOperator:
    """A declared operator bound to the backend that carries it out: a tool and a node."""

    def __init__(self, declaration: Prompted, backend: Backend) -> None:
        """Bind `declaration` to `backend`."""
        self.spec = declaration.spec
        self.parameters = f"{backend.name} {declaration.temperature} {declaration.node_samples}"
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

    async def run(self, inputs: NodeInput, scope: Scope, meter: Meter) -> NodeOutcome:
        """Ask for every sample; those that fail are left out, unless all do."""
        declaration, form = self._declaration, self._declaration.node
        settled = form.settle(inputs)
        if settled is not None:
            return settled
        count = declaration.node_samples
        numbers = range(inputs.sample * count, (inputs.sample + 1) * count)
        found = await together(self._ask(inputs, number, meter) for number in numbers)
        replies = [
            (n, r) for n, r in zip(numbers, found, strict=True) if not isinstance(r, NodeError)
        ]
        if not replies:
            error = next(reply for reply in found if isinstance(reply, NodeError))
            return NodeOutcome(None, error)
        value = form.value(replies, inputs)
        if isinstance(value, NodeError):
            return NodeOutcome(None, value)
        return NodeOutcome(_with_program(value, scope))

    async def _ask(self, given: NodeInput, sample: int, meter: Meter) -> Reply | NodeError:
        declaration, form = self._declaration, self._declaration.node
        inputs = form.inputs(given, sample)
        request = OperatorRequest(
            self.spec.name,
            inputs,
            guided(declaration.node_prompt(inputs), inputs),
            declaration.temperature,
            sample=sample,
        )

        def read(text: str) -> Reply:
            reply = read_fields(form.fields, text)
            form.accept(reply, given, sample)
            return reply

        return await ask(self._backend, request, read, meter)

    async def _replies(self, inputs: Inputs) -> list[Completion]:
        prompt = self._declaration.prompt(inputs)
        return await together(
            self._backend.complete(
                OperatorRequest(
                    self.spec.name, inputs, prompt, self._declaration.temperature, sample=index
                )
            )
            for index in range(self._declaration.samples)
        )


def guided(prompt: str, inputs: Inputs) -> str:
    """The prompt with the director's instruction, unless the prompt says it already."""
    instruction = inputs.get("instruction", ())
    if not instruction or instruction[0] in prompt:
        return prompt
    return f"{prompt}\n\nFollow this instruction as far as it fits the task:\n{instruction[0]}"


def _with_program(value: Value, scope: Scope) -> Value:
    """Where the task asks for a function, an answer that defines it is a program."""
    if value.code or value.kind is not ValueKind.TEXT or not scope.entry_point:
        return value
    program = find_program(value.text) or unfenced(value.text)
    if f"def {scope.entry_point}" not in program:
        return value
    return dataclasses.replace(value, code=program)


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
