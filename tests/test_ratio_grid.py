"""The study of ratio and weighting: nine cells, what is compared, and that it goes on."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from benchmarks.series import CONFIG
from benchmarks.studies import ratio_grid, trust_region
from benchmarks.studies.ratio_grid import AGGREGATES, COMMON, CONTRASTS, LINES, cells
from benchmarks.studies.trust_region import UNITS, Bounds
from wfr.config import load_config

BOUNDS = {unit: Bounds(0.25 * (i + 1), 0.01) for i, unit in enumerate(UNITS)}


def test_cells_differ_in_unit_and_aggregate_and_in_the_bounds_of_the_unit():
    found = {}
    for arm in cells(BOUNDS):
        objective = load_config(CONFIG, (*COMMON, *arm.overrides)).objective
        found[objective.ratio_unit, objective.aggregate] = objective.clip_high
        assert objective.clip_low == objective.clip_high
        assert arm.labels == {"unit": objective.ratio_unit, "aggregate": objective.aggregate}
    assert found == {(u, a): BOUNDS[u].epsilon for u in UNITS for a in AGGREGATES}


def test_contrasts_are_of_cells_and_balanced():
    names = {arm.name for arm in cells(BOUNDS)}
    assert names == {line.arm for line in LINES}
    for contrast in (*CONTRASTS["tested"], *CONTRASTS["described"]):
        assert {*contrast.above, *contrast.below} <= names
        assert len(contrast.above) == len(contrast.below)
        assert not {*contrast.above} & {*contrast.below}
    assert len(CONTRASTS["tested"]) == 6


def effect(unit, aggregate):
    """A made-up world in which the weighting is all that counts."""
    return 0.8 if aggregate == "subsequence_mean" else 0.6


@pytest.fixture
def finished(tmp_path):
    trust_region.write(BOUNDS, tmp_path / "trust_region.json")
    lines = []
    for seed in (1, 2, 3):
        for arm in cells(BOUNDS):
            value = effect(**arm.labels) + 0.01 * seed + 0.001 * (len(lines) % 7)
            settings = [f"run.seed={seed}", *COMMON, "train.steps=24", *arm.overrides]
            lines.append(
                {"arm": arm.name, "seed": seed, "settings": settings, "commit": "abc"}
                | {"em_after": value, "curve": [value] * 24, "clipped": [0.0] * 24, "entropy": 0.1}
            )
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def report(out, *options):
    app = typer.Typer()
    app.command()(ratio_grid.main)
    return CliRunner().invoke(app, ["--out", str(out), "--minutes", "-1", *options])


def test_the_report_finds_the_effect_that_is_there_and_no_other(finished):
    result = report(finished, "--seeds", "3")
    assert result.exit_code == 0, result.output
    assert "27 of 27 runs are finished" in result.output
    rows = [line for line in result.output.splitlines() if line.startswith(("| ratio", "| aggr"))]
    adjusted = {line.split("|")[1].strip(): float(line.split("|")[5]) for line in rows[:6]}
    assert adjusted["aggregate: subsequence_mean − token_mean"] < 0.05
    assert adjusted["ratio: subsequence − token"] > 0.05
    assert pq.read_table(finished / "ratio_grid.parquet").num_rows == 27
    assert (finished / "ratio_grid.svg").exists()


def test_a_part_is_reported_as_a_part(finished):
    result = report(finished, "--seeds", "5")
    assert "27 of 45 runs are finished" in result.output


def test_an_unknown_cell_is_refused(finished):
    assert report(finished, "--only", "paragraph").exit_code == 2


def test_nothing_to_report(tmp_path):
    trust_region.write(BOUNDS, tmp_path / "trust_region.json")
    assert report(tmp_path).exit_code == 1
