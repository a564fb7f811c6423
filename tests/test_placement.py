"""What fits on which machines, whether or not they exist."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.placement import Demand, MisfitError, Node, demands, matches, place, used
from wfr.config import ConfigError, parse_config


def _nodes(count, cpus=32, gpus=8, **labels):
    return [Node(f"n{index}", cpus, gpus, labels) for index in range(count)]


def _config(**sections):
    return parse_config(sections)


def _placed(config, nodes, *, gpu=True):
    wanted = demands(config, gpu=gpu)
    return place(wanted, nodes)


def test_a_laptop_counts_nothing_and_holds_everything():
    config = _config(sampler={"count": 2}, rollout={"workers": 3})
    wanted = demands(config, gpu=False)
    assert not any(demand.counted for demand in wanted)
    assert set(itertools.chain(*place(wanted, [Node("here", 2)]).values())) == {"here"}


def test_a_gang_stays_together_and_engines_are_whole():
    config = _config(
        learner={"ranks": 8},
        sampler={"count": 3, "tensor_parallel": 4},
        rollout={"workers": 3},
        placement={"learner": {"strategy": "strict_pack"}},
    )
    placed = _placed(config, _nodes(3))
    assert len(set(placed["learner"])) == 1
    engines = [placed[f"sampler-{index}"][0] for index in range(3)]
    assert placed["learner"][0] not in engines
    assert sorted(Counter(engines).values()) == [1, 2]
    assert [placed[f"worker-{index}"][0] for index in range(3)] == engines


def test_a_spread_gang_takes_a_machine_for_each_rank():
    config = _config(learner={"ranks": 3}, placement={"learner": {"strategy": "strict_spread"}})
    assert len(set(_placed(config, _nodes(3))["learner"])) == 3
    with pytest.raises(MisfitError, match=r"learner asks for 3 × 1 GPUs, strict_spread"):
        _placed(config, _nodes(2))


def test_colocated_samplers_and_ranks_have_as_many_gpus_as_either():
    config = _config(sampler={"count": 2, "colocated": True}, learner={"ranks": 2})
    assert len(_placed(config, _nodes(1, gpus=2))) == 4
    with pytest.raises(MisfitError):
        _placed(config, _nodes(1, gpus=1))


def test_samplers_share_a_gpu():
    config = _config(
        sampler={"count": 4},
        placement={"sampler": {"gpus": 0.5}, "learner": {"gpus": 1}},
    )
    placed = _placed(config, _nodes(1, gpus=3))
    assert len(placed) == 6
    with pytest.raises(MisfitError, match=r"placement\.sampler\.gpus below 1"):
        _placed(config, _nodes(1, gpus=2))


def test_shares_of_different_gpus_are_no_share_of_one():
    wanted = [Demand(f"sampler-{i}", 1, 0, 0.6, "strict_pack") for i in range(3)]
    with pytest.raises(MisfitError):
        place(wanted, _nodes(1, gpus=2))  # 1.8 of 2, but 0.6 fits once on each


def test_kinds_of_machines_are_told_apart_by_labels():
    nodes = [
        *_nodes(1, gpus=8, gpu="h100"),
        Node("small", 16, 4, {"gpu": "l4"}),
        Node("cpu", 64, 0, {"pool": "cpu"}),
    ]
    config = _config(
        learner={"ranks": 8},
        sampler={"count": 4},
        rollout={"workers": 2},
        placement={
            "learner": {"labels": {"gpu": "h100"}},
            "sampler": {"labels": {"gpu": "!h100"}},
            "worker": {"labels": {"pool": "cpu"}, "cpus": 8},
        },
    )
    placed = _placed(config, nodes)
    assert set(placed["learner"]) == {"n0"}
    assert {placed[f"sampler-{i}"][0] for i in range(4)} == {"small"}
    assert {placed[f"worker-{i}"][0] for i in range(2)} == {"cpu"}
    wrong = _config(placement={"learner": {"labels": {"gpu": "b200"}}})
    with pytest.raises(MisfitError, match=r"gpu=b200, but none of 3 .*placement.learner.labels"):
        _placed(wrong, nodes)


def test_what_does_not_fit_is_told_with_what_is_left_and_a_remedy():
    config = _config(learner={"ranks": 8}, sampler={"count": 3, "tensor_parallel": 4})
    with pytest.raises(MisfitError) as refused:
        _placed(config, _nodes(2))
    text = str(refused.value)
    assert "sampler-2 asks for 4 GPUs" in text
    assert "lower sampler.count or sampler.tensor_parallel" in text
    assert "2 × 0 GPUs and 32 CPUs" in text


def test_what_runs_where():
    config = _config(learner={"ranks": 2}, rollout={"workers": 1})
    wanted = demands(config, gpu=True)
    assert used(wanted, place(wanted, _nodes(1))) == {
        "n0": ["learner × 2", "sampler-0", "worker-0"]
    }


@pytest.mark.parametrize(
    ("selector", "value", "fits"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("a", None, False),
        ("!a", "b", True),
        ("!a", None, True),
        ("in(a,b)", "b", True),
        ("in(a, b)", "c", False),
        ("!in(a,b)", "c", True),
        ("!in(a,b)", "a", False),
    ],
)
def test_selectors_are_rays(selector, value, fits):
    labels = {} if value is None else {"key": value}
    assert matches({"key": selector}, labels) is fits


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"placement": {"learner": {"gpus": 1.5}}}, "only whole GPUs"),
        (
            {"placement": {"sampler": {"gpus": 0.5}}, "sampler": {"tensor_parallel": 2}},
            "placement.sampler.gpus=0.5 contradicts sampler.tensor_parallel=2",
        ),
        (
            {"sampler": {"colocated": True, "tensor_parallel": 2}},
            "sampler.colocated=true contradicts sampler.tensor_parallel=2",
        ),
        (
            {"sampler": {"colocated": True}, "weights": {"backend": "nccl"}},
            "weights.backend='nccl' contradicts sampler.colocated=true",
        ),
        (
            {"sampler": {"colocated": True}, "weights": {"overlap": True}},
            "weights.overlap=true contradicts sampler.colocated=true",
        ),
    ],
)
def test_what_no_cluster_can_hold_is_refused_at_once(sections, told):
    with pytest.raises(ConfigError, match=told):
        parse_config(sections)


_DEMANDS = st.lists(
    st.tuples(
        st.integers(1, 4),
        st.sampled_from([0, 1, 2]),
        st.sampled_from([0, 0.25, 0.5, 1, 2, 4]),
        st.sampled_from(["strict_pack", "pack", "spread", "strict_spread"]),
    ),
    max_size=6,
)
_MACHINES = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 4)), min_size=1, max_size=4)


@given(_DEMANDS, _MACHINES)
def test_no_machine_is_overbooked_and_every_strategy_is_kept(asked, machines):
    nodes = [Node(f"n{i}", cpus, gpus) for i, (cpus, gpus) in enumerate(machines)]
    wanted = [
        Demand(("learner", "sampler-1", "sampler-2", "worker-0", "worker-1", "worker-2")[i], *each)
        for i, each in enumerate(asked)
    ]
    try:
        placed = place(wanted, nodes)
    except MisfitError:
        return
    for node in nodes:
        here = [(d, placed[d.name].count(node.name)) for d in wanted]
        assert sum(d.cpus * count for d, count in here) <= node.cpus
        assert sum(d.gpus * count for d, count in here) <= node.gpus
    for demand in wanted:
        where = placed[demand.name]
        assert len(where) == demand.processes
        if demand.strategy == "strict_pack":
            assert len(set(where)) == 1
        if demand.strategy == "strict_spread":
            assert len(set(where)) == len(where)
