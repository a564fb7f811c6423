"""What every command shares: its options, its exit codes, and how it refuses.

Exit codes: 0 done, 1 the run failed, 2 bad input, 3 this machine is not fit for the run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from wfr.config import Config, ConfigError, load_config

DONE, FAILED, BAD_INPUT, NOT_FIT = 0, 1, 2, 3

ConfigFile = Annotated[
    Path, typer.Argument(help="YAML file of the run; see docs/configuration.md.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one key, e.g. buffer.max_lag=0."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


def load(path: Path, overrides: list[str] | None) -> Config:
    """Read the configuration, or end the command with exit code 2 and every fault."""
    try:
        return load_config(path, overrides or ())
    except ConfigError as error:
        fail(BAD_INPUT, str(error))


def fail(code: int, message: str) -> NoReturn:
    """End the command with `code` and say why on stderr."""
    Console(stderr=True).print(message, style="red", highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(code)


def print_line(markup: str) -> None:
    """One line, however long: paths and commands have to stay whole."""
    Console().print(markup, highlight=False, soft_wrap=True)
