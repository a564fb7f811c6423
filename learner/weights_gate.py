"""The gate between sending weights and changing them.

While a version travels to the samplers, the next step may already run forward and backward, but its
optimizer step has to wait: nothing is copied, so what is sent are the weights in training.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class WeightsGate:
    """Keeps weights still while they are sent, and from sending while they change.

    `hold` announces a version that is going to be sent. Until it has been, no change begins; a send
    that failed leaves it held, because it will be repeated. Without `hold` nobody waits for a send
    that may never come. For two threads of one process.
    """

    def __init__(self) -> None:
        """Open, with nothing going on."""
        self._turn = threading.Condition()
        self._held = False
        self._sending = False
        self._changing = False

    def hold(self) -> None:
        """The weights as they are now will be sent."""
        with self._turn:
            self._held = True

    @contextlib.contextmanager
    def sending(self) -> Iterator[None]:
        """Wait for a change under way, then read the weights inside; success ends a hold."""
        with self._turn:
            self._turn.wait_for(lambda: not self._changing and not self._sending)
            self._sending = True
        try:
            yield
            self._held = False
        finally:
            with self._turn:
                self._sending = False
                self._turn.notify_all()

    def begin_change(self) -> None:
        """Wait until the weights may change; does nothing where a change is under way."""
        with self._turn:
            if not self._changing:
                self._turn.wait_for(lambda: not self._held and not self._sending)
                self._changing = True

    def end_change(self) -> None:
        """The weights are those of one version again; does nothing where none was begun."""
        with self._turn:
            self._changing = False
            self._turn.notify_all()
