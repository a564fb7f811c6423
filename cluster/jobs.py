"""Runs as Ray jobs: what travels to the cluster, and what a job's state means for a person.

A job's driver runs on the cluster, in a copy of the working directory that is deleted with it. So
what a run leaves behind must go elsewhere, and what it reads must be in that copy or on the
cluster. Needs no engine: a laptop with the light installation submits.
"""

from __future__ import annotations

import asyncio
import dataclasses
import fnmatch
import re
import secrets
import shlex
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wfr.config import Config

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

EXCLUDES = (
    ".git",
    ".venv",
    "venv",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
    "runs",
    "*.egg-info",
    "*.safetensors",
    "*.bin",
    "*.pt",
)
"""Names that no job needs of a working directory: environments, caches, runs and weights. Ray
leaves out what .gitignore and .rayignore name, too."""

ENDED = {"SUCCEEDED", "FAILED", "STOPPED"}


class SubmissionError(ValueError):
    """What is to be submitted cannot run there; the text says why and what to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class Submission:
    """A run on its way to a cluster.

    Attributes:
        config: path of the configuration inside the working directory.
        settings: the configuration with all overrides, as it was checked here.
        overrides: `key=value` settings, handed on to `wfr train`.
        options: flags of `wfr train` such as `--resume`.
        environment: variables of the driver and of every role; anybody who may look at the
            cluster's dashboard can read them.
    """

    working_dir: Path
    config: Path
    settings: Config
    overrides: Sequence[str] = ()
    options: Sequence[str] = ()
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def check(self) -> None:
        """Refuse what could only fail later, on the cluster.

        Raises:
            SubmissionError: with the remedy.
        """
        self._check_places()
        self._check_secrets()

    @property
    def entrypoint(self) -> str:
        """The command that the cluster runs; it does not depend on where scripts are installed."""
        sets = [part for override in self.overrides for part in ("--set", override)]
        command = ["python", "-m", "cluster.cli", "train", str(self._inside), *sets]
        return shlex.join([*command, *self.options])

    @property
    def runtime_env(self) -> dict[str, Any]:
        """Ray's description of what the job needs.

        A stopped run finishes its step and writes a checkpoint: it is killed only after minutes.
        """
        variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_PATIENCE_S), **self.environment}
        return {
            "working_dir": str(self.working_dir),
            "excludes": list(EXCLUDES),
            "env_vars": variables,
        }

    @property
    def metadata(self) -> dict[str, str]:
        """What tells our jobs from others, and where their results are."""
        return {"wfr_run": self.settings.run.name, "wfr_dir": str(self.settings.run_dir)}

    @property
    def _inside(self) -> Path:
        return self.config.resolve().relative_to(self.working_dir.resolve())

    def _check_places(self) -> None:
        if not self.config.resolve().is_relative_to(self.working_dir.resolve()):
            raise SubmissionError(
                f"{self.config} is outside of the working directory {self.working_dir}, so it does "
                "not travel; move it there, or set --working-dir"
            )
        if not Path(self.settings.run.dir).is_absolute():
            raise SubmissionError(
                f"run.dir={self.settings.run.dir!r} is relative: on the cluster it would be in the "
                "job's temporary directory, which is deleted; name a directory that all machines "
                "share, for example --set run.dir=/mnt/shared/runs"
            )
        for key, path in self._reads():
            if not Path(path).is_absolute() and not (self.working_dir / path).exists():
                raise SubmissionError(
                    f"{key}={path!r} is not in the working directory {self.working_dir}; put it "
                    "there, or name an absolute path on the cluster"
                )
            if not Path(path).is_absolute() and _stays(Path(path)):
                raise SubmissionError(
                    f"{key}={path!r} stays here, because weights, runs and caches do not travel; "
                    "put it on a directory that all machines share and name its absolute path"
                )

    def _reads(self) -> Iterator[tuple[str, str]]:
        settings = self.settings
        if settings.model.path is not None:
            yield "model.path", settings.model.path
        if settings.tasks.path is not None and not settings.tasks.path.startswith("hub:"):
            yield "tasks.path", settings.tasks.path

    def _check_secrets(self) -> None:
        held = {
            getattr(backend, "api_key_env", None)
            for backend in self.settings.executor.backends.values()
        }
        for name in self.environment:
            if name in held or _SECRET.search(name):
                raise SubmissionError(
                    f"--env {name}: looks like a secret, and a job's environment can be read by "
                    "everybody who may see the cluster's dashboard; export it where the nodes "
                    "start (before `ray start`, or as a Kubernetes secret), or use api_key_file"
                )


class Jobs:
    """The jobs of one cluster."""

    def __init__(self, client: JobSubmissionClient) -> None:
        """Talk to the cluster that `client` is connected to."""
        self._client = client

    def submit(self, submission: Submission) -> str:
        """Check, upload, start; returns the job's id.

        Raises:
            SubmissionError: what is to run cannot run there, or the upload is too large.
        """
        submission.check()
        try:
            return self._client.submit_job(
                entrypoint=submission.entrypoint,
                submission_id=f"{submission.settings.run.name}-{secrets.token_hex(4)}",
                runtime_env=submission.runtime_env,
                metadata=submission.metadata,
            )
        except (RuntimeError, ValueError) as error:
            raise SubmissionError(f"the cluster refused the job: {error}") from error

    def all(self) -> list[dict[str, Any]]:
        """Our jobs, newest first: id, run, directory, status, message, start and end in Unix s."""
        ours = [job for job in self._client.list_jobs() if "wfr_run" in (job.metadata or {})]
        return [_row(job) for job in sorted(ours, key=lambda j: j.start_time or 0, reverse=True)]

    def find(self, job_id: str) -> dict[str, Any]:
        """One job.

        Raises:
            SubmissionError: there is no such job.
        """
        try:
            return _row(self._client.get_job_info(job_id))
        except RuntimeError as error:
            raise SubmissionError(
                f"no job {job_id!r} on this cluster; `wfr jobs list` shows those that are"
            ) from error

    def stop(self, job_id: str) -> None:
        """Ask a job to end in order; returns at once."""
        self.find(job_id)
        self._client.stop_job(job_id)

    def logs(self, job_id: str) -> str:
        """All that a job has printed so far."""
        self.find(job_id)
        return str(self._client.get_job_logs(job_id))

    async def follow(self, job_id: str) -> AsyncIterator[str]:
        """What a job prints, from its start until it has ended, whatever breaks on the way."""
        self.find(job_id)
        shown = 0
        while True:
            at = 0
            async for text in self._client.tail_job_logs(job_id):
                at += len(text)
                if at > shown:
                    yield text[max(0, len(text) - (at - shown)) :]
                    shown = at
            if self.find(job_id)["status"] in ENDED:
                return
            await asyncio.sleep(_RECONNECT_S)


STOP_PATIENCE_S = 300
"""Between asking a job to end and killing it: time for a step and a checkpoint."""
_RECONNECT_S = 2.0
_SECRET = re.compile(r"api_?key|secret|passw|credential|token\b", re.IGNORECASE)


def connect(address: str) -> Jobs:
    """Connect to the job server of a cluster, for example http://127.0.0.1:8265.

    Raises:
        SubmissionError: nothing answers there.
    """
    from ray.job_submission import JobSubmissionClient  # takes a second to import

    try:
        return Jobs(JobSubmissionClient(address))
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise SubmissionError(
            f"no job server answers at {address}: {str(error).splitlines()[0]}; the head node's "
            "dashboard serves it, by default on port 8265 (`ray start --head`, or `kubectl "
            "port-forward`)"
        ) from error


def _row(job: Any) -> dict[str, Any]:
    held = job.metadata or {}
    return {
        "id": job.submission_id,
        "run": held.get("wfr_run"),
        "directory": held.get("wfr_dir"),
        "status": str(getattr(job.status, "value", job.status)),
        "message": job.message or "",
        "start": job.start_time / 1000 if job.start_time else None,
        "end": job.end_time / 1000 if job.end_time else None,
    }


def _stays(path: Path) -> bool:
    """Whether EXCLUDES names the path or one of its parents."""
    parts = [path, *path.parents][:-1]
    return any(fnmatch.fnmatch(part.name, pattern) for pattern in EXCLUDES for part in parts)
