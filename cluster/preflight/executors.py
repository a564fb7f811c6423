"""Can the executors be used: are their keys here, do their servers answer?"""

from __future__ import annotations

import asyncio
import os

from cluster.preflight.check import Check
from wfr.backends.base import BackendConfigError
from wfr.backends.executors import Executors
from wfr.backends.hub import Hub
from wfr.config import Config
from wfr.executor_config import ExecutorConfig


def executor_check(config: Config) -> Check:
    """Every key and recording is there, and every server answers; with RAY_ADDRESS only the first.

    Servers are asked for their list of models, which costs nothing.
    """
    executor = config.executor
    if executor.serve is not None:  # it does not answer before the run has started it
        executor = executor.served_at("http://127.0.0.1:1/v1")
    ask = not os.environ.get("RAY_ADDRESS") and config.executor.serve is None
    try:
        faults = asyncio.run(_faults(executor, ask=ask))
    except BackendConfigError as error:
        faults = {"executor": str(error)}
    return Check(
        "executors",
        not faults,
        "; ".join(f"{name}: {fault}" for name, fault in faults.items()) or ", ".join(executor.used),
        "see `executor` in the configuration: key, base_url and model of each backend",
    )


async def _faults(config: ExecutorConfig, *, ask: bool) -> dict[str, str]:
    executors = Executors(config, Hub(config))
    try:
        if not ask:
            return {}
        async with asyncio.timeout(_PATIENCE_S):
            return await executors.check()
    except TimeoutError:
        return {"executor": f"a server has not answered within {_PATIENCE_S:g} s"}
    finally:
        await executors.close()


_PATIENCE_S = 20.0
