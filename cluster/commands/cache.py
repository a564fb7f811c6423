"""`wfr cache`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.console import BAD_INPUT, fail
from wfr.backends.base import BackendConfigError
from wfr.backends.recorded import export


def cache(
    directory: Annotated[Path, typer.Argument(help="Directory of an executor cache.")],
    out: Annotated[Path, typer.Option(help="File to write, one request and reply per line.")],
) -> None:
    """Export an executor cache as JSON lines, for a backend of `kind: recorded`.

    Examples:
      wfr cache runs/quickstart/cache --out calls.jsonl
    """
    try:
        count = export(directory, out)
    except (BackendConfigError, OSError) as error:
        fail(BAD_INPUT, str(error))
    typer.echo(f"{out}: {count} replies")
