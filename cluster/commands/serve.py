"""`wfr serve`."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cluster.console import BAD_INPUT, FAILED, Overrides, fail, load
from cluster.serving.api_keys import ApiKeys, KeyFileError, add_key
from cluster.serving.follow import Checkpoint, chosen, newest, pin
from wfr.config import Config, ConfigError


class _UpByDefault(TyperGroup):
    """`wfr serve --policy P` is `wfr serve up --policy P`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["up", *args]
        return super().parse_args(ctx, args)


serving = typer.Typer(
    cls=_UpByDefault,
    help="Serve a trained director: wfr serve --policy CHECKPOINT|RUN, or --follow RUN.",
    no_args_is_help=True,
)

Policy = Annotated[
    Path | None,
    typer.Option(metavar="CHECKPOINT|RUN", help="What to serve; of a run the newest checkpoint."),
]
Follow = Annotated[
    Path | None,
    typer.Option(metavar="RUN", help="Serve a run, and go over to its newer checkpoints."),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="YAML file; none: the configuration that the run was made with."),
]


@serving.command("up")
def up(
    policy: Policy = None,
    follow: Follow = None,
    config: ConfigOption = None,
    overrides: Overrides = None,
) -> None:
    """Serve a director until SIGTERM or Ctrl-C; what is being answered then is finished first.

    Examples:
      wfr serve --policy runs/quickstart
      wfr serve --policy runs/x/checkpoints/120 --config my.yaml --set serving.port=9000
      wfr serve --follow runs/x --set serving.keys=keys.yaml
      curl -N localhost:8000/v1/workflows -d '{"question": "...", "stream": true}'
    """
    settings, checkpoint = _checked(policy, follow, config, overrides)
    from cluster.serving.up import serve_until_told

    try:
        serve_until_told(settings, checkpoint, follow.resolve() if follow else None, typer.echo)
    except (RuntimeError, OSError, ValueError) as error:
        fail(FAILED, str(error))


@serving.command("key")
def key(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="File of keys; made if absent.")],
    name: Annotated[str, typer.Option(help="Name of the key, for logs and limits.")],
    expires: Annotated[
        datetime.datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Its last day (UTC).")
    ] = None,
    requests_per_minute: Annotated[float | None, typer.Option(help="Bound of its rate.")] = None,
    usd: Annotated[float | None, typer.Option(help="Bound of what its workflows cost.")] = None,
) -> None:
    """Add an API key to a file that `serving.keys` names; a running service knows it at once.

    The secret is printed now and never again: the file holds its hash. Delete an entry to end it.

    Example:
      wfr serve key keys.yaml --name web --requests-per-minute 60 --usd 20
    """
    day = expires.date() if expires else None
    try:
        secret = add_key(path, name, expires=day, requests_per_minute=requests_per_minute, usd=usd)
    except KeyFileError as error:
        fail(BAD_INPUT, str(error))
    typer.echo(secret)


@serving.command("pin")
def pin_version(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run that services follow.")],
    version: Annotated[int, typer.Argument(help="The version that is to answer.")],
) -> None:
    """Let one version of a followed run answer, whatever is newer."""
    try:
        pin(run, version)
    except ConfigError as error:
        fail(BAD_INPUT, str(error))


@serving.command("unpin")
def unpin(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run that services follow.")],
) -> None:
    """Let newer versions of a followed run answer again."""
    pin(run, None)


def _checked(
    policy: Path | None, follow: Path | None, config: Path | None, overrides: list[str] | None
) -> tuple[Config, Checkpoint]:
    """Everything that can be wrong without starting anything."""
    if (policy is None) == (follow is None):
        fail(BAD_INPUT, "name one of --policy CHECKPOINT|RUN and --follow RUN")
    path = policy or follow
    assert path is not None
    try:
        checkpoint = chosen(path) if policy else newest(path)
        settings = load(config or _config_of(path, checkpoint.path), overrides)
    except ConfigError as error:
        fail(BAD_INPUT, str(error))
    if settings.executor.serve is not None:
        fail(
            BAD_INPUT,
            "executor.serve starts a model for a run; serve that model on its own and name its "
            "backend instead",
        )
    if settings.serving.keys:
        try:
            ApiKeys(Path(settings.serving.keys))
        except KeyFileError as error:
            fail(BAD_INPUT, f"serving.keys: {error}")
    if settings.serving.tls_cert and settings.serving.tls_key:
        named = settings.serving.tls_cert, settings.serving.tls_key
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(*named)
        except OSError as error:  # ssl.SSLError among them
            fail(BAD_INPUT, f"serving.tls_cert={named[0]}, tls_key={named[1]}: {error}")
    return settings, checkpoint


def _config_of(path: Path, checkpoint: Path) -> Path:
    """The configuration of the run that the checkpoint is of; raises ConfigError."""
    for run in (path, checkpoint.parent.parent):
        found = run / "config.json"
        if (run / "checkpoints").is_dir() and found.is_file():
            return found
    raise ConfigError(f"{path}: no run's configuration beside the checkpoint; name one by --config")
