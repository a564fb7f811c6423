"""What a configuration of the canvas asks of workflows has to be within reach of its pool."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfr.canvas_config import CanvasConfig
from wfr.environments.canvas_reach import out_of_reach
from wfr.environments.finish_gate import missing
from wfr.grading.base import Grade
from wfr.operators.library import NAMES, POOLS, canvas_specs
from wfr.rewards.canvas import PlayedCanvas, score
from wfr.workflow.dsl import parse

KEY = "environment.finish_gate.checker"
OPEN = {"min_operators": 1, "structure": False, "checker": False, "code_test": False}


def reach(**values):
    config = CanvasConfig.model_validate(values)
    return out_of_reach(config, canvas_specs(config.pool))


@pytest.mark.parametrize("preset", ["paper", "released_code", "strict"])
def test_the_papers_pool_reaches_everything(preset):
    assert reach(reward={"preset": preset}) is None


@pytest.mark.parametrize(
    ("values", "key", "words"),
    [
        ({"pool": ["Plan", "Custom", "Format"]}, KEY, "no operator of category verification"),
        ({"pool": ["Plan", "Verify", "Format"]}, KEY, "no operator of category solving"),
        ({"max_nodes": 4}, "environment.finish_gate.min_operators", "needs 5 operators"),
        ({"pool": ["Custom", "Verify"]}, "environment.reward", "has 0.8 (check: True, format: F"),
        ({"reward": {"threshold": 1.1}}, "environment.reward", "from w_div·R_div=1.1 on"),
        ({"reward": {"w_div": 0.0}}, "environment.reward", "has 0 (check"),
        (
            {"pool": ["Custom", "Verify", "Format"], "reward": {"preset": "strict"}},
            "environment.reward",
            "operators counted: 3 of 5",
        ),
        (
            {
                "pool": ["Plan", "Verify", "Format"],
                "finish_gate": OPEN,
                "reward": {"need_solver": True},
            },
            "environment.reward.need_solver",
            "has none",
        ),
    ],
)
def test_what_cannot_be_met_is_named(values, key, words):
    found = reach(**values)
    assert found is not None
    assert found[0] == key
    assert words in found[1]


def test_answers_that_always_pay_need_no_gate():
    reward = {"w_div": 0.0, "conditional_release": False}
    assert reach(pool=["Custom"], finish_gate=OPEN, reward=reward) is None


def test_a_pool_larger_than_a_workflow_is_not_at_fault():
    assert reach(max_nodes=5) is None


@given(
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=6, unique=True),
    st.sampled_from(["graph", "dsl_text", "live_graph"]),
    st.integers(1, 8),
    st.sampled_from([0.0, 0.4, 0.6, 0.8, 1.0, 1.2]),
)
def test_it_is_said_if_and_only_if_a_workflow_of_everything_fails(pool, measure, least, threshold):
    """With room for all operators and for as many again as are asked for."""
    reward = {"measure": measure, "min_operators": least, "threshold": threshold}
    values = {"pool": pool, "reward": reward, "finish_gate": {"min_operators": least}}
    config = CanvasConfig.model_validate(values)
    specs = canvas_specs(config.pool)
    counted = [name for name in pool if name in POOLS["canvas"]] or pool
    names = pool + counted[:1] * least
    alike = measure == "live_graph" and len(pool) == 1  # as branches, they would be no structure
    text = f"({' -> '.join(names)}) * 2" if alike else f"[{', '.join(names)}]"
    played = PlayedCanvas(parse(text), Grade(1.0), 1, 0, 0, finished=True)
    paid = score(played, specs, config.reward).metrics["gate"]
    unfinished = missing(played.workflow, specs, config.finish_gate, has_tests=False, result="")
    assert (out_of_reach(config, specs) is None) == (bool(paid) and not unfinished)
