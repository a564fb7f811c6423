"""Where the parts of a workflow stand in a picture: boxes and lines, in pixels.

A sequence runs from top to bottom; branches, and the arms of a conditional, stand side by side; a
structure is a frame around what it holds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from wfr.workflow.graph import Workflow
from wfr.workflow.nodes import Block, Conditional, Loop, Node, OperatorNode, Parallel, parts

_WIDTH, _HEIGHT = 148, 46
_GAP_X, _GAP_Y = 18, 30
_PAD, _TITLE = 12, 20


@dataclasses.dataclass(frozen=True, slots=True)
class Box:
    """An operator (`kind: operator`) or the frame of a structure, its corner and its size.

    Attributes:
        label: the operator's name, or what the structure does.
        note: the prompt that the director gave an operator.
    """

    id: str
    kind: str
    label: str
    note: str
    x: float
    y: float
    width: float
    height: float

    def moved(self, x: float, y: float) -> Box:
        """The same box elsewhere."""
        return dataclasses.replace(self, x=self.x + x, y=self.y + y)


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """From the lower edge of what is read to the upper edge of who reads it."""

    source: str
    reader: str
    x1: float
    y1: float
    x2: float
    y2: float


@dataclasses.dataclass(frozen=True, slots=True)
class Drawing:
    """A picture of `width` × `height`; frames come before what they hold."""

    width: float
    height: float
    boxes: Sequence[Box]
    lines: Sequence[Line] = ()


def draw(workflow: Workflow) -> Drawing:
    """Lay a workflow out."""
    whole = _below(map(_node, workflow.nodes))
    at = {box.id: box for box in whole.boxes}
    lines = [_line(at[source], at[reader]) for source, reader in workflow.edges()]
    return dataclasses.replace(whole, lines=lines)


def _line(source: Box, reader: Box) -> Line:
    return Line(
        source.id,
        reader.id,
        source.x + source.width / 2,
        source.y + source.height,
        reader.x + reader.width / 2,
        reader.y,
    )


def _node(node: Node) -> Drawing:
    if isinstance(node, OperatorNode):
        box = Box(node.id, "operator", node.operator, node.prompt, 0, 0, _WIDTH, _HEIGHT)
        return Drawing(_WIDTH, _HEIGHT, [box])
    return _framed(node, _inside(node))


def _inside(node: Node) -> Drawing:
    if isinstance(node, Conditional):
        arms = _beside(_block(arm) for arm in (node.on_true, node.on_false) if arm)
        return _below([_node(node.condition), arms])
    if isinstance(node, Loop):
        return _below(_block(part) for part in parts(node) if part)
    return _beside(_block(branch) for branch in parts(node))


def _block(block: Block) -> Drawing:
    return _below(map(_node, block))


def _framed(node: Node, inside: Drawing) -> Drawing:
    title = _title(node)
    width = max(inside.width, 7 * len(title)) + 2 * _PAD
    height = inside.height + _TITLE + 2 * _PAD
    frame = Box(node.id, type(node).__name__.lower(), title, "", 0, 0, width, height)
    shift = (width - inside.width) / 2
    held = [box.moved(shift, _TITLE + _PAD) for box in inside.boxes]
    return Drawing(width, height, [frame, *held])


def _title(node: Node) -> str:
    match node:
        case Conditional():
            arms = ("true", node.on_true), ("false", node.on_false)
            ways = ", ".join(f"{name}: {arm[0].id if arm else 'done'}" for name, arm in arms)
            return f"if passed ({ways})"
        case Loop():
            return f"at most {node.count} times" + (", until passed" if node.until else "")
        case Parallel():
            return "parallel"
        case OperatorNode():
            return node.operator


def _below(drawings: Iterator[Drawing] | Sequence[Drawing]) -> Drawing:
    parts_ = list(drawings)
    width = max((part.width for part in parts_), default=0)
    boxes: list[Box] = []
    y = 0.0
    for part in parts_:
        boxes += [box.moved((width - part.width) / 2, y) for box in part.boxes]
        y += part.height + _GAP_Y
    return Drawing(width, max(0, y - _GAP_Y), boxes)


def _beside(drawings: Iterator[Drawing]) -> Drawing:
    parts_ = list(drawings)
    boxes: list[Box] = []
    x = 0.0
    for part in parts_:
        boxes += [box.moved(x, 0) for box in part.boxes]
        x += part.width + _GAP_X
    height = max((part.height for part in parts_), default=0)
    return Drawing(max(0, x - _GAP_X), height, boxes)
