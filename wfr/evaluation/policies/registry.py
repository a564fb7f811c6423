"""Policies by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from wfr.evaluation.policies.base import Policies, PolicyError, Setting
from wfr.evaluation.policies.cot import cot
from wfr.evaluation.policies.direct import direct
from wfr.evaluation.policies.fixed_workflow import fixed_workflow
from wfr.evaluation.policies.heuristic import heuristic
from wfr.evaluation.policies.one_shot import one_shot
from wfr.evaluation.policies.random_legal import random_legal
from wfr.evaluation.policies.self_consistency import self_consistency

_POLICIES: Mapping[str, Callable[[Setting], Policies]] = {
    "direct": direct,
    "cot": cot,
    "self_consistency": self_consistency,
    "fixed_workflow": fixed_workflow,
    "one_shot": one_shot,
    "heuristic": heuristic,
    "random": random_legal,
}
SEARCH = "search"
NAMES = (*_POLICIES, SEARCH)


def make_policies(name: str, setting: Setting) -> Policies | None:
    """The policy of this name; None for `search`, which has to play before there is one.

    Raises:
        PolicyError: no such policy, or one that cannot play this setting.
    """
    if name == SEARCH:
        setting.need(SEARCH)
        return None
    if name not in _POLICIES:
        raise PolicyError(f"policy {name!r} is unknown; known: {', '.join(NAMES)}")
    return _POLICIES[name](setting)
