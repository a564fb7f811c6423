"""Write every generated file: `python -m cluster.monitoring [DIRECTORY]`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.monitoring.files import files

GENERATED = Path(__file__).parent / "generated"


def main(
    directory: Annotated[Path, typer.Argument(help="Where to.")] = GENERATED,
) -> None:
    """Write Prometheus' and Grafana's files; what is there already is replaced."""
    for name, content in files().items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        typer.echo(str(path))


if __name__ == "__main__":
    typer.run(main)
