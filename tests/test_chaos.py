"""The chaos run: its schedule, its figures, the network of its machines, and a short one."""

from __future__ import annotations

import asyncio
import itertools
import socket
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.chaos import figures
from benchmarks.chaos.network import Bridge, NoNetworkError
from benchmarks.chaos.schedule import GAP_S, WEIGHTS, Fault, draw, pick


@given(st.integers(0, 2**32), st.floats(0, 3600))
def test_a_schedule_can_be_repeated_and_keeps_to_its_time(seed, seconds):
    faults = draw(seed, seconds)
    assert faults == draw(seed, seconds)
    assert all((fault.what, fault.whom) in WEIGHTS for fault in faults)
    assert all(fault.at < seconds for fault in faults)
    assert all((fault.seconds == 0) == (fault.what == "kill") for fault in faults)
    times = [0.0, *(fault.at for fault in faults)]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert all(GAP_S[0] <= gap + 1e-9 and gap - 1e-9 <= GAP_S[1] for gap in gaps)
    assert seconds - times[-1] <= GAP_S[1] + 1e-9


def test_a_longer_schedule_begins_like_a_shorter_one_and_twenty_minutes_have_every_fault():
    long = draw(1, 1200)
    assert long[: len(draw(1, 300))] == draw(1, 300)
    assert {(fault.what, fault.whom) for fault in long} == WEIGHTS.keys()
    assert draw(2, 1200) != long


@given(st.floats(0, 1, exclude_max=True), st.lists(st.integers()))
def test_whoever_there_is_may_be_hit(share, candidates):
    found = pick(Fault(1.0, "kill", "worker", share), candidates)
    assert found in candidates if candidates else found is None


def test_the_time_to_the_next_step():
    records = [{"kind": kind, "time": at} for kind, at in (("step", 1), ("eval", 3), ("step", 7))]
    assert figures.next_steps(records, [0.5, 1, 2, 7]) == [0.5, 6, 5]
    joined = {"kind": "sampler_joined", "sampler/start_seconds": 20, "sampler/join_seconds": 2}
    records = [{**joined, "time": at} for at in (22, 31, 60)]
    assert figures.beyond_start(records, [5, 8.5, 50]) == [31 - 5 - 20, 60 - 8.5 - 20]
    assert not figures.much_less(0.85, 0.9, 100)
    assert not figures.much_less(0.95, 0.9, 100)
    assert figures.much_less(0.70, 0.9, 100)
    done = [(3.0, Fault(1, "kill", "learner", 0)), (4.0, Fault(1, "slow", "learner", 0, 2))]
    assert figures.killed(done, "learner") == [3.0]
    assert figures.told([1, 2, 9]) == "median 2.0 s, longest 9.0 s, of 3"
    assert figures.told([]) == "none"


@pytest.fixture
def bridge():
    try:
        made = Bridge()
    except NoNetworkError as error:
        pytest.skip(f"no network namespaces here: {error}")
    yield made
    made.close()


_SERVER = "import socket; s = socket.create_server(('', 7000)); print('up', flush=True); s.accept()"


def test_a_machine_behind_the_bridge_is_cut_off_and_comes_back(bridge):
    inside = [*bridge.enter(1), sys.executable, "-S", "-c", _SERVER]
    server = subprocess.Popen(inside, stdout=subprocess.PIPE)
    assert server.stdout.readline() == b"up\n"
    bridge.link(1, up=False)
    with pytest.raises(OSError, match=r"timed out|unreachable|No route"):
        socket.create_connection((bridge.address(1), 7000), timeout=0.3)
    bridge.link(1, up=True)
    bridge.limit(1, "2mbit")
    bridge.limit(1, None)
    socket.create_connection((bridge.address(1), 7000), timeout=10).close()
    assert server.wait(10) == 0
    inside = [*bridge.enter(1), "sh", "-c", "echo in; exec sleep 60"]
    stays = subprocess.Popen(inside, stdout=subprocess.PIPE)
    assert stays.stdout.readline() == b"in\n"
    bridge.close()
    assert stays.wait(10) != 0
    assert bridge.name not in subprocess.check_output(["ip", "link"], text=True)


CONFIG = """
model: {path: DIRECTOR, max_length: 512}
tasks: {eval_tasks: 12}
environment:
  prompt: question
  pool: [Search, Programmer]
  max_turns: 4
  max_response_tokens: 400
  max_turn_tokens: 24
  observation_chars: 300
  search: {style: text}
rollout: {group_size: 4}
buffer: {max_lag: 2}
learner: {lr: 1.0e-4, max_tokens: 2048}
train: {groups_per_batch: 2}
"""
SCHEDULE = (
    Fault(1, "kill", "worker", 0.9),
    Fault(2, "freeze", "learner", 0.0, 16.0),  # `supervision.silent_s` is 12
    Fault(3, "kill", "engine", 0.0),
    Fault(5, "cut", "machine", 0.0, 3.0),
    Fault(9, "slow", "buffer", 0.0, 2.0),
    Fault(12, "kill", "machine", 0.9),
)


@pytest.mark.engine
@pytest.mark.timeout(600)
def test_half_a_minute_of_chaos(director, tmp_path):
    """As `python -m benchmarks.chaos`, with numbers that are tiny and faults that are chosen."""
    from benchmarks.chaos.trial import on_machines, read

    config, said = tmp_path / "config.yaml", []
    config.write_text(CONFIG.replace("DIRECTOR", str(director)))
    trial = on_machines(
        *(
            config,
            tmp_path / "chaos",
            ("train.steps=20", "sampler.count=1", "metrics.port=0"),
            SCHEDULE,
        ),
        network=True,
        limit_s=500,
        tell=said.append,
    )
    outcome = asyncio.run(trial)
    about = "\n".join([*said, *map(str, outcome.figures.items())])
    assert outcome.wrong == [], about
    assert outcome.figures["faults"].startswith(f"{len(SCHEDULE)}, and 0"), about
    assert outcome.summary["status"] == "done"
    kinds = {record["kind"] for record in read(tmp_path / "chaos")}
    assert kinds >= {"sampler_lost", "sampler_joined", "worker_lost"}, about
    assert kinds & {"learner_lost", "resumed"}, about  # or the buffer went with the machine
    assert outcome.summary["max_lag_seen"] <= outcome.summary["max_lag"] == 2
