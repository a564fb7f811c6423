"""A turn that an update cuts off goes on under the new weights: policy `abort_resend`.

The engine gives back what it has sampled so far; those tokens keep their versions and log-probs and
are sent again as the end of the prompt, and the rest of the turn is sampled after the update.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from wfr.protocols import Sample, SamplingRequest
from wfr.trajectory import VersionSpan

ABORTED = "abort"
"""Finish reason of a request that an update, or its sampler's leaving, has cut off."""


async def sample_whole(
    generate: Callable[[SamplingRequest], Awaitable[Sample]],
    request: SamplingRequest,
    text: Callable[[Sequence[int]], str],
    leaving: Callable[[], bool] = lambda: False,
) -> Sample:
    """Sample `request` to its end, sending it again as often as an update cuts it off.

    Once the sampler is `leaving`, what there is so far is given back, ABORTED, for another one to
    go on with; where it may end in the beginning of a stop string, as soon as that is decided.

    Budget and stop strings are those of one uncut request: a stop string across the cut ends the
    turn too, although the engine, which takes the first half for prompt, cannot see it. Where the
    text so far may be the beginning of one, tokens are asked for one by one until it is decided.

    Args:
        generate: one request to the engine; `finish_reason` is ABORTED where it was cut off.
        request: what the caller wants. Its seed fixes the part up to the first cut, and another
            seed derived from it each later one, so that no random number is used twice.
        text: of token ids.
        leaving: whether this sampler is to be gone soon.
    """
    whole = await generate(request)
    while whole.finish_reason == ABORTED:
        room = request.max_tokens - len(whole.tokens)
        if room == 0:
            return dataclasses.replace(whole, finish_reason="length")
        undecided = may_be_stopping(text(whole.tokens.tolist()), request.stop)
        if leaving() and not undecided:
            return whole
        part = await generate(_rest(request, whole.tokens, 1 if undecided else room))
        whole = join(whole, part)
        if undecided and part.finish_reason == "length":
            ended = any(stop in text(whole.tokens.tolist()) for stop in request.stop)
            reason = "stop" if ended else ABORTED
            whole = dataclasses.replace(whole, finish_reason=reason)
    return whole


def may_be_stopping(text: str, stops: Sequence[str]) -> bool:
    """Whether `text` ends with the beginning of a stop string, but not with all of it."""
    return any(text.endswith(stop[:n]) for stop in stops for n in range(1, len(stop)))


def join(first: Sample, then: Sample) -> Sample:
    """Both in a row; a version that goes on across the seam makes one span."""
    offset = len(first.tokens)
    spans = list(first.spans)
    for span in then.spans:
        moved = VersionSpan(span.start + offset, span.end + offset, span.version)
        if spans and spans[-1].version == moved.version:
            moved = dataclasses.replace(moved, start=spans.pop().start)
        spans.append(moved)
    return Sample(
        np.concatenate([first.tokens, then.tokens]),
        np.concatenate([first.logprob, then.logprob]),
        tuple(spans),
        then.finish_reason,
    )


def _rest(request: SamplingRequest, sampled: np.ndarray, max_tokens: int) -> SamplingRequest:
    seed = request.seed
    if seed is not None:
        seed = zlib.crc32(f"{seed} {len(sampled)}".encode())
    tokens = [*request.tokens, *sampled.tolist()]
    return dataclasses.replace(request, tokens=tokens, max_tokens=max_tokens, seed=seed)
