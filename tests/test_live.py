"""The live view: what it says, at any width, and what it costs."""

from __future__ import annotations

import io
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from cluster.live import LiveView, sparkline
from cluster.progress import REFRESHES_PER_SECOND, Progress


def step(number, **more):
    return {
        "kind": "step",
        "time": 1000.0 + 10 * number,
        "step": number,
        "version": number,
        "reward/mean": number / 100,
        "reward/correct": 0.5,
        "entropy": 0.25,
        "lag/histogram": {0: 3, 2: 1},
        "seconds/training_loop": {"groups": 6.0 * number, "train": 4.0 * number},
        "seconds/workers": {"sampler": 3.0 * number, "operator": 1.0 * number},
        "tokens/generated": 5000 * number,
        "tokens/consumed": 4000 * number,
        "tokens/discarded": {"late": 50 * number},
        "slots/in_flight": 3,
        "learner/step_seconds": 4.0,
        "publish/seconds": 0.1,
        **more,
    }


def drawn(view, width=120):
    console = Console(width=width, file=io.StringIO())
    console.print(view)
    return console.file.getvalue()


@pytest.fixture
def view():
    view = LiveView("demo")
    view.phase("training, max_lag 4")
    view.observe({"kind": "run", "train/steps": 20, "executor/budget_usd": 5.0})
    for number in range(1, 11):
        view.observe(step(number))
    return view


@pytest.mark.parametrize("width", [60, 80, 99, 100, 101, 110, 160])
def test_values_are_whole_beside_their_curves(view, width):
    for number in range(11, 200):
        view.observe(step(number))
    text = drawn(view, width)
    assert "+1.990" in text
    assert "+0.250" in text


def test_ages_are_counted_by_the_clock_given():
    now = iter([100.0, *[165.0] * 5])
    view = LiveView(clock=lambda: next(now))
    view.observe({"kind": "worker_lost", "name": "worker-1", "time": 160.0})
    text = drawn(view)
    assert "elapsed 1:05" in text
    assert "0:05 ago: worker-1" in text


def test_it_says_how_far_how_fast_and_what_is_waited_for(view):
    view.observe({"kind": "eval", "version": 8, "em": 0.75})
    view.observe({"kind": "executor", "executor/usd": {"a": 1.0, "b": 0.5}})
    text = drawn(view)
    for words in (
        *("demo: training, max_lag 4", "10/20", "remaining about 1:40"),
        *("500 sampled, 400 trained on", "$1.50 of $5.00", "held out: 0.750 at version 8"),
        *("+0.100", "▁▂▃▃▄▅▆▆▇█", "1.0% of the tokens"),
    ):
        assert words in text, words
    shown = {line for line in text.splitlines() if "%" in line}
    for phase, share in (("waits for groups", "60%"), ("trains", "40%"), ("sampler", "75%")):
        assert any(phase in line and share in line for line in shown)


@pytest.mark.parametrize("width", [20, 40, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal(view, width):
    view.observe({"kind": "sampler_lost", "name": "sampler-0", "why": "x" * 500, "time": 0})
    assert max(map(len, drawn(view, width).splitlines())) <= width


def test_it_draws_before_the_first_record():
    assert "0/0" in drawn(LiveView())


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"kind": "sampler_lost", "name": "sampler-1", "why": "[b]killed"}, "sampler-1 was lost"),
        ({"kind": "worker_lost", "name": "worker-0"}, "worker-0 died"),
        ({"kind": "learner_lost", "why": "a hang"}, "the learner was lost: a hang"),
        ({"kind": "refused", "groups/refused": {"not_finite": 2}}, "not_finite"),
        ({"kind": "disk", "disk/full": 1}, "the disk is full"),
        ({"kind": "executor", "executor/down": {"main": 1, "b": 0}}, "executor main is down"),
    ],
)
def test_the_last_problems_are_shown(view, record, words):
    assert "no problems" in drawn(view)
    view.observe(record)
    view.observe(record)
    assert drawn(view).count(words) == 1


def test_gaps_and_nulls_are_no_reason_to_fail(view):
    view.observe({"kind": "step", "time": 2000.0, "step": 11, "reward/mean": None})
    view.observe({"kind": "something"})
    assert "11/20" in drawn(view)


@given(st.lists(st.floats(-1e6, 1e6), max_size=300), st.integers(1, 80))
def test_a_sparkline_fits_and_keeps_the_order(values, columns):
    line = sparkline(values, columns)
    assert len(line) == min(columns, len(values))
    if len(values) <= columns:
        blocks = [" ▁▂▃▄▅▆▇█".index(block) for block in line]
        pairs = [(i, j) for i in range(len(values)) for j in range(i) if values[i] > values[j]]
        assert all(blocks[i] >= blocks[j] for i, j in pairs)


def test_drawing_takes_a_small_share_of_a_core(view):
    for number in range(11, 600):
        view.observe(step(number))
    taken = []
    for _ in range(5):
        started = time.process_time()
        drawn(view)
        taken.append(time.process_time() - started)
    assert REFRESHES_PER_SECOND * min(taken) < 0.1


def test_another_thread_may_draw_while_records_come_in(view):
    faults, stop = [], threading.Event()

    def draw():
        try:
            while not stop.is_set():
                drawn(view)
        except RuntimeError as error:
            faults.append(error)

    thread = threading.Thread(target=draw)
    thread.start()
    for number in range(11, 400):
        view.observe(step(number))
        view.observe({"kind": "worker_lost", "name": f"worker-{number}"})
    stop.set()
    thread.join()
    assert not faults


def test_a_terminal_gets_the_view_and_notes_above_it(monkeypatch, capsys):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "120")
    progress = Progress(name="demo")
    progress.phase("training")
    record = step(1)
    progress.observe(record)
    progress.step(record, 7)
    progress.note("a checkpoint")
    progress.close()
    text = capsys.readouterr().err
    assert "1/7" in text
    assert "a checkpoint" in text
