"""The service on Ray Serve: replicas with an engine each, and what they share."""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from pathlib import Path
from typing import Any

import ray
from ray import serve

from actors.director_server import DirectorServer
from actors.render import Renderer
from cluster.hub import HostedHub, RemoteHub
from cluster.logs import redirect
from cluster.remote import Remote
from cluster.serving.api import build
from cluster.serving.api_keys import ApiKeys
from cluster.serving.directors import Directors
from cluster.serving.flywheel import Flywheel, find_redact
from cluster.serving.follow import Checkpoint, Follower, newest
from cluster.serving.listener import Listener
from cluster.serving.neutral import Neutral
from cluster.serving.player import Player, Ungraded
from cluster.serving.registry import Registry
from cluster.serving.release import Release
from cluster.serving.service import Service
from wfr.config import Config, load_config
from wfr.environments.registry import make_factory
from wfr.tasks.registry import make_source

APPLICATION = "wfr-director"
_SHARE_S = 5.0
_ENDING_S = 15.0  # engines and sandbox end after the last request
_MANY = 100_000
"""Ray's own bounds are out of the way: `cluster.serving.admission` refuses, and says 429."""


@serve.ingress()
class HostedService:
    """One replica."""

    def __init__(
        self,
        config: Config,
        checkpoint: Checkpoint,
        follow: str | None,
        work: str,
        device: str,
        registry: Remote,
        hub: Remote,
        port: int | None = None,
    ) -> None:
        """Remember what to start; the engine starts with the application.

        With a `port` the replica listens on it besides what Ray Serve asks it.
        """
        self._name = f"replica-{uuid.uuid4().hex[:8]}"
        redirect(Path(work) / "logs", self._name)
        self._config = config
        self._checkpoint = newest(Path(follow)) if follow else checkpoint
        self._follow = follow
        self._work = work
        self._device = device
        self._registry = registry
        self._hub = hub
        self._port = port
        self._listener: Listener | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def __serve_build_asgi_app__(self) -> Any:
        """Start the first engine; the application answers when it is up."""
        config, serving = self._config, self._config.serving
        self._factory = make_factory(
            config, make_source(config), RemoteHub(self._hub), self._name, Ungraded()
        )
        renderer = Renderer(self._checkpoint.path)
        tokenizer = renderer.tokenizer
        special = [*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()]
        player = Player(config, self._factory, renderer, Neutral(special))
        release = Release(self._checkpoint.version, serving.canary)
        self._directors = Directors(release, self._start)
        await self._directors.begin(self._checkpoint.path)
        flywheel = None
        if serving.journal:
            redact = find_redact(serving.redact)
            flywheel = Flywheel(Path(serving.journal), self._name, serving.keep, redact)
        service = Service(
            *(config, self._directors, player, self._registry),
            flywheel=flywheel,
            replica=self._name,
            log=_log,
        )
        self._service = service
        self._spawn(service.run())
        self._spawn(service.share_metrics(_SHARE_S))
        if self._follow:
            follower = Follower(Path(self._follow), self._directors, _log)
            self._spawn(follower.run(serving.poll_s))
        keys = ApiKeys(Path(serving.keys)) if serving.keys else None
        application = build(service, keys)
        if self._port is not None:
            self._listener = Listener(application, serving, self._port)
        return application

    async def check_health(self) -> None:
        """Ray Serve replaces a replica whose engine has died."""
        await self._directors.check_health()

    async def __del__(self) -> None:
        """End engines and sandbox, after what is being answered."""
        if self._listener is not None:
            await self._listener.close()
        for task in self._tasks:
            task.cancel()
        self._directors.close()
        await self._factory.close()

    def _spawn(self, coroutine: Any) -> None:
        self._tasks.append(asyncio.create_task(coroutine))

    async def _start(self, path: Path, version: int) -> DirectorServer:
        server = await asyncio.to_thread(
            DirectorServer, self._config, str(path), version, device=self._device
        )
        await server.open()
        return server


def application(
    config: Config,
    checkpoint: Checkpoint,
    *,
    follow: str | None,
    work: Path,
    device: str,
    port: int | None = None,
) -> Any:
    """The application, bound; `work` is the directory of logs and of the operators' cache.

    With a `port` replicas listen on it themselves.
    """
    serving = config.serving
    options: dict[str, Any] = {"max_ongoing_requests": _MANY}
    if serving.elastic:
        options["autoscaling_config"] = {
            "min_replicas": serving.replicas,
            "max_replicas": serving.max_replicas,
            "target_ongoing_requests": serving.concurrency,
        }
    else:
        options["num_replicas"] = serving.replicas
    actor: dict[str, Any] = {"num_cpus": 0}
    if device == "cuda":
        actor["num_gpus"] = config.sampler.tensor_parallel
    deployment = serve.deployment(
        name="director",
        ray_actor_options=actor,
        graceful_shutdown_timeout_s=serving.drain_s + _ENDING_S,
        health_check_period_s=5,
        **options,
    )(HostedService)
    shared = {"num_cpus": 0, "max_concurrency": _MANY}
    registry = _named("registry", Registry, shared, serving.keep, serving.keep_s)
    hub = _named("hub", HostedHub, shared, config.executor, str(work))
    return deployment.bind(
        *(config, checkpoint, follow, str(work), device, registry, hub), port=port
    )


def from_file(args: dict[str, str]) -> Any:
    """The application for a Serve configuration file (`serve deploy`, RayService).

    `args`: `config`, the run's YAML; `policy`, a checkpoint or a run; optionally `follow: "true"`
    and `work`.
    """
    from cluster.serving.follow import chosen

    config = load_config(Path(args["config"]), ())
    path = Path(args["policy"])
    follow = str(path.resolve()) if args.get("follow") == "true" else None
    work = Path(args.get("work", str(config.run_dir.with_name(f"{config.run.name}-serving"))))
    return application(config, chosen(path), follow=follow, work=work.resolve(), device=device())


def device() -> str:
    """Where engines of this cluster run: `cuda` or `cpu`."""
    return "cuda" if ray.cluster_resources().get("GPU") else "cpu"  # type: ignore[no-untyped-call]


def _named(name: str, cls: type, options: dict[str, Any], *args: Any) -> Remote:
    """An actor that outlives whoever started it, for as long as the service runs."""
    actor: Any = ray.remote(cls).options(
        name=f"{APPLICATION}-{name}",
        namespace="serve",
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        **options,
    )
    return Remote(actor.remote(*args))


def end_shared() -> None:
    """End what `application` has started beside the replicas."""
    for name in ("registry", "hub"):
        with contextlib.suppress(ValueError):
            ray.kill(ray.get_actor(f"{APPLICATION}-{name}", namespace="serve"))


def _log(line: str) -> None:
    os.write(1, f"{line}\n".encode())
