"""`wfr plan --config`: where the processes of a run would be placed."""

from __future__ import annotations

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from cluster.console import BAD_INPUT, NOT_FIT, fail
from cluster.placement import MisfitError, Node, demands, place, used
from wfr.config import Config


def show_placement(config: Config, machines: Sequence[str], *, as_json: bool) -> None:
    """Print what runs where, or end with exit code 3 and what is missing."""
    try:
        nodes = described(machines) if machines else _found()
    except ValueError as error:
        fail(BAD_INPUT, str(error))
    wanted = demands(config, gpu=any(node.gpus for node in nodes))
    try:
        placed = place(wanted, nodes)
    except MisfitError as error:
        fail(NOT_FIT, str(error))
    here = used(wanted, placed)
    if as_json:
        rows = [{"demand": d.name, "asks": str(d), "machines": placed[d.name]} for d in wanted]
        typer.echo(json.dumps({"placed": rows, "machines": here}, indent=2))
        return
    table = Table("machine", "has", "runs", title=config.run.name)
    for node in nodes:
        has = f"{node.gpus} GPUs, {node.cpus:g} CPUs"
        table.add_row(node.name, has, ", ".join(here.get(node.name, ["nothing"])))
    Console().print(table)
    if not any(demand.counted for demand in wanted):
        typer.echo(
            "Nothing of it is counted, so Ray may place any process on any machine; see placement "
            "in docs/configuration.md."
        )


def described(texts: Sequence[str]) -> list[Node]:
    """Machines from `2x gpu=8,cpu=96,pool=a`, named after their place in the list.

    Raises:
        ValueError: naming the text and what is expected.
    """
    nodes: list[Node] = []
    for number, text in enumerate(texts):
        count, values = _parse(text)
        gpus, cpus = values.pop("gpu", "0"), values.pop("cpu", "1")
        try:
            has = float(cpus), int(gpus)
        except ValueError:
            raise ValueError(f"--machines {text!r}: gpu={gpus}, cpu={cpus}: give numbers") from None
        kind = "abcdefghijklmnopqrstuvwxyz"[number % 26]
        nodes += [Node(f"{kind}{index}", *has, labels=values) for index in range(count)]
    return nodes


_MACHINES = re.compile(r"\s*(?:(\d+)\s*x\s+)?([\w./-]+=[^,=]+(?:,\s*[\w./-]+=[^,=]+)*)\s*")


def _parse(text: str) -> tuple[int, dict[str, str]]:
    found = _MACHINES.fullmatch(text)
    if found is None:
        raise ValueError(f"--machines {text!r}: expected for example '4x gpu=8,cpu=96,pool=a'")
    pairs = (pair.partition("=") for pair in found[2].split(","))
    values = [(key.strip(), value.strip()) for key, _, value in pairs]
    twice = [key for key, count in Counter(key for key, _ in values).items() if count > 1]
    if twice:
        raise ValueError(f"--machines {text!r}: names {twice[0]} twice")
    return int(found[1] or 1), dict(values)


def _found() -> list[Node]:
    """The machines of the cluster at RAY_ADDRESS, or this one."""
    if "RAY_ADDRESS" not in os.environ:
        cards = Path("/proc/driver/nvidia/gpus")
        gpus = len(list(cards.iterdir())) if cards.is_dir() else 0
        return [Node("this machine", os.cpu_count() or 1, gpus)]
    import ray  # only where there is a cluster to ask

    from cluster.nodes import cluster_nodes

    ray.init(log_to_driver=False, logging_level=logging.ERROR)
    try:
        return cluster_nodes()
    finally:
        ray.shutdown()
