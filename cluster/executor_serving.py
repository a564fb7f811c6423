"""An executor inside the cluster: vLLM behind Ray Serve."""

from __future__ import annotations

import asyncio
import os
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import ray
from ray import serve

from actors.chat_server import ChatServer
from cluster.logs import redirect
from cluster.ports import free_port
from wfr.backends.base import BackendConfigError
from wfr.executor_config import ServeConfig

NAME = "wfr-executor"
_POLL_S = 1.0


@serve.ingress()
class HostedChatServer:
    """One replica."""

    def __init__(self, config: ServeConfig, run_dir: str, device: str) -> None:
        """Start the engine."""
        redirect(Path(run_dir) / "logs", f"{NAME}-{os.getpid()}")
        engine: dict[str, Any] = {"tensor_parallel_size": config.tensor_parallel, **config.engine}
        self._server = ChatServer(config.model, engine, device=device)

    async def __serve_build_asgi_app__(self) -> Any:
        """The application that this replica answers with."""
        return await self._server.asgi()

    async def check_health(self) -> None:
        """Ray Serve replaces a replica whose engine has died."""
        await self._server.check_health()


class ServedExecutor:
    """Deploys the model and says where it answers."""

    def __init__(self, config: ServeConfig, run_dir: Path, device: str) -> None:
        """Deploy nothing yet; Ray has to be initialised."""
        self._config = config
        self._run_dir = run_dir
        self._device = device

    async def start(self) -> str:
        """Deploy, wait until it answers, and return the base URL.

        Raises:
            BackendConfigError: it did not come up within `start_timeout_s`.
        """
        config = self._config
        port = config.port or free_port()
        address = f"http://{ray.util.get_node_ip_address()}:{port}/executor/v1"  # type: ignore[no-untyped-call]
        actor: dict[str, Any] = {"num_cpus": 0}
        if self._device == "cuda":
            actor["num_gpus"] = config.tensor_parallel
        decorate = serve.deployment(
            name=NAME,
            num_replicas=config.replicas,
            max_ongoing_requests=max(1, config.limits.concurrency // config.replicas),
            ray_actor_options=actor,
        )
        deployment = decorate(HostedChatServer)
        application = deployment.bind(config, str(self._run_dir), self._device)

        def deploy() -> None:
            serve.start(http_options={"host": "0.0.0.0", "port": port})
            serve.run(application, name=NAME, route_prefix="/executor", blocking=False)

        try:
            async with asyncio.timeout(config.start_timeout_s):
                await asyncio.to_thread(deploy)
                await asyncio.to_thread(_until_it_answers, f"{address}/models", config)
        except (TimeoutError, RuntimeError) as error:
            raise BackendConfigError(
                f"executor.serve: {config.model!r} does not come up ({error}); see "
                f"{self._run_dir / 'logs'}"
            ) from error
        return address

    async def close(self) -> None:
        """Take the model down."""
        await asyncio.to_thread(serve.delete, NAME)


def _until_it_answers(address: str, config: ServeConfig) -> None:
    deadline = time.monotonic() + config.start_timeout_s
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(address, timeout=10):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(_POLL_S)
    raise TimeoutError(f"no answer from {address} within {config.start_timeout_s:g} s")
