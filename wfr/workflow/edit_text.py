"""Write an edit as the turn that `edit_parser.parse_edit` reads back, in the strict grammar."""

from __future__ import annotations

from collections.abc import Iterator

from wfr.workflow.edits import (
    AddConditional,
    AddLoop,
    AddOperator,
    AddParallel,
    Delete,
    Edit,
    Finish,
    Modify,
    Place,
    SetPrompt,
)
from wfr.workflow.notation import DONE


def edit_text(edit: Edit, thought: str = "", space: str = "") -> str:
    """The text of a turn; `space` goes around every value, for tokenizers that want it there.

    >>> edit_text(Delete("node_2"))
    '<action>delete</action><target>node_2</target>'
    """
    tags = [("think", thought)] if thought else []
    tags += _tags(edit)
    return space.join(f"<{name}>{space}{value}{space}</{name}>" for name, value in tags)


def _tags(edit: Edit) -> Iterator[tuple[str, str]]:
    match edit:
        case AddOperator():
            yield from (("action", "add"), ("operator", edit.operator))
            yield from _optional(prompt=edit.prompt, inputs=",".join(edit.inputs))
            yield from _place(edit.place)
        case AddParallel() | AddConditional() | AddLoop():
            yield from (("action", "add"), ("structure", edit.action))
            yield from _structure(edit)
            yield from (("prompt", prompt) for prompt in edit.prompts)
            yield from _place(edit.place)
        case Delete():
            yield from (("action", "delete"), ("target", edit.target))
        case Modify():
            yield from (("action", "modify"), ("target", edit.target), ("operator", edit.operator))
            yield from _optional(prompt=edit.prompt, inputs=",".join(edit.inputs))
        case SetPrompt():
            yield from (("action", "set_prompt"), ("target", edit.target), ("prompt", edit.prompt))
        case Finish():
            yield ("action", "finish")
            yield from _optional(answer=edit.answer)


def _structure(edit: AddParallel | AddConditional | AddLoop) -> Iterator[tuple[str, str]]:
    match edit:
        case AddParallel():
            yield ("operators", ",".join(edit.operators))
        case AddConditional():
            yield ("condition", edit.condition)
            yield ("true", edit.on_true or DONE)
            yield from _optional(false=edit.on_false)
        case AddLoop():
            yield from (("operators", ",".join(edit.operators)), ("count", str(edit.count)))
            yield from _optional(until=edit.until)


def _place(place: Place) -> Iterator[tuple[str, str]]:
    if place.position is not None:
        yield ("position", str(place.position))
    yield from _optional(target=place.target)


def _optional(**values: str) -> Iterator[tuple[str, str]]:
    return ((name, value) for name, value in values.items() if value)
