"""A second place for checkpoints: whole copies, and runs that go on from them."""

from __future__ import annotations

import asyncio
import json
import shutil
import uuid

import crash_host
import fsspec
import pytest

from cluster.checkpoint_store import CheckpointStore, Edges, StoreError
from cluster.copying import Copying
from cluster.preflight.run import directory_check, store_check
from cluster.resume import fetch, find
from wfr.audit import audit
from wfr.checkpoint_config import CheckpointsConfig
from wfr.config import ConfigError, parse_config


@pytest.fixture(params=["memory", "file", "directory"])
def url(request, tmp_path):
    """A store of its own at each kind of address."""
    memory = f"memory://{uuid.uuid4().hex}/checkpoints"
    directory = tmp_path / "store"
    return {"memory": memory, "file": f"file://{directory}", "directory": str(directory)}[
        request.param
    ]


def _config(tmp_path, url, **learner):
    return parse_config(
        {
            "run": {"name": "r", "dir": str(tmp_path)},
            "buffer": {"max_lag": crash_host.MAX_LAG},
            "train": {"groups_per_batch": crash_host.SIZE},
            "checkpoints": {"url": url, "keep": 2},
            "learner": learner,
        }
    )


def _live(run, steps):
    """A life of the small run, with what a learner leaves in its checkpoints."""
    host = crash_host.Host(run, 1)
    asyncio.run(host.live(steps))
    for path in (run / "checkpoints").iterdir():
        (path / "training").mkdir(exist_ok=True)
        (path / "training" / "rank-0.safetensors").write_text(f"state {path.name}")


def test_a_run_whose_directory_is_gone_goes_on_from_its_copy(tmp_path, url):
    """At the version of the copy; the audit holds, and no group is used twice."""
    config, run = _config(tmp_path, url), tmp_path / "r"
    store = CheckpointStore(url, "r")
    _live(run, 4)
    edges = Edges.of(run)
    _live(run, 2)  # what comes after the checkpoint of version 4 is not of its copy
    (run / "base" / "deep").mkdir(parents=True)
    (run / "base" / "deep" / "model.safetensors").write_bytes(b"weights")
    store.copy(run, 4, edges)
    weights = json.loads((run / "checkpoints" / "4" / "wfr_state.json").read_text())["weights"]
    shutil.rmtree(run)
    notes = []
    fetch(config, notes.append)
    assert "the run directory is gone" in notes[0]
    assert (run / "base" / "deep" / "model.safetensors").read_bytes() == b"weights"
    assert (run / "checkpoints" / "4" / "training" / "rank-0.safetensors").exists()
    found = find(config, run)
    assert (found.recovery.version, found.recovery.checkpoint) == (4, 4)
    assert found.checkpoint.name == "4"
    assert audit(run).violations == []
    host = crash_host.Host(run, 2)
    assert (host.version, host.weights) == (4, weights)
    asyncio.run(host.live(4))
    report = audit(run)
    assert report.violations == []
    assert report.version == 8
    assert report.ledger.groups_consumed == 8 * crash_host.SIZE


def test_a_directory_that_is_there_is_not_touched(tmp_path, url):
    config, run = _config(tmp_path, url), tmp_path / "r"
    _live(run, 4)
    CheckpointStore(url, "r").copy(run, 4, Edges.of(run))
    before = sorted(run.rglob("*"))
    fetch(config, pytest.fail)
    assert sorted(run.rglob("*")) == before


def test_a_copy_without_its_last_file_does_not_count(tmp_path, url):
    """Object stores cannot rename: the list of files is written last and deleted first."""
    run, store = tmp_path / "r", CheckpointStore(url, "r")
    _live(run, 8)
    for version in (4, 8):
        store.copy(run, version, Edges.of(run))
    assert store.versions() == [4, 8]
    files, root = fsspec.core.url_to_fs(url)
    files.rm_file(f"{root}/r/8/whole.json")
    assert store.versions() == [4]
    store.keep([])
    assert store.versions() == []
    assert not files.exists(f"{root}/r/4/checkpoint/wfr_state.json")


