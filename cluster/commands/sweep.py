"""`wfr sweep`."""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from cluster.commands.train import Overwrite, preflight
from cluster.console import BAD_INPUT, FAILED, AsJson, ConfigFile, Overrides, fail, load
from wfr.config import Config, written_lines
from wfr.yaml_lines import place_of

if TYPE_CHECKING:
    from cluster.sweep import Ended

Vary = Annotated[
    list[str],
    typer.Option(
        "--vary",
        metavar="KEY=VALUE,VALUE",
        help="Values of one key, e.g. objective.preset=gsspo,grpo; of several keys all "
        "combinations, the first key in the outermost loop.",
    ),
]


def sweep(
    config: ConfigFile,
    vary: Vary,
    overrides: Overrides = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Train one director after another, each with other values of some keys.

    The runs are called NAME-VALUE-VALUE and share one Ray; samplers stay up from run to run where
    the next would start them alike, which saves most of its start. All are checked before the
    first starts. Asked again, a sweep makes what is missing: runs that are done stay as they are,
    one that was interrupted goes on. One that fails is named, and the others are made. Ctrl-C ends
    the run under way in order, and the sweep with it.

    Examples:
      wfr sweep cluster/configs/quickstart.yaml --vary buffer.max_lag=0,4 --vary run.seed=1,2,3
      wfr sweep my.yaml --vary objective.preset=gsspo,grpo --vary learner.lr=1e-6,3e-6
    """
    runs = dict(_named(load(config, overrides).run.name, vary))
    settings = {name: _settings(config, name, overrides, each) for name, each in runs.items()}
    from cluster.sweep import begun, finished
    from cluster.sweep import sweep as make

    for name, each in settings.items():
        try:
            resume = not overwrite and begun(each)
        except FileExistsError as error:
            fail(BAD_INPUT, str(error))
        if not (resume and finished(each)):
            lines = written_lines(config, (*(overrides or ()), *runs[name]))
            place = functools.partial(_place, config, lines)
            preflight(each, place, overwrite=overwrite, resume=resume)
    ended = []
    for one in make(settings.values(), overwrite=overwrite, quiet=as_json):
        ended.append(one)
        if as_json:
            typer.echo(json.dumps({"name": one.config.run.name, **one.summary} | _fault(one)))
    if not as_json:
        _show(ended, runs, [key.partition("=")[0].rpartition(".")[2] for key in vary])
    if any(one.error for one in ended):
        raise typer.Exit(FAILED)


def _place(path: Path, lines: Mapping[tuple[str | int, ...], int], key: str) -> str:
    return place_of(path, key.split("."), lines)


def _settings(config: ConfigFile, name: str, overrides: Overrides, values: Sequence[str]) -> Config:
    return load(config, [*(overrides or ()), f"run.name={name}", *values])


def _fault(ended: Ended) -> dict[str, str]:
    return {"status": "failed", "reason": ended.error} if ended.error else {}


def _named(base: str, vary: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every combination of values as overrides, by the name of its run."""
    axes = []
    for option in vary:
        key, separator, text = option.partition("=")
        choices = list(split(text))
        if not separator or not key or not all(choices):
            fail(BAD_INPUT, f"--vary {option!r}: expected KEY=VALUE,VALUE,...")
        if key in ("run.name", "run.dir"):
            fail(BAD_INPUT, f"--vary {key}: runs get their names from what else varies")
        axes.append([(key, value) for value in choices])
    known: dict[str, tuple[str, ...]] = {}
    for chosen in itertools.product(*axes):
        name = "-".join([base, *(_word(value) for _, value in chosen)])
        values = tuple(f"{key}={value}" for key, value in chosen)
        if name in known:
            fail(BAD_INPUT, f"--vary: two runs would be called {name}: {known[name]}, {values}")
        known[name] = values
        yield name, values


def split(text: str) -> Iterator[str]:
    """The values of a list; a comma in brackets or quotes separates nothing."""
    depth, quote, value = 0, "", ""
    for letter in text:
        if letter == "," and not depth and not quote:
            yield value.strip()
            value = ""
            continue
        value += letter
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        else:
            depth += (letter in "[{") - (letter in "]}")
    yield value.strip()


def _word(value: str) -> str:
    """A value as a part of a name."""
    return re.sub(r"[^A-Za-z0-9.]+", "_", value).strip("_") or "_"


def _show(ended: Sequence[Ended], runs: dict[str, tuple[str, ...]], keys: Sequence[str]) -> None:
    table = Table("run", *keys, "before", "after", "steps", "training", "status")
    for each in ended:
        values = [value.partition("=")[2] for value in runs[each.config.run.name]]
        found = each.summary
        numbers = [f"{found[key]:.3f}" if key in found else "" for key in ("em_before", "em_after")]
        taken = f"{found['rl_seconds']:.0f} s" if "rl_seconds" in found else ""
        status = str(found.get("status", "failed"))
        steps = str(found.get("steps", ""))
        table.add_row(each.config.run.name, *values, *numbers, steps, taken, status)
    Console().print(table)
    for each in ended:
        if each.error:
            Console(stderr=True).print(
                f"{each.config.run.name}: {each.error}", style="red", highlight=False, markup=False
            )
