"""A run's eye on its executors: what is down, what is spent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from wfr.backends.status import executor_record, paused_backends

if TYPE_CHECKING:
    from cluster.remote import Remote

WATCH_S = 2.0


class ExecutorWatch:
    """Looks at the hub now and then: what is down, what is spent."""

    def __init__(
        self,
        hub: Remote,
        note: Callable[[str], None],
        record: Callable[[str, Mapping[str, Any]], None],
    ) -> None:
        """Tell people with `note`, and write records with `record`."""
        self._hub = hub
        self._note = note
        self._record = record
        self._down: dict[str, int] = {}

    async def until_spent(self) -> str:
        """Return which bound of the run's budget was reached, when it was."""
        while True:
            status = await self.look()
            if status["paused"]:
                return str(status["paused"])
            await asyncio.sleep(WATCH_S)

    async def look(self, *, always: bool = False) -> dict[str, Any]:
        """The status; it is recorded where a backend went down or came up, or `always`."""
        status: dict[str, Any] = await self._hub.status()
        values = executor_record(status)
        down = values.get("executor/down", {})
        if down != self._down:
            for sentence in paused_backends(status):
                self._note(f"{sentence}; nothing is scored as wrong")
            for name in (name for name, was in self._down.items() if was and not down.get(name)):
                self._note(f"executor {name} is up again")
        if values and (always or down != self._down):
            self._record("executor", values)
        self._down = down
        return status