def test_a_copy_that_has_changed_is_refused(tmp_path, url):
    run, store = tmp_path / "r", CheckpointStore(url, "r")
    _live(run, 4)
    store.copy(run, 4, Edges.of(run))
    files, root = fsspec.core.url_to_fs(url)
    files.pipe_file(f"{root}/r/4/checkpoint/wfr_state.json", b"{}")
    shutil.rmtree(run)
    run.mkdir()
    with pytest.raises(StoreError, match=r"wfr_state.json: has 2 bytes of \d+"):
        store.fetch(run, 4, crash_host.MAX_LAG, 1)
    assert not (run / "ledger").exists()


class SlowStore:
    """Copies when it is let; `errors` come instead, in turn."""

    url = "slow://store/r"

    def __init__(self, errors=()):
        self.copied, self.kept, self.errors = [], [], list(errors)

    def copy(self, run_dir, version, edges):
        if self.errors:
            raise self.errors.pop(0)
        self.copied.append(version)

    def versions(self):
        return self.copied

    def keep(self, versions):
        self.kept.append(sorted(versions))


def test_a_checkpoint_that_is_overtaken_is_not_copied(tmp_path):
    """What is being copied or comes next is held; the policy holds at the second place too."""

    async def main():
        store = SlowStore()
        copying = Copying(store, tmp_path, CheckpointsConfig(keep=1), lambda text: None)
        for version in (2, 4, 6):
            copying.offer(version, Edges({}))
        assert copying.held == {6}
        await copying.end(10)
        copying.offer(8, Edges({}))
        await copying.end(10)
        return store, copying

    store, copying = asyncio.run(main())
    assert (store.copied, store.kept) == ([6, 8], [[6], [8]])
    assert not copying.held


def test_a_store_that_fails_costs_its_copy_alone(tmp_path):
    notes = []

    async def main():
        store = SlowStore([ConnectionError("no route")])
        copying = Copying(store, tmp_path, CheckpointsConfig(), notes.append)
        copying.offer(2, Edges({}))
        await copying.end(10)
        copying.offer(4, Edges({}))
        await copying.end(10)
        return store.copied

    assert asyncio.run(main()) == [4]
    assert notes[0].startswith("CHECKPOINT 2 IS NOT COPIED to slow://store/r: ConnectionError: no")


@pytest.mark.parametrize(
    ("url", "detail", "remedy"),
    [
        ("bucket7://x", "Protocol not known: bucket7", "use file, s3, gcs"),
        ("gcs://bucket/x", "gcsfs", "`pip install gcsfs`"),
        ("/proc/nowhere", "cannot be written", "credentials"),
    ],
)
def test_a_place_that_cannot_be_used_is_refused_before_anything_starts(
    tmp_path, url, detail, remedy
):
    (check,) = store_check(_config(tmp_path, url))
    assert not check.ok
    assert check.key == "checkpoints.url"
    assert f"checkpoints.url={url}" in check.detail
    assert detail in check.detail
    assert remedy in check.remedy


def test_a_place_that_can_be_used_is_left_as_it_was(tmp_path, url):
    (check,) = store_check(_config(tmp_path, url))
    assert check.ok, check.detail
    files, root = fsspec.core.url_to_fs(url)
    assert files.find(root) == []


def test_a_password_in_the_url_is_refused():
    with pytest.raises(ConfigError, match=r"checkpoints.url.*holds a password"):
        parse_config({"checkpoints": {"url": "sftp://me:secret@host/x"}})


def test_fewer_checkpoints_than_states_are_refused():
    with pytest.raises(ConfigError, match=r"checkpoints.keep=1 is below train.keep_states=2"):
        parse_config({"checkpoints": {"keep": 1}, "train": {"keep_states": 2}})


def test_a_resumed_run_may_have_other_ranks(tmp_path):
    """And nothing else that the run learns by."""
    first = _config(tmp_path, None)
    first.run_dir.mkdir()
    (first.run_dir / "config.json").write_text(first.model_dump_json())
    other = _config(tmp_path, None, ranks=2, zero_stage=3)
    assert "learner.ranks: 1, now 2" in directory_check(other).detail
    assert directory_check(other, resume=True).ok
    changed = _config(tmp_path, None, ranks=2, lr=1.0)
    assert "learner.lr" in directory_check(changed, resume=True).detail
