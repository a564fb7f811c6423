"""Submitting runs: what is refused before anything travels, what travels, how logs are followed."""

from __future__ import annotations

import asyncio
import json
import shlex
import types

import pytest
from typer.testing import CliRunner

from cluster import cli, jobs
from cluster.jobs import EXCLUDES, Jobs, Submission, SubmissionError
from wfr.config import load_config

YAML = "run: {name: far, dir: /shared/runs}\n"


@pytest.fixture
def make(tmp_path):
    def _make(text=YAML, overrides=(), name="run.yaml", **more):
        path = tmp_path / name
        path.write_text(text)
        return Submission(
            working_dir=tmp_path,
            config=path,
            settings=load_config(path, overrides),
            overrides=overrides,
            **more,
        )

    return _make


def test_the_command_and_its_environment(make):
    submission = make(overrides=["train.steps=3", "run.name=a"], options=["--resume"])
    submission.check()
    words = shlex.split(submission.entrypoint)
    assert words[:5] == ["python", "-m", "cluster.cli", "train", "run.yaml"]
    assert words[5:] == ["--set", "train.steps=3", "--set", "run.name=a", "--resume"]
    assert set(EXCLUDES) <= set(submission.runtime_env["excludes"])
    assert int(submission.runtime_env["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) > 60


def test_an_override_cannot_end_the_command(make):
    evil = 'executor.serve=null"; touch /tmp/x; "'
    submission = Submission(
        working_dir=make().working_dir,
        config=make().config,
        settings=make().settings,
        overrides=[evil],
    )
    assert shlex.split(submission.entrypoint)[6] == evil


@pytest.mark.parametrize(
    ("text", "more", "named"),
    [
        ("run: {dir: runs}\n", {}, "run.dir='runs'"),
        (YAML + "model: {path: director}\n", {}, "model.path='director'"),
        (YAML + "tasks: {format: gsm8k, path: rows.jsonl}\n", {}, "tasks.path='rows.jsonl'"),
        (YAML, {"environment": {"OPENAI_API_KEY": "sk-1"}}, "--env OPENAI_API_KEY"),
        (YAML, {"environment": {"HF_TOKEN": "x"}}, "--env HF_TOKEN"),
    ],
)
def test_what_could_only_fail_on_the_cluster_is_refused_here(make, text, more, named):
    with pytest.raises(SubmissionError) as refusal:
        make(text, **more).check()
    assert named in str(refusal.value)
    assert "sk-1" not in str(refusal.value)


def test_weights_in_the_working_directory_do_not_travel(make, tmp_path):
    (tmp_path / "runs/x/checkpoints/3").mkdir(parents=True)
    with pytest.raises(SubmissionError, match="stays here"):
        make(YAML + "model: {path: runs/x/checkpoints/3}\n").check()


def test_a_configuration_elsewhere_does_not_travel(make, tmp_path):
    (tmp_path / "inner").mkdir()
    outside = make()
    with pytest.raises(SubmissionError, match="outside of the working directory"):
        Submission(tmp_path / "inner", outside.config, outside.settings).check()


class FakeClient:
    """Stands for Ray's client: breaks the log's connection once, and repeats it from its start."""

    def __init__(self):
        self.submitted = []
        self.tails = [["step 1\n", "step"], ["step 1\nste", "p 2\n", "done\n"]]
        self.statuses = iter(["RUNNING", "RUNNING", "SUCCEEDED", "SUCCEEDED"])

    def submit_job(self, **job):
        self.submitted.append(job)
        return job["submission_id"]

    def get_job_info(self, job_id):
        if job_id == "unknown":
            raise RuntimeError("404")
        return self._info(job_id, next(self.statuses), {"wfr_run": "far", "wfr_dir": "/r"}, 2000)

    def list_jobs(self):
        mine = {"wfr_run": "far", "wfr_dir": "/r"}
        return [
            self._info("old", "FAILED", mine, 1000),
            self._info("foreign", "RUNNING", {}, 3000),
            self._info("new", "RUNNING", mine, 2000),
        ]

    async def tail_job_logs(self, job_id):
        for text in self.tails.pop(0):
            yield text

    @staticmethod
    def _info(job_id, status, metadata, start):
        return types.SimpleNamespace(
            submission_id=job_id,
            status=status,
            metadata=metadata,
            message="",
            start_time=start,
            end_time=None,
        )


def test_following_goes_on_after_a_broken_connection_without_repeating(monkeypatch):
    monkeypatch.setattr(jobs, "_RECONNECT_S", 0)

    async def read():
        return "".join([text async for text in Jobs(FakeClient()).follow("far-1")])

    assert asyncio.run(read()) == "step 1\nstep 2\ndone\n"


def test_only_our_jobs_are_listed_newest_first():
    assert [row["id"] for row in Jobs(FakeClient()).all()] == ["new", "old"]


def test_an_unknown_job_is_named():
    with pytest.raises(SubmissionError, match="no job 'unknown'"):
        Jobs(FakeClient()).find("unknown")


def test_submit_checks_first_and_says_where_the_results_are(make, monkeypatch):
    client = FakeClient()
    monkeypatch.setattr(jobs, "connect", lambda address: Jobs(client))
    config = make().config
    run = CliRunner().invoke
    common = ["submit", str(config), "--address", "a", "--working-dir", str(config.parent)]
    refused = run(cli.app, [*common, "--set", "run.dir=here"])
    assert refused.exit_code == 2
    assert not client.submitted
    done = run(cli.app, [*common, "--no-follow", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["directory"] == "/r"
    assert client.submitted[0]["metadata"] == {"wfr_run": "far", "wfr_dir": "/shared/runs/far"}
    assert client.submitted[0]["submission_id"].startswith("far-")
