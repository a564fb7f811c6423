"""What an operator asks its backend for: the fields of the reply, and asking once more."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

from wfr.backends.base import Backend, Completion, OperatorRequest
from wfr.operators.base import tagged
from wfr.operators.meter import Meter
from wfr.operators.values import NodeError
from wfr.trajectory import OperatorCall

Reply: TypeAlias = Mapping[str, str]
"""The fields of a reply by name; verdicts are `true` or `false`."""

MISSING = "missing_field"
_QUOTED_CHARS = 1500
_VERDICTS = {"true": "true", "yes": "true", "false": "false", "no": "false"}


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """One tag of a reply, `<name>…</name>`.

    Attributes:
        default: what counts where the tag is absent; without one the field is required.
        kind: a `verdict` is true or false (or yes or no), a `text` is anything but blank.
    """

    name: str
    default: str | None = None
    kind: Literal["text", "verdict"] = "text"


class UnusableReplyError(ValueError):
    """A reply that cannot be used; the text tells the backend what to do better."""


def read_fields(fields: Sequence[Field], text: str) -> Reply:
    """The fields of a reply; raises UnusableReplyError where a required one is missing."""
    reply: dict[str, str] = {}
    missing = []
    for field in fields:
        content = next(iter(tagged(text, field.name)), "")
        if field.kind == "verdict":
            content = _VERDICTS.get(content.lower().rstrip("."), "")
        if content or field.default is not None:
            reply[field.name] = content or (field.default or "")
        else:
            what = "true or false" if field.kind == "verdict" else "…"
            missing.append(f"<{field.name}>{what}</{field.name}>")
    if missing:
        raise UnusableReplyError(f"it lacks {', '.join(missing)}")
    return reply


async def ask(
    backend: Backend, request: OperatorRequest, read: Callable[[str], Reply], meter: Meter
) -> Reply | NodeError:
    """The reply as `read` understands it; asked once more where it raises UnusableReplyError.

    Raises:
        BudgetSpentError: as the meter does.
        WorldFailureError: as the backend does.
    """
    complaint = ""
    for attempt in (0, 1):
        text, status = await _complete(backend, request, meter)
        if status not in ("ok", "cut"):
            return NodeError(status, text)
        try:
            return read(text)
        except UnusableReplyError as error:
            complaint = str(error)
        if attempt == 0:
            request = dataclasses.replace(request, prompt=_again(request.prompt, text, complaint))
    return NodeError(MISSING, f"the reply was unusable twice: {complaint}")


async def _complete(backend: Backend, request: OperatorRequest, meter: Meter) -> tuple[str, str]:
    meter.claim()
    started = time.perf_counter()
    completion = await backend.complete(request)
    meter.record(call_of(request, backend, completion, time.perf_counter() - started))
    return completion.text, completion.status


def call_of(
    request: OperatorRequest, backend: Backend, completion: Completion, seconds: float
) -> OperatorCall:
    """The record of one call."""
    return OperatorCall(
        request.operator,
        completion.backend or backend.name,
        seconds,
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
        cost_usd=completion.cost_usd,
        cache_hit=completion.cache_hit,
        status=completion.status,
    )


def _again(prompt: str, text: str, complaint: str) -> str:
    return (
        f"{prompt}\n\nYour last reply was:\n{text[:_QUOTED_CHARS]}\n\n"
        f"It cannot be used: {complaint}. Reply again, shortly, and with every tag that was asked "
        "for."
    )
