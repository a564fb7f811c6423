"""The prompt of the canvas: the rules of editing, the operators on offer, the problem."""

from __future__ import annotations

from collections.abc import Iterable

from wfr.canvas_config import CanvasConfig
from wfr.operators.base import OperatorSpec
from wfr.tasks.source import Task
from wfr.trajectory import Message

_SYSTEM = """\
You build a workflow of operators that solves a problem, one edit per turn. After each edit the \
workflow is executed and you read the feedback. You never solve the problem yourself: the output \
of the finished workflow is the answer.

In every turn, think inside <think> and </think>, then give exactly one edit:

1. add: <action>add</action><operator>NAME</operator>{prompt}
2. parallel: <action>add</action><structure>parallel</structure><operators>A,B</operators>
3. conditional: <action>add</action><structure>conditional</structure>\
<condition>CHECK</condition><true>A</true><false>B</false>
   The check is {checks}; {true_arm}; `done` is an arm that does nothing.
4. loop: <action>add</action><structure>loop</structure><operators>A,B</operators>\
<count>2</count>
   With <until>CHECK</until> it ends as soon as that check passes.
5. delete: <action>delete</action><target>node_ID</target>
6. modify: <action>modify</action><target>node_ID</target><operator>NAME</operator>
7. set_prompt: <action>set_prompt</action><target>node_ID</target><prompt>TEXT</prompt>
8. finish: <action>finish</action>

New nodes go to the end, or before the top-level node number <position>N</position> (from 0), or \
right after <target>node_ID</target>. Each operator receives the problem and what the operators \
before it produced.{two_turn}

Operators:
{operators}

You have {turns} turns. {gate}"""

_TYPES = {
    "qa": "question about the passages; the answer is a short phrase",
    "math": "calculation; the answer is one number",
    "code": "programming task; the answer is a program",
}


def canvas_prompt(
    task: Task, specs: Iterable[OperatorSpec], config: CanvasConfig
) -> tuple[Message, ...]:
    """The messages that begin an episode."""
    kind = task.meta.get("problem_type", "")
    if config.prompt == "question":
        hint = f"{kind} : " if config.hints and kind else ""
        return (Message("user", f"{hint}{task.question}"),)
    hint = f"Type: {_TYPES.get(kind, kind)}\n" if config.hints and kind else ""
    return (
        Message("system", _rules(list(specs), config)),
        Message("user", f"{hint}Problem:\n{problem_text(task)}"),
    )


def prompt_with_feedback(
    prompt: tuple[Message, ...], feedback: Message, outline: str
) -> tuple[Message, ...]:
    """The prompt of a fresh context: what an episode begins with, its workflow, the last feedback.

    `outline` is the workflow as the director should read it; nothing where the feedback shows it.
    """
    *rules, problem = prompt
    parts = (problem.content, outline, feedback.content)
    return (*rules, Message(problem.role, "\n".join(filter(None, parts))))


def problem_text(task: Task) -> str:
    """The problem as operators get it: the question and the passages that come with it."""
    return "\n".join([task.question, *(document.text for document in task.corpus)])


def _rules(specs: list[OperatorSpec], config: CanvasConfig) -> str:
    two_turn = config.add_protocol == "two_turn"
    checks = " or ".join(spec.name for spec in specs if spec.is_check)
    return _SYSTEM.format(
        prompt="" if two_turn else "<prompt>what it should do (optional)</prompt>",
        checks=checks or "an operator with a verdict",
        true_arm=f"A runs where it {'fails' if config.legacy_inverted else 'passes'}, B otherwise",
        two_turn="\nAfter an edit that needs one, you are asked for the operator's prompt."
        if two_turn
        else "",
        operators="\n".join(f"- {spec.name}: {spec.description}" for spec in specs),
        turns=config.max_turns,
        gate=_gate(config),
    )


def _gate(config: CanvasConfig) -> str:
    gate = config.finish_gate
    needed = [f"at least {gate.min_operators} operators"] if gate.min_operators > 1 else []
    needed += ["a parallel, conditional or loop"] if gate.structure else []
    needed += ["a solver and a check"] if gate.checker else []
    needed += ["a Format where the result is long"] if gate.concise_chars else []
    return f"A workflow can be finished when it has {', '.join(needed)}." if needed else ""
