"""Write KubeRay's manifests: `python -m cluster.kuberay [DIRECTORY]`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.kuberay.manifests import files

GENERATED = Path(__file__).parent / "generated"


def main(directory: Annotated[Path, typer.Argument(help="Where to.")] = GENERATED) -> None:
    """Write every manifest; what is there already is replaced."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files().items():
        (directory / name).write_text(content, encoding="utf-8")
        typer.echo(str(directory / name))


if __name__ == "__main__":
    typer.run(main)
