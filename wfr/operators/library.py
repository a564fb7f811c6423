"""All operators by name, and the pools that directors are offered."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence

from wfr.backends.base import Backend
from wfr.operators import programmer, search
from wfr.operators.answer_generate import ANSWER_GENERATE, MULTI_ANSWER_GENERATE
from wfr.operators.base import Operator
from wfr.operators.custom import CUSTOM, PROMPT_OPTIMIZER
from wfr.operators.ensemble import SC_ENSEMBLE
from wfr.operators.programmer import CodeRunner, Programmer
from wfr.operators.prompted import Prompted, PromptedOperator
from wfr.operators.review import REVIEW, REVISE
from wfr.operators.search import Search

PROMPTED: Mapping[str, Prompted] = types.MappingProxyType(
    {
        declaration.spec.name: declaration
        for declaration in (
            ANSWER_GENERATE,
            CUSTOM,
            PROMPT_OPTIMIZER,
            REVIEW,
            REVISE,
            MULTI_ANSWER_GENERATE,
            SC_ENSEMBLE,
        )
    }
)

NAMES = (search.SPEC.name, programmer.SPEC.name, *PROMPTED)

# The search pool swaps MultiAnswerGenerate for Search (Workflow-R1, appendix A.3).
POOLS: Mapping[str, tuple[str, ...]] = types.MappingProxyType(
    {
        "base": tuple(PROMPTED),
        "search": tuple("Search" if n == "MultiAnswerGenerate" else n for n in PROMPTED),
        "embedded": ("Search", "Programmer", "AnswerGenerate", "Review"),
    }
)


def pool_names(pool: str | Sequence[str]) -> tuple[str, ...]:
    """Names in a preset or a list of names; raises ValueError for what is not an operator."""
    if isinstance(pool, str):
        if pool not in POOLS:
            raise ValueError(f"operator pool {pool!r} is unknown; known: {', '.join(POOLS)}")
        return POOLS[pool]
    names = tuple(pool)
    unknown = [name for name in names if name not in NAMES]
    if unknown or not names:
        what = f"does not know {', '.join(unknown)}" if unknown else "is empty"
        raise ValueError(f"operator pool {list(names)} {what}; known: {', '.join(NAMES)}")
    if len(set(names)) < len(names):
        raise ValueError(f"operator pool {list(names)} names an operator twice")
    return names


def make_pool(
    pool: str | Sequence[str], *, search: Search, sandbox: CodeRunner, backend: Backend
) -> dict[str, Operator]:
    """The operators of a pool, in its order; raises ValueError as `pool_names` does."""
    return {name: _make(name, search, sandbox, backend) for name in pool_names(pool)}


def _make(name: str, search: Search, sandbox: CodeRunner, backend: Backend) -> Operator:
    if name == search.spec.name:
        return search
    if name == programmer.SPEC.name:
        return Programmer(sandbox)
    return PromptedOperator(PROMPTED[name], backend)
