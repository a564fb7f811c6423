"""All operators by name, the pools that directors are offered, and operators of a user's own."""

from __future__ import annotations

import dataclasses
import importlib
import types
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from typing import TypeAlias

from wfr.backends.base import Backend
from wfr.operators.base import NodeOperator, Operator, OperatorSpec
from wfr.operators.code_runner import CodeRunner
from wfr.operators.coded import Coded, CodedOperator, Services
from wfr.operators.ensemble import AGGREGATE, MD_ENSEMBLE, SC_ENSEMBLE
from wfr.operators.formatting import FORMAT
from wfr.operators.node_form import NodeForm
from wfr.operators.planning import DECOMPOSE, PLAN, PROMPT_OPTIMIZER
from wfr.operators.programmer import PROGRAMMER
from wfr.operators.prompted import Prompted, PromptedOperator
from wfr.operators.revision import REVISE
from wfr.operators.run_tests import TEST
from wfr.operators.search import SPEC as SEARCH_SPEC
from wfr.operators.solving import ANSWER_GENERATE, CUSTOM, MULTI_ANSWER_GENERATE
from wfr.operators.values import NodeInput, Value
from wfr.operators.verification import REVIEW, VERIFY

Declaration: TypeAlias = Prompted | Coded

ENTRY_POINTS = "wfr.operators"
"""Entry points of this group name declarations of installed packages."""

_RESERVED = ("done", "until")  # words of the workflow notation


class LibraryError(ValueError):
    """A pool or a declaration that cannot be used: file and line, what is wrong, what to do."""


def collected(declarations: Iterable[Declaration]) -> Mapping[str, Declaration]:
    """Declarations by name, each checked; raises LibraryError."""
    found: dict[str, Declaration] = {}
    for declaration in declarations:
        check(declaration)
        name = declaration.spec.name
        if name in found:
            raise LibraryError(
                f"{declaration.where}: operator {name!r} is declared a second time; the first is "
                f"at {found[name].where}; rename one"
            )
        found[name] = declaration
    return types.MappingProxyType(found)


def check(declaration: Declaration) -> None:
    """Raise LibraryError, with file and line, where a declaration contradicts itself."""
    spec = declaration.spec
    problem = _spec_problem(spec)
    if not problem and isinstance(declaration, Prompted):
        problem = _prompted_problem(declaration)
    if problem:
        raise LibraryError(f"{declaration.where}: operator {spec.name!r} {problem}")


def _spec_problem(spec: OperatorSpec) -> str:
    if not spec.name.isidentifier() or not spec.name.isascii() or spec.name in _RESERVED:
        return "needs a name of ASCII letters, digits and _ that is no word of the notation"
    if not spec.category or not spec.description:
        return "needs a category and a description"
    if not spec.usage.startswith(f"{spec.name}:"):
        return f"needs a usage that begins with '{spec.name}:', not {spec.usage[:40]!r}"
    return ""


def _prompted_problem(declaration: Prompted) -> str:
    form = declaration.node
    if declaration.node_samples < 1 or declaration.samples < 1 or declaration.temperature < 0:
        return "needs at least 1 sample and a temperature of at least 0"
    if declaration.node_samples > 1 and declaration.temperature == 0:
        return "draws several samples at temperature 0, which are all the same; raise it"
    names = [field.name for field in form.fields]
    if not names or len(set(names)) < len(names):
        return f"needs reply fields with different names, not {names}"
    if declaration.spec.is_check and not any(field.kind == "verdict" for field in form.fields):
        return "is a check, so it needs a reply field of kind 'verdict'"
    return _wording_problem(declaration, form)


def _wording_problem(declaration: Prompted, form: NodeForm) -> str:
    sample = NodeInput("PROBLEM", "INSTRUCTION", (Value("FIRST"), Value("SECOND")))
    try:
        text = declaration.node_prompt(form.inputs(sample, 0))
    except (KeyError, IndexError) as error:
        return f"has a prompt that reads an input which it is not given: {error}"
    missing = [field.name for field in form.fields if f"<{field.name}>" not in text]
    if missing:
        return f"never tells its backend to reply with <{missing[0]}>; name it in the prompt"
    return ""


SEARCH = Coded(SEARCH_SPEC, lambda services: services.search)

LIBRARY = collected(
    (
        *(SEARCH, PROGRAMMER, ANSWER_GENERATE, CUSTOM, PROMPT_OPTIMIZER, REVIEW, REVISE),
        *(MULTI_ANSWER_GENERATE, SC_ENSEMBLE, PLAN, DECOMPOSE, TEST, VERIFY, AGGREGATE, FORMAT),
        MD_ENSEMBLE,
    )
)
NAMES = tuple(LIBRARY)
PROMPTED: Mapping[str, Prompted] = types.MappingProxyType(
    {name: d for name, d in LIBRARY.items() if isinstance(d, Prompted)}
)

