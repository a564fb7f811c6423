"""Search: passages that share words with a query, from an index or from the web."""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

from wfr.backends.base import Backend, OperatorRequest
from wfr.operators.base import OperatorSpec, Outcome, Scope, read_inputs
from wfr.operators.meter import Meter
from wfr.operators.values import NodeInput, NodeOutcome, Value
from wfr.retrieval.memory_index import MemoryIndex
from wfr.search_config import SearchConfig
from wfr.tasks.source import Document
from wfr.trajectory import OperatorCall

_NOTHING_FOUND = "no results"

SPEC = OperatorSpec(
    name="Search",
    category="search",
    description=(
        "Looks up passages that share words with a query. Use it for every fact that is not "
        "already known; name the person, place or thing you want to read about."
    ),
    usage="Search: QUERY",
    as_node="Looks up passages that share words with your prompt, or else with the problem.",
)


class Index(Protocol):
    """Something that finds passages in no time worth waiting for."""

    def search(self, query: str, top_k: int) -> list[Document]:
        """At most `top_k` passages, best first."""
        ...


class Search:
    """The Search operator over an index, or over the web if it is given a backend to ask."""

    spec = SPEC

    def __init__(
        self,
        config: SearchConfig,
        shared: Index,
        backend: Backend | None = None,
        kept_indexes: int = 64,
    ) -> None:
        """Find in `shared`, or in a task's own passages; keep the indexes of the last tasks."""
        self._config = config
        self._shared = shared
        self._backend = backend
        self._own: OrderedDict[str, MemoryIndex] = OrderedDict()
        self._kept = kept_indexes
        self.parameters = f"{config.engine} {config.top_k} {config.style}"

    async def run(self, inputs: NodeInput, scope: Scope, meter: Meter) -> NodeOutcome:
        """Find passages for the node's prompt, or for the problem where it has none."""
        meter.claim()
        outcome = await self.call(inputs.instruction.strip() or inputs.problem, scope)
        meter.record(outcome.call)
        return NodeOutcome(Value(outcome.text))

    async def call(self, argument: str, scope: Scope) -> Outcome:
        """Find passages; raises ArgumentError for an empty query, and what the backend raises."""
        query = read_inputs(self.spec, argument)["content"][0]
        if self._backend is not None:
            return await self._ask(self._backend, query)
        started = time.perf_counter()
        found = self._index(scope).search(query, self._config.top_k)
        call = OperatorCall(self.spec.name, "bm25", time.perf_counter() - started)
        return Outcome(self._show(query, found), call)

    async def _ask(self, backend: Backend, query: str) -> Outcome:
        started = time.perf_counter()
        inputs = {"query": (query,), "top_k": (str(self._config.top_k),)}
        reply = await backend.complete(OperatorRequest(self.spec.name, inputs, query))
        call = OperatorCall(
            self.spec.name,
            reply.backend or backend.name,
            time.perf_counter() - started,
            cost_usd=reply.cost_usd,
            cache_hit=reply.cache_hit,
            status=reply.status,
        )
        if reply.status != "ok":
            return Outcome(reply.text, call)
        found = [Document(hit["title"], hit["text"]) for hit in json.loads(reply.text)]
        return Outcome(self._show(query, found[: self._config.top_k]), call)

    def _index(self, scope: Scope) -> Index:
        if not scope.corpus:
            return self._shared
        index = self._own.pop(scope.task_id, None) or MemoryIndex(scope.corpus)
        self._own[scope.task_id] = index
        if len(self._own) > self._kept:
            self._own.popitem(last=False)
        return index

    def _show(self, query: str, found: Sequence[Document]) -> str:
        if not found:
            return _NOTHING_FOUND
        if self._config.style == "text":
            return "\n".join(d.text for d in found)
        hits = (f"{i}. Title: {d.title}\nSnippet: {d.text}" for i, d in enumerate(found, 1))
        return "\n\n".join([f"Search results for '{query}':", *hits])
