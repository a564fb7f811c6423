"""The study of staleness: forty arms that are valid configurations, and what is compared."""

from __future__ import annotations

from benchmarks.series import CONFIG
from benchmarks.studies.staleness import COMMON, CONTRASTS, FRESH, LINES, arms
from benchmarks.studies.trust_region import UNITS, Bounds
from wfr.config import load_config

BOUNDS = {unit: Bounds(0.25 * (i + 1), 0.01) for i, unit in enumerate(UNITS)}
ARMS = {arm.name: arm for arm in arms(BOUNDS)}


def objective(name):
    config = load_config(CONFIG, (*COMMON, *ARMS[name].overrides))
    assert config.buffer.max_lag == ARMS[name].labels["lag_bound"]
    assert config.objective.aggregate == "subsequence_mean"
    return config.objective


def test_there_are_forty_arms_and_every_one_can_be_run():
    assert len(ARMS) == 40
    for name in ARMS:
        objective(name)


def test_arms_without_a_correction_use_no_behaviour_policy():
    for name in (FRESH, "lag-2-none", "lag-8-none"):
        found = objective(name)
        assert (found.proximal, found.correction, found.rejection) == ("current", "none", "none")


def test_corrections_act_on_their_unit_with_its_bounds():
    clip = objective("lag-4-clip-sequence")
    assert (clip.proximal, clip.correction, clip.clip_high) == ("behaviour", "none", 0.75)
    for correction in ("truncate", "mask", "decoupled"):
        found = objective(f"lag-8-{correction}-token")
        assert (found.proximal, found.correction) == ("current", correction)
        assert (found.correction_unit or found.ratio_unit) == "token"
    assert objective("lag-8-truncate-token").correction_cap == 1.25
    mask = objective("lag-8-mask-subsequence")
    assert (mask.correction_low, mask.correction_high) == (0.5, 1.5)


def test_contrasts_are_of_arms_and_differ_in_one_thing():
    for contrast in (*CONTRASTS["tested"], *CONTRASTS["described"]):
        assert {*contrast.above, *contrast.below} <= ARMS.keys(), contrast.name
        differing = [
            label
            for label in ("lag_bound", "correction")
            if {ARMS[a].labels[label] for a in contrast.above}
            != {ARMS[a].labels[label] for a in contrast.below}
        ]
        assert len(differing) <= 1
    assert len(CONTRASTS["tested"]) == 10
    assert {line.arm for line in LINES} <= ARMS.keys()


def test_the_clip_arms_of_lag_4_are_cells_of_the_grid():
    """They are the same runs, which are made once."""
    from benchmarks.studies import ratio_grid

    cells = {frozenset((*ratio_grid.COMMON, *cell.overrides)) for cell in ratio_grid.cells(BOUNDS)}
    found = [name for name, arm in ARMS.items() if {*COMMON, *arm.overrides} in cells]
    assert found == [f"lag-4-clip-{unit}" for unit in UNITS]
