"""`one_shot`: a language model writes the whole workflow before anything runs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence

from wfr.backends.base import Backend, OperatorRequest
from wfr.environments.base import Environment
from wfr.evaluation.policies.base import Policies, Policy, PolicyError, Setting
from wfr.evaluation.policies.edit_script import EditScript
from wfr.operators.base import OperatorSpec, tagged
from wfr.operators.reply import call_of
from wfr.tasks.source import Task
from wfr.trajectory import Message, OperatorCall
from wfr.workflow.codes import WorkflowError
from wfr.workflow.construction import construction
from wfr.workflow.dsl import parse
from wfr.workflow.edits import Edit
from wfr.workflow.rules import Rules

OPERATOR = "OneShot"
"""What executors know it as: `executor.operators.OneShot` names its backend."""

_PROMPT = """\
Write one workflow of operators that solves a problem. It is executed once, and its output is the \
answer; you will see none of it. The notation:

A -> B                 B receives the problem and what A produced
[A, B -> C] -> D       branches side by side; D receives what all of them produced
CHECK ? A : B          A where the check passes, B where it does not; `done` does nothing
(A -> B) * 3           a loop; (A -> B) * 3 until CHECK ends when the check passes
A{{"do this"}}           an operator with an instruction of its own

Begin every branch, arm and loop with an operator. Operators:
{operators}

{hint}Problem:
{problem}

Reply with <workflow>…</workflow>, and nothing else."""


def one_shot(setting: Setting) -> Policies:
    """Static orchestration: the executor's model is asked once for a workflow in the notation.

    It is asked once more where the reply cannot be read or built; a second such reply is played as
    it is, which the canvas refuses and counts as a fault of form. The canvas takes one edit a turn,
    so the edits come one after another, but no feedback is read.

    Raises:
        PolicyError: another environment.
    """
    setting.need_kind("one_shot", "canvas")
    setting.need("one_shot")

    def policies(environment: Environment) -> Policy:
        if setting.backend is None:
            raise PolicyError("policy 'one_shot' needs an executor to ask")
        return OneShot(setting.backend, setting.offered)

    return policies


class OneShot:
    """Plays the workflow that its model wrote for the task; use it for one episode."""

    def __init__(self, backend: Backend, offered: Mapping[str, OperatorSpec]) -> None:
        """Ask `backend` for a workflow of the operators that are `offered`."""
        self._backend = backend
        self._offered = offered
        self._script: EditScript | None = None
        self._unread = ""
        self.calls: list[OperatorCall] = []

    async def act(self, task: Task, messages: Sequence[Message]) -> str:
        """The next edit of the workflow; first of all a reply that is none, if there was one."""
        if self._script is None:
            self._script = EditScript(await self._write(task))
            if self._unread:
                return self._unread
        return await self._script.act(task, messages)

    async def _write(self, task: Task) -> Sequence[Edit]:
        request = self._request(task)
        for _ in range(2):
            text = await self._ask(request)
            try:
                return self._read(text)
            except WorkflowError as error:
                complaint = f"\n\nYour last reply cannot be used: {error.message}. Reply again."
                request = dataclasses.replace(request, prompt=request.prompt + complaint)
        self._unread = text
        return ()

    def _read(self, text: str) -> Sequence[Edit]:
        """The edits that build what a reply describes; raises WorkflowError."""
        described = next(iter(tagged(text, "workflow")), text)
        return construction(parse(described), Rules(self._offered))

    async def _ask(self, request: OperatorRequest) -> str:
        started = time.perf_counter()
        completion = await self._backend.complete(request)
        seconds = time.perf_counter() - started
        self.calls.append(call_of(request, self._backend, completion, seconds))
        return completion.text

    def _request(self, task: Task) -> OperatorRequest:
        kind = task.meta.get("problem_type", "")
        problem = "\n".join([task.question, *(document.text for document in task.corpus)])
        described = (f"- {spec.name}: {spec.description}" for spec in self._offered.values())
        prompt = _PROMPT.format(
            operators="\n".join(described),
            hint=f"Type of the problem: {kind}\n" if kind else "",
            problem=problem,
        )
        inputs = {"problem": (problem,), "kind": (kind,), "operators": tuple(self._offered)}
        return OperatorRequest(OPERATOR, inputs, prompt)
