"""Feedback of the canvas: what the director is told after each turn.

The labelled lines are those of FlowSteer's feedback (section 1.6 A of its specification) with a
reason code and a repair hint added. What the conversation holds already is not said again: the
problem, and, unless each turn has a context of its own, the list of earlier actions.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence

from wfr.environments.canvas_result import CanvasResult
from wfr.environments.observations import cut_middle
from wfr.trajectory import Message
from wfr.workflow.graph import Workflow
from wfr.workflow.nodes import OperatorNode, walk

_TAGS = (
    r"think|thinking|thought|reasoning|feedback|action|operators?|structure|condition|true|false"
    r"|count|until|position|target|inputs|prompt|answer|tool_response|tool|info"
)
# A program may hold `<` and `>`; only tags of the protocol and chat-template tokens are disarmed.
_CONTROL = re.compile(rf"<(?=\s*/?\s*(?:{_TAGS})\s*>|\|\w+\|>)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, slots=True)
class Notice:
    """What came of one turn.

    Attributes:
        code: reason code of a refusal, or of what is odd about an edit that took effect.
        hint: how to repair it.
        node: id of what was added or changed.
        next: what the router advises, and `reason` why; empty where it is off.
    """

    ok: bool
    message: str
    code: str = ""
    hint: str = ""
    node: str = ""
    next: str = ""
    reason: str = ""


def full(
    notice: Notice,
    workflow: Workflow,
    result: CanvasResult,
    *,
    previous: Sequence[str] = (),
    round: str,
    spent: str,
    chars: int,
) -> Message:
    """Every labelled line that has something to say; `round` reads `3/20`."""
    lines = {
        "Status": "Success" if notice.ok else "Failed",
        "Code": notice.code,
        "Message": notice.message,
        "Hint": notice.hint,
        "Node ID": notice.node,
        "Current DSL": workflow.outline() or "(empty)",
        "Workflow Nodes": "; ".join(map(_described, workflow.operators)),
        "Statistics": _statistics(workflow),
        "Structures": _structures(workflow),
        "Previous Actions": "; ".join(previous),
        "Execution Result": cut_middle(result.answer or result.partial, chars),
        "Execution Error": f"{result.error}: {result.message}" if result.error else "",
        "Verify Result": _verdict(result, chars),
        "Budget": spent,
        "NEXT": notice.next,
        "REASON": notice.reason,
        "Round": round,
    }
    text = "\n".join(f"[{label}]: {disarm(value)}" for label, value in lines.items() if value)
    return Message("tool", f"<feedback>\n{text}\n</feedback>")


def brief(notice: Notice, result: CanvasResult, *, chars: int) -> Message:
    """One line: `ok node_3 wrong 138`, or `no unknown_node` for a turn without effect."""
    words = ["ok", notice.node] if notice.ok else ["no", notice.code]
    if notice.ok and result.error and not result.answer:
        words += ["error", result.error]
    elif notice.ok:
        verdict = {True: "right", False: "wrong", None: ""}[result.passed]
        first_line = result.answer.strip().partition("\n")[0]
        words += [verdict, first_line[:chars].strip()]
    words += [notice.next]
    return Message("tool", f"<feedback> {disarm(' '.join(filter(None, words)))} </feedback>")


def disarm(text: str) -> str:
    """Write the `<` of the protocol's own tags as `&lt;`; all other text stays as it is."""
    return _CONTROL.sub("&lt;", text)


def _described(node: OperatorNode) -> str:
    reads = f"({', '.join(node.inputs)})" if node.inputs else ""
    return f"{node.id}: {node.operator}{reads}"


def _statistics(workflow: Workflow) -> str:
    unique = len({node.operator for node in workflow.operators})
    return f"{workflow.size} operators, {unique} unique types"


def _structures(workflow: Workflow) -> str:
    kinds = Counter(
        type(node).__name__.lower()
        for node in walk(workflow.nodes)
        if not isinstance(node, OperatorNode)
    )
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items())


def _verdict(result: CanvasResult, chars: int) -> str:
    if result.passed is None:
        return ""
    said = f": {cut_middle(result.verdict, chars)}" if result.verdict else ""
    return f"{'passed' if result.passed else 'failed'}{said}"
