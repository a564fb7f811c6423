"""The supervisor, the budget of losses and the quarantine, under any history."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cluster.quarantine import Quarantine
from cluster.retries import LossBudget
from cluster.supervisor import Supervisor
from wfr.supervision_config import SupervisionConfig
from wfr.testing import FakeClock

RULES = SupervisionConfig(
    heartbeat_s=5, silent_s=20, retries=3, quarantine_losses=3, quarantine_s=100
)


@dataclasses.dataclass
class Bench:
    """A supervisor, and its clock that a test moves on."""

    clock: FakeClock = dataclasses.field(default_factory=FakeClock)

    def __post_init__(self):
        self.supervisor = Supervisor(RULES, self.clock)

    def wait(self, seconds, every=1.0):
        """Let time pass in small looks; returns who was asked and who was condemned, in order."""
        asked, condemned = [], []
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.now += every
            self.supervisor.look()
            asked += self.supervisor.ask()
            condemned += self.supervisor.condemn()
        return asked, condemned


def test_each_process_is_asked_once_a_heartbeat_while_it_answers():
    bench = Bench()
    bench.supervisor.keep(["a", "b"])
    assert bench.wait(4) == ([], [])
    asked, condemned = bench.wait(1)
    assert (sorted(asked), condemned) == (["a", "b"], [])
    assert bench.wait(4)[0] == []
    bench.supervisor.answered("a")
    assert bench.wait(1)[0] == ["a"]  # b has a question open


def test_a_process_that_does_not_answer_is_condemned_once_and_in_time():
    bench = Bench()
    bench.supervisor.keep(["a"])
    assert bench.wait(24)[1] == []
    assert bench.supervisor.silence("a") == 19
    assert bench.wait(1)[1] == ["a"]
    assert bench.wait(100)[1] == []


def test_a_late_answer_saves():
    bench = Bench()
    bench.supervisor.keep(["a"])
    bench.wait(24)
    bench.supervisor.answered("a")
    assert bench.supervisor.silence("a") == 0
    assert bench.wait(20)[1] == []


def test_a_replacement_under_the_same_name_begins_anew():
    bench = Bench()
    bench.supervisor.keep(["a"])
    bench.wait(60)
    bench.supervisor.keep([])
    bench.supervisor.answered("a")  # of the one that is gone
    bench.supervisor.keep(["a"])
    assert bench.supervisor.silence("a") == 0
    assert bench.wait(24)[1] == []


def test_a_sleep_of_the_supervisor_itself_condemns_nobody():
    bench = Bench()
    bench.supervisor.keep(["a"])
    assert bench.wait(6)[0] == ["a"]
    assert bench.wait(3600, every=3600) == ([], [])
    assert bench.supervisor.silence("a") <= 2 * RULES.heartbeat_s


class AnyHistory(RuleBasedStateMachine):
    """Whoever answers within the time is never condemned; whoever does not, is."""

    def __init__(self):
        super().__init__()
        self.bench = Bench()
        self.open = {}  # name → looks-seconds since it was asked
        self.kept = set()
        self.condemned = set()
        self.awake, self.heard_at = 0.0, {}

    @rule(names=st.sets(st.sampled_from("abcd")))
    def keep(self, names):
        self.bench.supervisor.keep(names)
        self.open = {name: age for name, age in self.open.items() if name in names}
        self.condemned &= names
        self.kept = names
        self.heard_at = {name: at for name, at in self.heard_at.items() if name in names}

    @rule(name=st.sampled_from("abcd"))
    def answer(self, name):
        self.bench.supervisor.answered(name)
        self.open.pop(name, None)
        self.condemned.discard(name)

    @rule(name=st.sampled_from("abcd"))
    def heard(self, name):
        self.bench.supervisor.heard(name)  # saves nobody who leaves a question open
        if name in self.kept:
            self.heard_at[name] = self.awake

    @rule(seconds=st.floats(0, 30))
    def pass_(self, seconds):
        supervisor = self.bench.supervisor
        self.bench.clock.now += seconds
        supervisor.look()
        counted = min(seconds, RULES.heartbeat_s)
        self.open = {name: age + counted for name, age in self.open.items()}
        self.awake += counted
        condemned = set(supervisor.condemn())
        due = {name for name, age in self.open.items() if age >= RULES.silent_s + 1e-6}
        may = {name for name, age in self.open.items() if age >= RULES.silent_s - 1e-6}
        assert due - self.condemned <= condemned <= may - self.condemned
        self.condemned |= condemned
        asked = supervisor.ask()
        assert not self.open.keys() & set(asked)
        assert set(asked) <= self.kept
        lately = self.awake - 2 * RULES.heartbeat_s + 1e-6
        assert not {n for n, at in self.heard_at.items() if at > lately} & set(asked)
        self.open |= dict.fromkeys(asked, 0.0)

    @invariant()
    def sound(self):
        self.bench.supervisor.check_valid()


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(max_examples=60, stateful_step_count=40)


def test_a_budget_is_for_each_role_and_whole_after_a_step():
    budget = LossBudget({"sampler": 2, "learner": 1}, 3)
    assert [budget.lose("sampler") for _ in range(6)] == [1, 2, 3, 4, 5, 6]
    assert not budget.spent("sampler")
    assert budget.lose("learner", 3) == 3
    assert not budget.spent("learner")
    budget.lose("sampler")
    assert budget.spent("sampler")
    assert not budget.spent("learner")
    budget.stepped()
    assert not budget.spent("sampler")
    assert budget.lose("sampler") == 1


def test_no_retries_means_that_the_first_loss_is_one_too_many():
    budget = LossBudget({"worker": 5}, 0)
    assert not budget.spent("worker")
    budget.lose("worker")
    assert budget.spent("worker")


def test_a_node_is_closed_by_losses_in_a_row_and_opens_again():
    clock = FakeClock()
    quarantine = Quarantine(RULES, clock)
    assert [quarantine.lose("a") for _ in range(3)] == [False, False, True]
    assert quarantine.closed(["a", "b"]) == ("a",)
    clock.now = 99
    assert quarantine.closed(["a", "b"]) == ("a",)
    clock.now = 101
    assert quarantine.closed(["a", "b"]) == ()
    assert quarantine.lose("a") is False  # counted from none again


def test_losses_that_lie_far_apart_close_nothing():
    clock = FakeClock()
    quarantine = Quarantine(RULES, clock)
    for moment in range(0, 1000, 60):
        clock.now = moment
        assert quarantine.lose("a") is False
    assert quarantine.closed(["a", "b"]) == ()


@given(st.lists(st.sampled_from("abcde"), max_size=40), st.sets(st.sampled_from("abcde")))
def test_half_of_the_nodes_at_least_stay_open(lost, nodes):
    quarantine = Quarantine(RULES, FakeClock())
    for node in lost:
        quarantine.lose(node)
    closed = quarantine.closed(nodes)
    assert set(closed) <= nodes
    assert len(closed) == len(set(closed)) <= len(nodes) / 2


@pytest.mark.parametrize("nodes", [[], ["a"]])
def test_the_only_node_is_never_closed(nodes):
    quarantine = Quarantine(RULES, FakeClock())
    for _ in range(9):
        quarantine.lose("a")
    assert quarantine.closed(nodes) == ()
