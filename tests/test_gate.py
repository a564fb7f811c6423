"""Limits over all workers, the circuit breaker, and the gate that keeps both."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wfr.backends.base import BackendConfigError
from wfr.backends.breaker import Breaker, Circuit
from wfr.backends.gate import Demand, Gate, Outcome
from wfr.backends.rate import Rate
from wfr.backends.spending import RunBudget
from wfr.executor_config import BreakerConfig, LimitsConfig, SpendingConfig
from wfr.testing import FakeClock, settle

OK, FAILED = Outcome("ok"), Outcome("failed")


def gate_of(clock, *, budget=None, breaker=None, **limits):
    return Gate(
        "main",
        LimitsConfig(**limits),
        breaker or BreakerConfig(failures=3, pause_s=5, longest_pause_s=15, give_up_s=100),
        budget or RunBudget(SpendingConfig()),
        clock=clock,
        sleep=clock.sleep,
    )


def asked(gate, worker="a", calls=1, tokens=0.0, usd=0.0, **options):
    """A lease that is asked for, as a task."""
    return asyncio.ensure_future(gate.lease(worker, Demand(calls, tokens, usd), **options))


# --- rates ---


@given(st.integers(1, 600), st.lists(st.floats(0, 5), max_size=200))
def test_a_rate_is_never_exceeded_in_any_minute(per_minute, pauses):
    """Every request that is let in, at the moment it is let in, against a count of the minute."""
    clock = FakeClock()
    rate, taken = Rate(per_minute, clock), []
    for pause in pauses:
        clock.now += pause
        if rate.wait_s() == 0:
            rate.take(1)
            taken.append(clock.now)
    kept = max(1.0, per_minute / 60)
    for at in taken:
        inside = sum(at <= other < at + 60 for other in taken)
        assert inside <= per_minute + kept + 1


def test_a_rate_lets_through_what_it_allows():
    clock = FakeClock()
    rate, taken = Rate(120, clock), 0
    while clock.now < 60:
        wait = rate.wait_s()
        if wait == 0:
            rate.take(1)
            taken += 1
        clock.now += wait
    assert 120 <= taken <= 123


def test_a_request_larger_than_the_rate_goes_into_debt():
    clock = FakeClock()
    rate = Rate(60, clock)
    assert rate.wait_s() == 0
    rate.take(31)  # it had 1
    assert rate.wait_s() == pytest.approx(31)
    rate.take(-20)  # it took less than was thought
    assert rate.wait_s() == pytest.approx(11)


# --- breaker ---


def test_breaker_opens_probes_and_closes():
    clock = FakeClock()
    breaker = Breaker(BreakerConfig(failures=2, pause_s=5, longest_pause_s=15), clock)
    breaker.failed(probe=False)
    breaker.succeeded(probe=False)
    breaker.failed(probe=False)
    assert breaker.circuit is Circuit.CLOSED  # never two in a row
    breaker.failed(probe=False)
    assert (breaker.circuit, breaker.wait_s()) == (Circuit.OPEN, 5)
    for pause in (10, 15, 15):
        clock.now += breaker.wait_s()
        assert breaker.begin() is True
        assert breaker.wait_s() == float("inf")
        breaker.failed(probe=True)
        assert breaker.wait_s() == pause
    clock.now += 15
    breaker.begin()
    breaker.succeeded(probe=True)
    assert (breaker.circuit, breaker.wait_s(), breaker.down_s) == (Circuit.CLOSED, 0, 0)
    assert breaker.openings == 1


def test_late_answers_do_not_close_an_open_circuit():
    clock = FakeClock()
    breaker = Breaker(BreakerConfig(failures=1), clock)
    breaker.failed(probe=False)
    breaker.succeeded(probe=False)
    assert breaker.circuit is Circuit.OPEN


# --- the gate ---


def test_places_are_shared_in_turn():
    async def run():
        gate = gate_of(FakeClock(), concurrency=4)
        first = asked(gate, "a", calls=100)
        await settle()
        assert first.result().calls == 4  # nobody else waits
        leases = {name: asked(gate, name, calls=100) for name in "bcd"}
        await settle()
        assert gate.in_flight == 4
        assert not any(lease.done() for lease in leases.values())
        gate.give_back("a", [OK] * 3)
        await settle()
        assert [lease.result().calls for lease in leases.values()] == [1, 1, 1]
        assert gate.in_flight == 4

    asyncio.run(run())


def test_a_dead_worker_holds_nothing():
    async def run():
        budget = RunBudget(SpendingConfig(tokens=100))
        gate = gate_of(FakeClock(), budget=budget, concurrency=2)
        held = asked(gate, "a", calls=2, tokens=50)
        await settle()
        assert held.result().calls == 2
        waiting = asked(gate, "b", tokens=50)
        await settle()
        assert not waiting.done()
        gate.forget("a")
        await settle()
        assert waiting.result().calls == 1
        gate.give_back("a", [OK, OK])  # news from the grave changes nothing
        assert gate.in_flight == 1

    asyncio.run(run())


def test_a_lease_that_nobody_takes_is_given_back():
    async def run():
        gate = gate_of(FakeClock(), concurrency=1)
        await gate.lease("b", Demand(1))
        lease = asked(gate)
        await settle()
        gate.give_back("b", [OK])
        lease.cancel()  # it is granted, but its caller has not run since
        await settle()
        assert gate.in_flight == 0

    asyncio.run(run())


def test_the_rate_is_one_for_all_workers():
    async def run():
        clock = FakeClock()
        gate = gate_of(clock, concurrency=1000, requests_per_minute=60)
        granted = []

        async def worker(name):
            while True:
                granted.append((await gate.lease(name, Demand(10))).calls)

        tasks = [asyncio.ensure_future(worker(name)) for name in "abc"]
        await clock.pass_(60)
        assert 60 <= sum(granted) <= 62
        for task in tasks:
            task.cancel()

    asyncio.run(run())


def test_tokens_are_corrected_by_what_was_used():
    async def run():
        clock = FakeClock()
        gate = gate_of(clock, tokens_per_minute=60)
        asked(gate, tokens=101)
        await settle()
        second = asked(gate, tokens=1)
        await clock.pass_(50)
        assert not second.done()  # 50 of 101 have flowed in
        gate.give_back("a", [Outcome("ok", (101.0, 0.0), tokens=40)])
        await clock.pass_(1)
        assert second.done()

    asyncio.run(run())


def test_a_busy_backend_is_left_alone_by_all():
    async def run():
        clock = FakeClock()
        gate = gate_of(clock)
        await gate.lease("a", Demand(1))
        gate.give_back("a", [Outcome("busy", hold_s=7)])
        other = asked(gate, "b")
        await clock.pass_(6.9)
        assert not other.done()
        await clock.pass_(0.2)
        assert other.done()
        assert gate.breaker.circuit is Circuit.CLOSED

    asyncio.run(run())


def test_down_then_one_probe_then_all():
    async def run():
        clock = FakeClock()
        gate = gate_of(clock, concurrency=8)
        await gate.lease("a", Demand(3))
        gate.give_back("a", [FAILED] * 3)
        waiting = asked(gate, "a", calls=5)
        turned_away = await gate.lease("b", Demand(1), patient=False)
        assert turned_away.calls == 0
        await clock.pass_(5)
        assert waiting.result() == (1, True)
        others = asked(gate, "b", calls=5)
        await clock.pass_(60)
        assert not others.done()  # one probe at a time, however long it takes
        gate.give_back("a", [Outcome("ok", probe=True)])
        await settle()
        assert others.result() == (5, False)

    asyncio.run(run())


def test_a_probe_that_dies_with_its_worker_is_repeated():
    async def run():
        clock = FakeClock()
        gate = gate_of(clock)
        await gate.lease("a", Demand(3))
        gate.give_back("a", [FAILED] * 3)
        probe = asked(gate, "a")
        await clock.pass_(5)
        assert probe.result().probe
        other = asked(gate, "b")
        gate.forget("a")
        await settle()
        assert other.result().probe

    asyncio.run(run())


def test_a_backend_that_stays_down_is_given_up():
    async def run():
        clock = FakeClock()
        gate = gate_of(clock)
        await gate.lease("a", Demand(3))
        gate.give_back("a", [FAILED] * 3)
        for _ in range(20):
            lease = asked(gate)
            await clock.pass_(15)
            if lease.done() and lease.exception():
                break
            gate.give_back("a", [Outcome("failed", probe=True)])
        with pytest.raises(BackendConfigError, match=r"'main' has not answered for 1\d\d s"):
            lease.result()

    asyncio.run(run())


# --- the run's budget ---


def test_a_run_stops_short_of_its_budget():
    async def run():
        budget = RunBudget(SpendingConfig(usd=1.0))
        gate = gate_of(FakeClock(), budget=budget)
        leases = [asked(gate, name, usd=0.4) for name in "abc"]
        await settle()
        assert [lease.done() for lease in leases] == [True, True, False]
        assert budget.refused == ""  # what is under way may cost less
        gate.give_back("a", [Outcome("ok", (0.0, 0.4), usd=0.1)])
        await settle()
        assert leases[2].done()
        for worker, usd in (("b", 0.4), ("c", 0.4)):
            gate.give_back(worker, [Outcome("ok", (0.0, 0.4), usd=usd)])
        last = asked(gate, "d", usd=0.4)
        await settle()
        assert not last.done()
        assert budget.refused == "executor.budget.run.usd=1"
        assert budget.spent.usd == pytest.approx(0.9)
        last.cancel()

    asyncio.run(run())


# --- all of it, in any order ---


class Workers:
    """Three workers, and a plain count of what each of them holds."""

    def __init__(self, limit):
        self.clock = FakeClock()
        self.gate = gate_of(self.clock, concurrency=limit)
        self.held = {name: [] for name in "abc"}
        self.pending = []

    def ask(self, worker, number):
        self.pending.append((worker, asked(self.gate, worker, calls=number)))

    def forget(self, worker, _):
        self.gate.forget(worker)
        self.held[worker].clear()
        self.pending = [entry for entry in self.pending if entry[0] != worker]

    def cancel(self, *_):
        if self.pending:
            self.pending.pop(0)[1].cancel()

    def end(self, worker, result):
        if self.held[worker]:
            self.gate.give_back(worker, [Outcome(result, probe=self.held[worker].pop())])

    def collect(self):
        for worker, lease in [entry for entry in self.pending if entry[1].done()]:
            self.held[worker] += [lease.result().probe] * lease.result().calls
        self.pending = [entry for entry in self.pending if not entry[1].done()]

    async def happen(self, event, worker, number):
        if event == "pass":
            await self.clock.pass_(number)
        elif event in ("ok", "failed", "busy"):
            self.end(worker, event)
        else:
            getattr(self, event)(worker, number)
        await settle(rounds=5)
        self.collect()

    async def finish(self):
        while self.pending:
            for worker in self.held:
                while self.held[worker]:
                    self.end(worker, "ok")
            await self.clock.pass_(20)
            self.collect()


_EVENTS = st.sampled_from(["ask", "ok", "failed", "busy", "forget", "cancel", "pass"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(_EVENTS, st.sampled_from("abc"), st.integers(1, 5)), max_size=60))
def test_never_more_than_allowed_and_never_stuck(events):
    async def run():
        workers = Workers(limit=4)
        for event in events:
            await workers.happen(*event)
            held = sum(map(len, workers.held.values()))
            assert held == workers.gate.in_flight <= 4
        async with asyncio.timeout(20):
            await workers.finish()

    asyncio.run(run())
