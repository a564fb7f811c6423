"""The configuration of the canvas environment (FlowSteer)."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from wfr.search_config import SearchConfig
from wfr.section import Section

CANVAS_REWARD_PRESETS: Mapping[str, Mapping[str, Any]] = types.MappingProxyType(
    {
        "paper": {},
        "released_code": {"measure": "dsl_text", "min_operators": 6},
        "strict": {"measure": "live_graph", "need_solver": True},
    }
)


class CanvasRewardConfig(Section):
    """offset + w_div·R_div + w_con·R_con + λ·R_ans, the answer's part behind a gate.

    R_div is a sum of four shares; R_con is minus the share of turns that were refused; the gate is
    open where w_div·R_div + w_con·R_con reaches the threshold.
    """

    preset: Literal["paper", "released_code", "strict"] = "paper"
    """`paper`: counts in the graph, at least 5 operators, loops are structures; `released_code`:
    counts in the printed text, at least 6, loops never count; `strict`: different operators on the
    path to the output only, a solver among them."""
    measure: Literal["graph", "dsl_text", "live_graph"] = "graph"
    """What is counted: every node; the names in the printed text; different operators among the
    nodes that the output depends on."""
    checker_share: float = Field(0.2, ge=0)
    """Part of R_div for a Verify, Test or Review."""
    format_share: float = Field(0.2, ge=0)
    """Part of R_div for a Format."""
    operators_share: float = Field(0.2, ge=0)
    """Part of R_div for enough operators."""
    structure_share: float = Field(0.4, ge=0)
    """Part of R_div for a parallel, conditional or loop."""
    min_operators: int = Field(5, ge=1)
    """Operators that are enough."""
    need_solver: bool = False
    """The gate stays shut without a solver among what is counted."""
    w_div: float = Field(1.0, ge=0)
    w_con: float = Field(0.0, ge=0)
    threshold: float = 1.0
    """θ: the gate opens where w_div·R_div + w_con·R_con is at least this."""
    scale: float = Field(1.0, ge=0)
    """λ: factor of the answer's score."""
    offset: float = -1.0
    conditional_release: bool = True
    """False: the answer's score counts whether or not the gate is open (an ablation)."""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        preset = CANVAS_REWARD_PRESETS.get(values.get("preset", "paper"), {})
        return {**preset, **values}

    @model_validator(mode="after")
    def _text_knows_no_solver(self) -> Self:
        if self.need_solver and self.measure == "dsl_text":
            raise ValueError(
                "need_solver=true contradicts measure='dsl_text', which only counts names; set "
                "measure to 'graph' or 'live_graph'"
            )
        return self


class FinishGateConfig(Section):
    """What a workflow must have before `finish` is accepted; a refusal costs the turn only."""

    min_operators: int = Field(5, ge=0)
    structure: bool = True
    """Some parallel, conditional or loop."""
    checker: bool = True
    """A solver and a Verify, Test or Review."""
    code_test: bool = True
    """A Test, where a programming task has public tests."""
    concise_chars: int | None = Field(None, ge=1)
    """A Format, where the result has more characters than this or several lines; none: not asked
    for."""


class CanvasConfig(Section):
    """The canvas environment (FlowSteer, sections 1 and 4 of its specification)."""

    kind: Literal["canvas"] = "canvas"
    pool: Literal["canvas"] | tuple[str, ...] = "canvas"
    """Operators on offer: FlowSteer's twelve, or a list of names."""
    prompt: Literal["full", "question"] = "full"
    """`full`: rules, operators, the problem and its passages; `question`: the question alone."""
    feedback: Literal["full", "brief"] = "full"
    """`full`: every labelled line; `brief`: status, verdict and result on one line."""
    history: Literal["full", "last_feedback"] = "full"
    """`full`: the director sees all its turns and their feedback; `last_feedback`: in every turn
    the prompt afresh, the current workflow and the last feedback, as in the released code."""
    search: SearchConfig = SearchConfig()
    hints: bool = True
    """Name the type of the problem in the prompt."""
    router: Literal["off", "heuristic"] = "off"
    """`heuristic`: hand-written advice on the next edit in every feedback, as in the released
    code. It is an expert policy inside the observation, so results with it are confounded."""
    add_protocol: Literal["one_turn", "two_turn"] = "one_turn"
    """`two_turn`: the prompt of each added operator takes a turn of its own."""
    grammar: Literal["tolerant", "strict"] = "tolerant"
    """`tolerant`: common slips are read as what they mean, and counted as format faults."""
    legacy_inverted: bool = False
    """Conditionals run their true arm where the check failed, as in the released code."""
    finish_gate: FinishGateConfig = FinishGateConfig()
    max_turns: int = Field(20, ge=1)
    """T_max: turns of the policy, refused ones included."""
    max_response_tokens: int = Field(14336, ge=1)
    """Most tokens after the prompt, feedback included where it is not part of a fresh prompt."""
    max_turn_tokens: int = Field(512, ge=1)
    """Most tokens of one turn of the policy."""
    result_chars: int = Field(500, ge=8)
    """Longest execution result in a feedback; longer ones lose their middle."""
    max_nodes: int = Field(32, ge=1)
    """Largest workflow, in operators."""
    max_depth: int = Field(4, ge=1)
    """Deepest nesting of structures."""
    episode_calls: int | None = Field(None, ge=1)
    """Most executor calls of one episode; none: no bound."""
    episode_tokens: int | None = Field(None, ge=1)
    """Most executor tokens of one episode; none: no bound."""
    episode_seconds: float | None = Field(600.0, gt=0)
    """Most seconds that one episode may wait for operators; none: no bound."""
    reward: CanvasRewardConfig = CanvasRewardConfig()
