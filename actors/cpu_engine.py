"""How an engine is best set up on a CPU."""

from __future__ import annotations

from typing import Any

BLOCK = 32
"""Tokens: smaller blocks than vLLM's 128, so that short episodes share prefixes at all."""


def cpu_settings(tensor_parallel: int = 1) -> dict[str, Any]:
    """Arguments of an engine on a CPU.

    The model runs in the process of its scheduler. vLLM would give it another one, and each of the
    two spins while it waits for the other: two cores that are lost to everybody else.
    """
    from vllm.v1.executor.uniproc_executor import UniProcExecutor

    found: dict[str, Any] = {"enforce_eager": True, "block_size": BLOCK}
    if tensor_parallel == 1:  # on CPUs vLLM makes "mp" of "uni", and leaves the class alone
        found["distributed_executor_backend"] = UniProcExecutor
    return found
