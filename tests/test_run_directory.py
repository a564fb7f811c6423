"""The run directory: one run in it, files whole, nothing of others' touched."""

from __future__ import annotations

import json
import stat

import pytest

from cluster.run_directory import CONTENT, RunDirectory
from wfr.config import Config, parse_config


@pytest.fixture
def config(tmp_path) -> Config:
    return parse_config({"run": {"dir": str(tmp_path / "deep/runs"), "name": "r"}})


@pytest.fixture
def directory(config):
    made = RunDirectory(config)
    yield made
    made.close()


def test_a_new_directory_holds_the_resolved_configuration(directory, config):
    saved = json.loads((directory.path / "config.json").read_text())
    assert parse_config(saved) == config
    assert saved["buffer"]["max_lag"] == config.buffer.max_lag
    assert directory.path == config.run_dir.resolve()
    assert all((directory.path / name).is_dir() for name in ("journal", "checkpoints", "logs"))


def test_only_the_owner_may_look_inside(directory):
    assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700


def test_logged_records_are_lines_and_readable_at_once(directory):
    directory.log({"step": 1, "text": "two\nlines"})
    directory.log({"step": 2, "em": float("nan")})
    first, second = (directory.path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(first) == {"step": 1, "text": "two\nlines"}
    assert json.loads(second)["em"] is None  # strict JSON knows no NaN


def test_a_written_file_replaces_the_old_one_and_leaves_nothing_beside_it(directory):
    before = set(directory.path.iterdir())
    directory.write_json("summary.json", {"steps": 1})
    directory.write_json("summary.json", {"steps": 2})
    assert json.loads((directory.path / "summary.json").read_text()) == {"steps": 2}
    assert set(directory.path.iterdir()) - before == {directory.path / "summary.json"}


def test_a_file_that_cannot_be_written_leaves_the_old_one(directory):
    directory.write_json("summary.json", {"steps": 1})
    with pytest.raises(TypeError):
        directory.write_json("summary.json", {"steps": object()})
    assert json.loads((directory.path / "summary.json").read_text()) == {"steps": 1}


def test_every_checkpoint_has_its_place(directory):
    assert directory.checkpoint(12) == directory.path / "checkpoints" / "12"


@pytest.mark.parametrize("name", CONTENT)
def test_a_directory_with_a_run_is_refused(config, name):
    config.run_dir.mkdir(parents=True)
    (config.run_dir / name).touch()
    with pytest.raises(FileExistsError, match=rf"already holds a run \({name}\).*--overwrite"):
        RunDirectory(config)
    assert [path.name for path in config.run_dir.iterdir()] == [name]


def test_overwriting_removes_the_old_run_and_nothing_else(directory, config):
    directory.log({"step": 1})
    (directory.path / "journal" / "worker-0").mkdir()
    (directory.path / "base").mkdir()
    (directory.path / "notes.txt").write_text("mine")
    RunDirectory(config, overwrite=True).close()
    assert (directory.path / "metrics.jsonl").read_text() == ""
    assert list((directory.path / "journal").iterdir()) == []
    assert not (directory.path / "base").exists()
    assert (directory.path / "notes.txt").read_text() == "mine"


def test_a_directory_with_other_files_is_used(config):
    config.run_dir.mkdir(parents=True)
    (config.run_dir / "notes.txt").touch()
    RunDirectory(config).close()
    assert (config.run_dir / "config.json").exists()
