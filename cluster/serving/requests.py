"""The bodies of `/v1/workflows`: what is asked, and what is answered."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

_Count = Annotated[int, Field(ge=1)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Passage(_Body):
    """A passage that Search can find, for this task alone."""

    title: str = ""
    text: str = Field(min_length=1)


class Budgets(_Body):
    """Bounds of one workflow; the service's own hold besides."""

    turns: _Count | None = None
    """Turns of the director."""
    tokens: _Count | None = None
    """Tokens behind the prompt, observations included."""
    operator_calls: _Count | None = None
    """Calls of operators; the turn that reaches it is the last."""
    usd: float | None = Field(None, gt=0)
    """What operators may cost; the turn that reaches it is the last."""
    seconds: float | None = Field(None, gt=0)
    """Time from the first token on; what is found by then is the answer."""


class WorkflowRequest(_Body):
    """A task for the director."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"question": "What is the capital of the country where the Danube rises?"},
                {
                    "question": "Who wrote it?",
                    "documents": [{"title": "Emma", "text": "Emma is by Jane Austen."}],
                    "budgets": {"turns": 6, "seconds": 30},
                    "seed": 7,
                    "stream": True,
                },
            ]
        }
    )

    question: str = Field(min_length=1)
    environment: Literal["think_act", "canvas"] | None = None
    """Fails where the service plays another one; none: whatever it plays."""
    documents: list[Passage] = Field(default_factory=list, max_length=1000)
    """Passages to search in the place of the service's own corpus."""
    problem_type: str = Field("", max_length=64)
    """What the canvas tells its director: `math`, `code` or `qa`."""
    tests: list[str] = Field(default_factory=list, max_length=64)
    """Python assertions that operators may run on a program."""
    entry_point: str = Field("", max_length=256)
    """Name of the function that a program has to define."""
    budgets: Budgets = Field(default_factory=Budgets)
    seed: int | None = Field(None, ge=0, lt=2**31)
    """Makes sampling repeatable at a temperature above 0."""
    temperature: float | None = Field(None, ge=0, le=2)
    """None: the service's own."""
    stream: bool = False
    """Answer with server-sent events."""
    background: bool = False
    """Answer at once with the id; `GET /v1/workflows/ID` tells how it goes."""


class CallView(_Body):
    """One call of an operator."""

    operator: str
    backend: str
    seconds: float
    cost_usd: float
    tokens: int
    cached: bool
    status: str


class TurnView(_Body):
    """One turn and what was answered to it."""

    text: str
    kind: str = ""
    operator: str = ""
    observation: str = ""
    calls: list[CallView] = Field(default_factory=list)
    seconds: float = 0.0
    """From the turn's first token to the end of its operators."""


class Tokens(_Body):
    """Tokens of the director; `total` counts observations too."""

    prompt: int = 0
    completion: int = 0
    total: int = 0


class WorkflowView(_Body):
    """A workflow: under way, or as it ended."""

    id: str
    object: Literal["workflow"] = "workflow"
    created: int
    """Seconds since 1970."""
    model: str
    policy_version: int
    environment: str
    status: Literal["queued", "running", "done", "failed", "cancelled"] = "running"
    question: str
    answer: str = ""
    workflow: list[dict[str, Any]] = Field(default_factory=list)
    """The operators as they stand: nested structures of the canvas, or a sequence."""
    mermaid: str = ""
    turns: list[TurnView] = Field(default_factory=list)
    operator_calls: int = 0
    tokens: Tokens = Field(default_factory=Tokens)
    cost_usd: float = 0.0
    seconds: float = 0.0
    stop_reason: str = ""
    error: str = ""


class Rating(_Body):
    """How good an answer was."""

    reward: float = Field(ge=-10, le=10, allow_inf_nan=False)
