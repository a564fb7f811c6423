"""The recorder: grows one trajectory's buffers turn by turn; sampled ids go in as bytes."""

from __future__ import annotations

import array
import base64
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wfr.protocols import Sample
from wfr.trajectory import Turn, TurnKind, VersionSpan


class Recorder:
    """Appends prompt, samples and observations; every sampled id is kept as it was sampled."""

    def __init__(self, prompt: Sequence[int]) -> None:
        """Begin with the prompt's token ids."""
        self.tokens = array.array("i", prompt)
        self._prompt_tokens = len(prompt)
        self.turns: list[Turn] = []
        self.spans: list[VersionSpan] = []
        self._turn_id = array.array("h")
        self._logprob = array.array("f")
        self._pad(len(prompt))
        self._turn_start = len(prompt)
        self._context = 0

    def __len__(self) -> int:
        """Tokens so far."""
        return len(self.tokens)

    @property
    def response_length(self) -> int:
        """Tokens besides the prompts."""
        return len(self.tokens) - self._prompt_tokens

    @property
    def context_tokens(self) -> array.array[int]:
        """Tokens that the policy sees: the context's prompt, and all since."""
        return self.tokens[self._context :]

    @property
    def context_length(self) -> int:
        """Count of these tokens."""
        return len(self.tokens) - self._context

    @property
    def turn_tokens(self) -> array.array[int]:
        """Tokens of the turn being sampled."""
        return self.tokens[self._turn_start :]

    def add_sample(self, sample: Sample) -> None:
        """Append sampled tokens to the turn being sampled."""
        offset = len(self.tokens)
        self.tokens.frombytes(_raw(sample.tokens, np.int32))
        self._logprob.frombytes(_raw(sample.logprob, np.float32))
        self._turn_id.extend(array.array("h", [len(self.turns)]) * len(sample.tokens))
        for span in sample.spans:
            self._add_span(VersionSpan(offset + span.start, offset + span.end, span.version))

    def end_turn(
        self,
        observation: Sequence[int] = (),
        *,
        kind: TurnKind,
        finish_reason: str,
        operator: str = "",
    ) -> None:
        """Close the turn and append the observation's token ids."""
        end = len(self.tokens)
        self.tokens.extend(observation)
        self._pad(len(observation))
        total = len(self.tokens)
        self.turns.append(
            Turn(self._turn_start, end, total, kind, finish_reason, operator, self._context)
        )
        self._turn_start = total

    def begin_context(self, prompt: Sequence[int]) -> None:
        """Let the next turn see `prompt` and nothing before it."""
        self._context = len(self.tokens)
        self.tokens.extend(prompt)
        self._pad(len(prompt))
        self._prompt_tokens += len(prompt)
        self._turn_start = len(self.tokens)

    def last_turn(self) -> dict[str, Any]:
        """What the last turn appended, as plain values for the turn journal.

        Token ids and log-probabilities are their bytes in base 64: int32, float32. Tokens behind
        its observation are the prompt of a fresh context.
        """
        turn = self.turns[-1]
        return {
            "turn": dataclasses.astuple(turn),
            "tokens": _text(self.tokens[turn.start :]),
            "logprob": _text(self._logprob[turn.start : turn.end]),
            "spans": [
                [max(span.start, turn.start), span.end, span.version]
                for span in self.spans
                if span.end > turn.start
            ],
        }

    def restore_turn(self, saved: Mapping[str, Any]) -> None:
        """Append a turn that `last_turn` described."""
        start, end, observation_end, kind, finish_reason, operator, _ = saved["turn"]
        if start != len(self.tokens):
            raise ValueError(f"a saved turn begins at token {start}, not at {len(self.tokens)}")
        spans = (VersionSpan(a - start, b - start, version) for a, b, version in saved["spans"])
        ids = _of_text(saved["tokens"], np.int32)
        logprob = _of_text(saved["logprob"], np.float32)
        self.add_sample(Sample(ids[: end - start], logprob, tuple(spans), finish_reason))
        self.end_turn(
            array.array("i", ids[end - start : observation_end - start].tobytes()),
            kind=TurnKind(kind),
            finish_reason=finish_reason,
            operator=operator,
        )
        if len(fresh := ids[observation_end - start :]):
            self.begin_context(array.array("i", fresh.tobytes()))

    def close(self) -> None:
        """End a turn that was cut short, so that its tokens are accounted for."""
        if len(self.tokens) > self._turn_start:
            self.end_turn(kind=TurnKind.MALFORMED, finish_reason="cut")

    def columns(self) -> dict[str, np.ndarray]:
        """`tokens` int32, `turn_id` int16 and `behaviour_logprob` float32, each [T].

        They are views: nothing may be appended while one of them lives.
        """
        return {
            "tokens": np.frombuffer(self.tokens, np.int32),
            "turn_id": np.frombuffer(self._turn_id, np.int16),
            "behaviour_logprob": np.frombuffer(self._logprob, np.float32),
        }

    def _pad(self, count: int) -> None:
        """Ids that the policy did not write have no turn and no log-probability."""
        self._turn_id.extend(array.array("h", [-1]) * count)
        self._logprob.extend(array.array("f", [0.0]) * count)

    def _add_span(self, span: VersionSpan) -> None:
        last = self.spans[-1] if self.spans else None
        if last and last.end == span.start and last.version == span.version:
            self.spans[-1] = VersionSpan(last.start, span.end, last.version)
        else:
            self.spans.append(span)


def _raw(values: np.ndarray, kind: type[np.generic]) -> memoryview:
    """The bytes of an array, in place where it has the right type."""
    return np.ascontiguousarray(values, kind).view(np.uint8).data


def _text(values: array.array[Any]) -> str:
    """The bytes of an array in base 64."""
    return base64.b64encode(values).decode()


def _of_text(text: str | Sequence[float], kind: type[np.generic]) -> np.ndarray:
    """The array of `_text`; or of a list of numbers, as earlier turn journals have it."""
    if isinstance(text, str):
        return np.frombuffer(base64.b64decode(text), kind)
    return np.array(text, kind)
