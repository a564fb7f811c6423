"""Record the executor calls of a canvas quickstart: `python -m benchmarks.record_calls`.

A whole run with an executor that numbers each of its replies by a hash of what the cache's key
covers (operator, prompt, inputs, parameters), in the place of the count of prompt tokens. The
journal keeps that number with the call, so the recording is read from it: for every fourth group
the calls of each sibling in order. No cache is used.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from wfr.backends.base import Completion, OperatorRequest
from wfr.backends.cache import cache_key
from wfr.backends.mistakes import Mistakes
from wfr.backends.rule_based import RuleBased
from wfr.journal import read_journal
from wfr.schema import from_batch
from wfr.trajectory import Trajectory

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "cluster/configs/canvas_quickstart.yaml"
RECORDING = Path(__file__).parent / "recordings" / "canvas_quickstart.jsonl.gz"
_EVERY = 4


class Numbered:
    """The embedded executor, whose replies are numbered by what was asked."""

    name = "numbered"

    def __init__(self, mistakes: float) -> None:
        """Go wrong in so many calls."""
        self._executor = RuleBased(Mistakes(mistakes))

    async def complete(self, request: OperatorRequest) -> Completion:
        """Answer, with the number of the request."""
        reply = await self._executor.complete(request)
        return Completion(reply.text, prompt_tokens=int(cache_key(request, {})[:12], 16))


def main(
    out: Annotated[Path, typer.Option(help="Directory of the run.")] = Path("runs/record_calls"),
    mistakes: Annotated[float, typer.Option(help="As in the configuration.")] = 0.5,
) -> None:
    """Run, then write the recording."""
    section = {
        "backend": "numbered",
        "cache": {"enabled": False},
        "backends": {
            "numbered": {
                "kind": "custom",
                "target": f"{__spec__.name}:Numbered",
                "options": {"mistakes": mistakes},
                "limits": {"concurrency": 1024},
            }
        },
    }
    command = [sys.executable, "-m", "cluster.cli", "train", str(CONFIG), "--overwrite"]
    for setting in (
        f"run.dir={out.resolve().parent}",
        f"run.name={out.name}",
        f"executor={json.dumps(section)}",
    ):
        command += ["--set", setting]
    subprocess.run(command, check=True, cwd=ROOT)
    rows = list(_rows(out / "journal"))
    with gzip.open(RECORDING, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    typer.echo(f"{RECORDING}: {len(rows)} episodes, {sum(len(row[2]) for row in rows)} calls")


def _rows(journal: Path) -> list[tuple[str, int, list[tuple[str, str]]]]:
    """Group, sibling, and operator and number of each call, for every fourth group in order."""
    found = [
        (t.group_id, t.sibling, _calls(t))
        for directory in sorted(path for path in journal.iterdir() if path.is_dir())
        for batch in read_journal(directory)
        for t in from_batch(batch).trajectories
    ]
    return sorted(
        (row for row in found if int(row[0]) % _EVERY == 0), key=lambda row: (int(row[0]), row[1])
    )


def _calls(trajectory: Trajectory) -> list[tuple[str, str]]:
    """Calls of the executor; runs of programs, which are in the journal too, have no number."""
    return [
        (call.operator, f"{call.prompt_tokens:012x}")
        for call in trajectory.operator_calls
        if call.prompt_tokens
    ]


if __name__ == "__main__":
    typer.run(main)
