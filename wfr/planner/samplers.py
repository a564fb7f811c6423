"""Samplers: engines that serve all their requests at once, each at a share of the speed.

An engine with n requests decodes R(n) tokens/s, so that each of them gets a token every
τ(n) = n / R(n) seconds. Its *clock* counts the tokens that a request gets which is always there; a
request of d tokens that begins at clock c ends at c + d, whoever else comes and goes. So one number
per engine has to be brought up to date with each event, not one per request.

Reading a prompt holds the clock still: it takes the engine's time from all requests.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

from wfr.planner.scenario import SamplerPlan

Request = tuple[int, int, float, float, Any]
"""Priority, number that tells requests apart, tokens to read, tokens to decode, whose it is."""


def token_seconds(plan: SamplerPlan) -> list[float]:
    """τ(n) for n = 0, 1, ..., `max_num_seqs` requests at once; that of none is that of one."""
    points = sorted((n, n / rate) for n, rate in plan.curve.items())
    if len(points) == 1:
        n, tau = points[0]
        return [tau * max(1, k) / n for k in range(plan.max_num_seqs + 1)]
    found, at = [], 0
    for k in range(plan.max_num_seqs + 1):
        while at < len(points) - 2 and k > points[at + 1][0]:
            at += 1
        (few, low), (many, high) = points[at], points[at + 1]
        found.append(max(points[0][1] * 0.5, low + (high - low) * (max(1, k) - few) / (many - few)))
    return found


class Samplers:
    """All engines of a run; times are seconds of the simulation."""

    def __init__(
        self,
        plan: SamplerPlan,
        wake: Callable[[float, int, int], None],
        started: Callable[[Any, float], None],
    ) -> None:
        """No requests yet.

        Args:
            plan: count, places and speed.
            wake: called with the time of an engine's next end, the engine, and a stamp; `ended` is
                to be called then.
            started: called when a request leaves its queue for a place in the engine.
        """
        self._tau = token_seconds(plan)
        self._read_s = 1 / plan.prefill_tokens_per_s if plan.prefill_tokens_per_s else 0.0
        self._places = plan.max_num_seqs
        self._wake = wake
        self._started = started
        self.count = count = plan.count
        self._clock = [0.0] * count
        self._seen = [0.0] * count
        self._reading = [0.0] * count  # seconds of prompts yet to be read
        self._running: list[list[tuple[float, int, Any]]] = [[] for _ in range(count)]
        self._waiting: list[list[Request]] = [[] for _ in range(count)]
        self._stamp = [0] * count
        self._episodes = [0] * count
        self._order = [(0, s) for s in range(count)]
        self._held = False
        self._speed = 1.0
        self.busy = 0
        self.seconds = {"decode": 0.0, "prefill": 0.0, "paused": 0.0, "idle": 0.0}
        self.request_seconds = 0.0

    # ---- episodes stick to an engine, the one with the fewest

    def assign(self) -> int:
        """An engine for one more episode."""
        while True:
            load, engine = heapq.heappop(self._order)
            if load == self._episodes[engine]:
                self._change(engine, +1)
                return engine

    def release(self, engine: int) -> None:
        """An episode is over."""
        self._change(engine, -1)

    def _change(self, engine: int, by: int) -> None:
        self._episodes[engine] += by
        heapq.heappush(self._order, (self._episodes[engine], engine))
        if len(self._order) > _STALE * self.count:
            self._order = sorted((load, engine) for engine, load in enumerate(self._episodes))

    # ---- requests

    def submit(self, engine: int, request: Request, now: float) -> None:
        """A request comes in; it begins now if there is a place."""
        if len(self._running[engine]) < self._places and not self._held:
            self._advance(engine, now)
            self._begin(engine, request, now)
            self._plan(engine, now)
        else:
            heapq.heappush(self._waiting[engine], request)

    def ended(self, engine: int, stamp: int, now: float) -> Any:
        """The request that ends now, or None where the plan has changed since."""
        if stamp != self._stamp[engine]:
            return None
        self._advance(engine, now)
        running = self._running[engine]
        end, _, owner = heapq.heappop(running)
        self._clock[engine] = end
        if not running:
            self.busy -= 1
        if self._waiting[engine]:
            self._begin(engine, heapq.heappop(self._waiting[engine]), now)
        self._plan(engine, now)
        return owner

    def _begin(self, engine: int, request: Request, now: float) -> None:
        _, number, reads, tokens, owner = request
        running = self._running[engine]
        if not running:
            self.busy += 1
        heapq.heappush(running, (self._clock[engine] + tokens, number, owner))
        self._reading[engine] += reads * self._read_s
        self._started(owner, now)

    # ---- time

    def hold(self, now: float) -> None:
        """Stand still: new weights come in."""
        self._advance_all(now)
        self._held = True
        self._plan_all(now)

    def go_on(self, now: float) -> None:
        """Go on, also with what came in meanwhile."""
        self._advance_all(now)
        self._held = False
        for engine, waiting in enumerate(self._waiting):
            while waiting and len(self._running[engine]) < self._places:
                self._begin(engine, heapq.heappop(waiting), now)
        self._plan_all(now)

    def set_speed(self, speed: float, now: float) -> None:
        """Work at a share of the full speed from now on."""
        if speed != self._speed:
            self._advance_all(now)
            self._speed = speed
            self._plan_all(now)

    def settle(self, now: float) -> None:
        """Bring `seconds` and `request_seconds` up to date."""
        self._advance_all(now)

    def _advance_all(self, now: float) -> None:
        for engine in range(self.count):
            self._advance(engine, now)

    def _plan_all(self, now: float) -> None:
        for engine in range(self.count):
            self._plan(engine, now)

    def _advance(self, engine: int, now: float) -> None:
        span = now - self._seen[engine]
        if span <= 0:
            return
        self._seen[engine] = now
        running = len(self._running[engine])
        self.request_seconds += running * span
        if self._held:
            self.seconds["paused"] += span
        elif not running:
            self.seconds["idle"] += span
        else:
            read = min(self._reading[engine] / self._speed, span)
            if read:
                self._reading[engine] -= read * self._speed
                self.seconds["prefill"] += read
            self.seconds["decode"] += span - read
            self._clock[engine] += (span - read) * self._speed / self._tau[running]

    def _plan(self, engine: int, now: float) -> None:
        """Foretell the end of the request that ends first, if nothing comes between."""
        stamp = self._stamp[engine] = self._stamp[engine] + 1
        running = self._running[engine]
        if running and not self._held:
            ahead = (running[0][0] - self._clock[engine]) * self._tau[len(running)]
            ahead = max(0.0, ahead) + self._reading[engine]
            self._wake(now + ahead / self._speed, engine, stamp)


_STALE = 8
"""Entries per engine in the order of loads, outdated ones included."""
