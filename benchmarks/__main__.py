"""Run every benchmark of this package, in alphabetical order."""

from __future__ import annotations

import pkgutil
import runpy
import sys

import benchmarks


def main() -> None:
    """Run each module of the package as a script, or say that there is none."""
    names = sorted(
        module.name
        for module in pkgutil.iter_modules(benchmarks.__path__)
        if not module.name.startswith("_")
    )
    if not names:
        sys.stdout.write("there is no benchmark yet\n")
    for name in names:
        runpy.run_module(f"benchmarks.{name}", run_name="__main__")


if __name__ == "__main__":
    main()
