"""The gate: what is sent stays as it is, and whoever waits is let through."""

from __future__ import annotations

import contextlib
import threading
import types

import pytest

from learner.weights_gate import WeightsGate


class Thread(threading.Thread):
    """Runs one call; `passed` is set when it has returned."""

    def __init__(self, call):
        super().__init__(daemon=True)
        self.call, self.passed = call, threading.Event()
        self.start()

    def run(self):
        self.call()
        self.passed.set()


def waits(thread):
    return not thread.passed.wait(0.05)


def passes(thread):
    return thread.passed.wait(10)


def send(gate):
    with gate.sending():
        pass


def test_nothing_waits_where_nothing_was_announced():
    gate = WeightsGate()
    for _ in range(2):
        gate.begin_change()
        gate.begin_change()  # a second minibatch
        gate.end_change()
        gate.end_change()
        send(gate)


def test_a_change_waits_for_the_version_that_was_announced():
    gate = WeightsGate()
    gate.hold()
    change = Thread(gate.begin_change)
    assert waits(change)
    send(gate)
    assert passes(change)


def test_a_send_that_failed_does_not_let_the_change_through():
    gate = WeightsGate()
    gate.hold()
    change = Thread(gate.begin_change)
    with pytest.raises(RuntimeError), gate.sending():
        raise RuntimeError("a sampler died")
    assert waits(change)
    send(gate)
    assert passes(change)


def test_a_send_waits_for_the_end_of_a_change():
    gate = WeightsGate()
    gate.begin_change()
    sending = Thread(lambda: send(gate))
    gate.begin_change()
    assert waits(sending)
    gate.end_change()
    assert passes(sending)


def test_a_change_waits_for_a_send_that_nobody_announced():
    """A sampler that joins gets the weights at any time."""
    gate = WeightsGate()
    with contextlib.ExitStack() as stack:
        stack.enter_context(gate.sending())
        change = Thread(gate.begin_change)
        assert waits(change)
    assert passes(change)


def test_no_value_changes_while_it_is_read():
    """Many sends beside many changes of two values that have to stay equal."""
    gate, values, torn = WeightsGate(), [0, 0], []

    def change():
        for _ in range(300):
            gate.begin_change()
            values[0] += 1
            values[1] += 1
            gate.end_change()

    def read():
        for _ in range(300):
            with gate.sending():
                first = values[0]
                torn.append(first != values[1])

    threads = [Thread(change), Thread(read), Thread(read)]
    assert all(passes(thread) for thread in threads)
    assert len(torn) == 600
    assert not any(torn)


@pytest.mark.engine
def test_a_probe_that_swaps_weights_waits_for_the_version_that_travels():
    from learner.learner import Learner

    gate, measured = WeightsGate(), threading.Event()

    class Probe:
        def measure(self, version, rows, seed):
            measured.set()
            return {}

    config = types.SimpleNamespace(run=types.SimpleNamespace(seed=0))
    learner = types.SimpleNamespace(_probe=Probe(), _gate=gate, _version=1, _config=config)
    gate.hold()
    probing = Thread(lambda: Learner._measure(learner, []))
    assert waits(probing)
    assert not measured.is_set()
    send(gate)
    assert passes(probing)
    assert measured.is_set()
