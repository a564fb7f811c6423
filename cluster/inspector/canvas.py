"""The canvas after every turn, made again from what the director wrote.

Edits are a pure function of the text, so nothing is executed and nothing had to be recorded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from cluster.inspector.drawing import draw
from wfr.canvas_config import CanvasConfig
from wfr.operators.library import LibraryError, canvas_specs
from wfr.trajectory import TurnKind
from wfr.workflow.edits import Applied, Refused
from wfr.workflow.protocol import Finished, PromptWanted, State, Taken, take
from wfr.workflow.rules import Limits, Rules


class NoCanvasError(Exception):
    """The run has no canvas, or one that this version of wfr cannot play; the text says why."""


class Replay:
    """Makes canvases again, by the rules of one run."""

    def __init__(self, environment: Mapping[str, Any]) -> None:
        """Read the section `environment` of a run's configuration; raises NoCanvasError."""
        if environment.get("kind") != "canvas":
            raise NoCanvasError("the environment of this run is no canvas")
        try:
            self._config = CanvasConfig.model_validate(dict(environment))
            specs = canvas_specs(self._config.pool)
        except (ValidationError, LibraryError) as error:
            raise NoCanvasError(
                f"the canvas cannot be drawn by this version of wfr: {error}"
            ) from None
        limits = Limits(max_nodes=self._config.max_nodes, max_depth=self._config.max_depth)
        self._rules = Rules(specs, limits)

    def states(self, turns: Sequence[tuple[TurnKind, str]]) -> list[dict[str, Any]]:
        """The canvas after each turn, given its kind and its text.

        Each is the `drawing`, the workflow's `notation`, what the turn came to (`outcome`:
        `applied`, `refused`, `asked`, `finished` or `unread`, and `message`), and the ids of
        operators that are `new` in it.
        """
        state, known = State(), frozenset[str]()
        found = []
        for kind, text in turns:
            outcome, message = "unread", "the turn could not be read; the canvas stays as it was"
            if kind is not TurnKind.MALFORMED:
                taken = self._take(state, text)
                state = taken.state
                outcome, message = _told(taken)
            ids = frozenset(node.id for node in state.workflow.operators)
            found.append(
                {
                    "drawing": dataclasses.asdict(draw(state.workflow)),
                    "notation": state.workflow.to_dsl(),
                    "outcome": outcome,
                    "message": message,
                    "new": sorted(ids - known),
                }
            )
            known = ids
        return found

    def _take(self, state: State, text: str) -> Taken:
        config = self._config
        return take(state, text, self._rules, protocol=config.add_protocol, mode=config.grammar)


def _told(taken: Taken) -> tuple[str, str]:
    match taken.outcome:
        case Applied(message=message):
            return "applied", message
        case Refused(code=code, message=message):
            return "refused", f"{code}: {message}"
        case PromptWanted(message=message):
            return "asked", message
        case Finished():
            return "finished", "the director wants to finish"
