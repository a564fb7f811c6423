"""Scripts of edits for the canvas environment."""

from __future__ import annotations

from collections.abc import Sequence

from wfr.tasks.source import Task
from wfr.trajectory import Message
from wfr.workflow.edit_text import edit_text
from wfr.workflow.edits import Edit, Finish


class EditScript:
    """Makes its edits in order, whatever the feedback, and then finishes.

    Where a gate refuses to finish, the episode goes on to its last turn; the workflow's answer is
    scored all the same.
    """

    def __init__(self, edits: Sequence[Edit]) -> None:
        """Make `edits`."""
        self._edits = tuple(edits)

    async def act(self, task: Task, messages: Sequence[Message]) -> str:
        """The edit whose turn it is, or `finish`."""
        played = sum(message.role == "assistant" for message in messages)
        return edit_text(self._edits[played] if played < len(self._edits) else Finish())