_WORKFLOW_R1 = (
    *("AnswerGenerate", "Custom", "PromptOptimizer", "Review", "Revise"),
    *("MultiAnswerGenerate", "ScEnsemble"),
)
# Workflow-R1, appendix A.3: its search pool swaps MultiAnswerGenerate for Search. The canvas is
# that of FlowSteer: twelve operators in six categories.
POOLS: Mapping[str, tuple[str, ...]] = types.MappingProxyType(
    {
        "base": _WORKFLOW_R1,
        "search": tuple("Search" if n == "MultiAnswerGenerate" else n for n in _WORKFLOW_R1),
        "embedded": ("Search", "Programmer", "AnswerGenerate", "Review"),
        "canvas": (
            *("Plan", "Decompose", "Programmer", "Custom", "AnswerGenerate", "Test", "Review"),
            *("Verify", "Revise", "ScEnsemble", "Aggregate", "Format"),
        ),
    }
)


def declarations(pool: str | Sequence[str]) -> dict[str, Declaration]:
    """The declarations of a preset or a list, in its order.

    An item is a name of the library or of an entry point, or `package.module:NAME` for a
    declaration of the user's own.

    Raises:
        LibraryError: an item that is none of these, twice the same, or inconsistent.
    """
    if isinstance(pool, str) and pool not in POOLS:
        raise LibraryError(f"operator pool {pool!r} is unknown; known: {', '.join(POOLS)}")
    items = POOLS[pool] if isinstance(pool, str) else tuple(pool)
    if not items:
        raise LibraryError(f"operator pool {list(items)} is empty; known: {', '.join(NAMES)}")
    found = [_find(item, items) for item in items]
    if len({d.spec.name for d in found}) < len(found):
        raise LibraryError(f"operator pool {list(items)} names an operator twice")
    return {declaration.spec.name: declaration for declaration in found}


def _find(item: str, items: Sequence[str]) -> Declaration:
    if item in LIBRARY:
        return LIBRARY[item]
    installed = metadata.entry_points(group=ENTRY_POINTS)
    if ":" not in item and item not in installed.names:
        known = ", ".join((*NAMES, *sorted(installed.names)))
        raise LibraryError(
            f"operator pool {list(items)} does not know {item}; known: {known}, or "
            "package.module:NAME of a declaration"
        )
    path = item if ":" in item else installed[item].value
    return _load(path)


def _load(path: str) -> Declaration:
    module, _, name = path.partition(":")
    try:
        loaded = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise LibraryError(f"operator {path!r} cannot be loaded: {error}") from error
    if not isinstance(loaded, Prompted | Coded):
        raise LibraryError(
            f"operator {path!r} is a {type(loaded).__name__}; declare it as Prompted or Coded"
        )
    check(loaded)
    return loaded


def pool_names(pool: str | Sequence[str]) -> tuple[str, ...]:
    """Names of the operators of a pool; raises LibraryError as `declarations` does."""
    return tuple(declarations(pool))


def canvas_specs(pool: str | Sequence[str]) -> dict[str, OperatorSpec]:
    """What a canvas shows of each operator; raises LibraryError as `declarations` does."""
    return {
        name: dataclasses.replace(d.spec, description=d.spec.as_node or d.spec.description)
        for name, d in declarations(pool).items()
    }


def make_pool(
    pool: str | Sequence[str], *, search: CodedOperator, sandbox: CodeRunner, backend: Backend
) -> dict[str, Operator]:
    """The operators of a pool as tools, in its order; raises LibraryError."""
    return dict(_make_all(pool, Services(search, sandbox, backend)))


def make_nodes(
    pool: str | Sequence[str], *, search: CodedOperator, sandbox: CodeRunner, backend: Backend
) -> dict[str, NodeOperator]:
    """The operators of a pool as nodes of workflows, in its order; raises LibraryError."""
    return dict(_make_all(pool, Services(search, sandbox, backend)))


def _make_all(pool: str | Sequence[str], services: Services) -> dict[str, CodedOperator]:
    return {name: _make(d, services) for name, d in declarations(pool).items()}


def _make(declaration: Declaration, services: Services) -> CodedOperator:
    if isinstance(declaration, Prompted):
        return PromptedOperator(declaration, services.backend)
    return declaration.make(services)
