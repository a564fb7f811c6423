"""The executor's section of the configuration: backends, limits, prices, cache, budgets.

No key is ever a value here: a backend names the environment variable or the file that holds it.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, field_validator, model_validator

from wfr.section import Section


class Preset(NamedTuple):
    """A provider: where it answers, and the environment variable that usually holds its key."""

    base_url: str
    api_key_env: str | None


PRESETS: Mapping[str, Preset] = types.MappingProxyType(
    {
        "openai": Preset("https://api.openai.com/v1", "OPENAI_API_KEY"),
        "deepseek": Preset("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
        "qwen": Preset("https://dashscope.aliyuncs.com/compatible-mode/v1", "DASHSCOPE_API_KEY"),
        "anthropic": Preset("https://api.anthropic.com/v1", "ANTHROPIC_API_KEY"),
        "gemini": Preset(
            "https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY"
        ),
        "vllm": Preset("http://127.0.0.1:8000/v1", None),
    }
)

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
_SECRET = re.compile(r"api[-_]?key|secret|passw|authorization|credential|\btoken\b", re.IGNORECASE)


class LimitsConfig(Section):
    """What all workers of the cluster together may ask of one backend."""

    concurrency: int = Field(32, ge=1)
    """Requests in flight."""
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    """Prompt and completion tokens."""


class BreakerConfig(Section):
    """When a backend counts as down, and how it is asked again."""

    failures: int = Field(8, ge=1)
    """Failed requests in a row, over all workers, after which nobody asks any more."""
    pause_s: float = Field(5.0, gt=0)
    """Time until one request probes the backend; doubled with every probe that fails."""
    longest_pause_s: float = Field(120.0, gt=0)
    give_up_s: float = Field(1800.0, gt=0)
    """The run ends when no request has succeeded for so long."""


class PriceConfig(Section):
    """US dollars per million tokens."""

    prompt_usd: float = Field(0.0, ge=0)
    completion_usd: float = Field(0.0, ge=0)

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """What so many tokens cost, in US dollars."""
        total = prompt_tokens * self.prompt_usd + completion_tokens * self.completion_usd
        return total / 1_000_000


class _Guarded(Section):
    """What every backend has that may fail, is limited, and costs."""

    timeout_s: float = Field(60.0, gt=0)
    """Time of one attempt, from the request to the last byte of the reply."""
    retries: int = Field(3, ge=0)
    """Further attempts after a failed one; then the episode is set aside."""
    hedge_after_s: float | None = Field(None, gt=0)
    """Send a request a second time when there is no reply after so long; the first reply counts."""
    limits: LimitsConfig = LimitsConfig()
    breaker: BreakerConfig = BreakerConfig()
    price: PriceConfig = PriceConfig()


class _Keyed(_Guarded):
    """A server somewhere, which may want a key."""

    base_url: str = ""
    api_key_env: str | None = None
    """Environment variable that holds the key, on every machine with rollout workers."""
    api_key_file: str | None = None
    """File that holds the key, instead of a variable."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Further fields of the request's body."""

    @field_validator("api_key_env", mode="before")
    @classmethod
    def _names_a_variable(cls, value: Any) -> Any:
        # Somebody may have written the key itself here: the message must not repeat it.
        if value is not None and not _VARIABLE.fullmatch(str(value)):
            raise ValueError(
                "is not the name of an environment variable (upper case); the key itself belongs "
                "into the environment or a file, never into the configuration"
            )
        return value

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, value: str) -> str:
        if value and not re.fullmatch(r"https?://[^@?#\s]+", value):
            raise ValueError(
                "is not a plain http(s) address without user, query and fragment; keys belong into "
                "the environment or a file"
            )
        return value.rstrip("/")

    @field_validator("extra_body", mode="before")
    @classmethod
    def _without_secrets(cls, value: Any) -> Any:
        if any(_SECRET.search(str(key)) for key in _keys(value)):
            raise ValueError("holds what looks like a key; keys belong into the environment")
        return value

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if self.api_key_env and self.api_key_file:
            raise ValueError("api_key_env and api_key_file contradict each other; name one of them")
        return self


class OpenAICompatibleConfig(_Keyed):
    """Any server with OpenAI's chat completions."""

    kind: Literal["openai_compatible"] = "openai_compatible"
    preset: Literal["openai", "deepseek", "qwen", "anthropic", "gemini", "vllm"] | None = None
    """Fills in `base_url` and `api_key_env` of a provider."""
    base_url: str = ""
    """Address up to and with `/v1`; needed without a preset."""
    model: str = Field(min_length=1)
    """Model name, as the server knows it."""
    temperature: float | None = Field(None, ge=0)
    """Used instead of the operator's own; 0 makes every call deterministic."""
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1)
    """Most tokens of a reply; an operator that asks for fewer gets fewer."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """Name of that limit in the request; newer OpenAI models want `max_completion_tokens`."""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        preset = PRESETS.get(str(values.get("preset")))
        if preset is None:
            return values
        filled: dict[str, Any] = {"base_url": preset.base_url}
        if not values.get("api_key_file"):
            filled["api_key_env"] = preset.api_key_env
        return {**filled, **values}

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.base_url:
            raise ValueError(f"base_url is missing; give it, or a preset: {', '.join(PRESETS)}")
        return self


class SerperConfig(_Keyed):
    """Web search at Serper, or a server with its interface; for the operator Search alone."""

    kind: Literal["serper"] = "serper"
    base_url: str = "https://google.serper.dev/search"
    """Address that takes searches."""
    usd_per_search: float = Field(0.0, ge=0)
    """What a search costs, in US dollars."""

    @model_validator(mode="before")
    @classmethod
    def _usual_variable(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or values.get("api_key_file"):
            return values
        return {"api_key_env": "SERPER_API_KEY", **values}


class RuleBasedConfig(Section):
    """The embedded program that reads the text which it is given."""

    kind: Literal["rule_based"] = "rule_based"
    mistakes: float = Field(0.0, ge=0, lt=1)
    """Share of its calls in which it goes wrong, as language models do."""


class RecordedConfig(Section):
    """Replays what was recorded; nothing else is answered."""

    kind: Literal["recorded"] = "recorded"
    path: str = Field(min_length=1)
    """A file of `wfr cache`, or the directory of a cache or of a run with one."""


class PoolConfig(Section):
    """Several backends for the same requests."""

    kind: Literal["pool"] = "pool"
    members: dict[str, Annotated[float, Field(gt=0)]] = Field(min_length=1)
    """Weight by name of the backend; a request that fails on one goes to another."""


class CustomConfig(_Guarded):
    """A backend of your own."""

    kind: Literal["custom"] = "custom"
    target: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """`package.module:Class`; called with `options` as keyword arguments."""
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("options", mode="before")
    @classmethod
    def _without_secrets(cls, value: Any) -> Any:
        if any(_SECRET.search(str(key)) for key in _keys(value)):
            raise ValueError("holds what looks like a key; keys belong into the environment")
        return value


BackendConfig = Annotated[
    OpenAICompatibleConfig
    | SerperConfig
    | RuleBasedConfig
    | RecordedConfig
    | PoolConfig
    | CustomConfig,
    Field(discriminator="kind"),
]
GuardedConfig = OpenAICompatibleConfig | SerperConfig | CustomConfig


class ServeConfig(_Guarded):
    """An executor inside the cluster: vLLM behind Ray Serve, known as the backend `serve`."""

    model: str = Field(min_length=1)
    """Directory or name of a Hugging Face checkpoint with a chat template."""
    replicas: int = Field(1, ge=1)
    tensor_parallel: int = Field(1, ge=1)
    """GPUs per replica, where there are any."""
    port: int = Field(0, ge=0, le=65535)
    """Port of Ray Serve's proxy; 0: any free one."""
    engine: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of vLLM's engine, such as `max_model_len`."""
    start_timeout_s: float = Field(900.0, gt=0)
    temperature: float | None = Field(None, ge=0)
    """Used instead of the operator's own."""
    max_tokens: int | None = Field(None, ge=1)
    """Most tokens of a reply; an operator that asks for fewer gets fewer."""


class CacheConfig(Section):
    """Replies to deterministic calls (temperature 0), kept on disk for all workers."""

    enabled: bool = True
    dir: str | None = None
    """Directory, which several runs may share in turn; none: `cache/` in the run directory."""
    size_mib: int = Field(1024, ge=1)
    """Beyond this size the entries stored longest ago are dropped."""
    read_only: bool = False
    """Answer from the directory and never write to it: for runs that repeat another."""

    @model_validator(mode="after")
    def _has_something_to_read(self) -> Self:
        if self.read_only and (self.dir is None or not self.enabled):
            raise ValueError("read_only needs enabled: true and dir, the cache that is read")
        return self


class SpendingConfig(Section):
    """Upper bounds; none: unbounded."""

    calls: int | None = Field(None, ge=0)
    tokens: int | None = Field(None, ge=0)
    """Prompt and completion tokens."""
    seconds: float | None = Field(None, ge=0)
    """Time that calls took, summed over calls that ran side by side."""
    usd: float | None = Field(None, ge=0)


class CallBudgetConfig(Section):
    """Upper bounds of one call; none: unbounded."""

    tokens: int | None = Field(None, ge=1)
    """Completion tokens: what an operator asks for is cut to this."""
    seconds: float | None = Field(None, gt=0)
    """Time for all attempts together, waiting for a place included."""


class BudgetConfig(Section):
    """How much executors may be used."""

    call: CallBudgetConfig = CallBudgetConfig()
    episode: SpendingConfig = SpendingConfig()
    """Beyond it the director is told that its budget is spent. Cached replies count in full, so
    that an episode does not depend on what others have asked before."""
    run: SpendingConfig = SpendingConfig()
    """A call that would exceed it is not made, and the run ends in order as `paused`."""


class ExecutorConfig(Section):
    """Who carries out the operators that need a language model."""

    backend: str = ""
    """A name in `backends`, `rule_based` or `serve`; empty: `serve` if set, else `rule_based`."""
    operators: dict[str, str] = Field(default_factory=dict)
    """Backend by name of an operator, where it is not the one above."""
    backends: dict[str, BackendConfig] = Field(default_factory=dict)
    """Backends by a name of your own."""
    serve: ServeConfig | None = None
    cache: CacheConfig = CacheConfig()
    budget: BudgetConfig = BudgetConfig()

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        known = {*self.backends, "rule_based", *(["serve"] if self.serve else [])}
        used = {"backend": self.default, **{f"operators.{k}": v for k, v in self.operators.items()}}
        for name, backend in self.backends.items():
            if isinstance(backend, PoolConfig):
                used |= {f"backends.{name}.members.{m}": m for m in backend.members}
                inner = [m for m in backend.members if self._is_pool(m)]
                if inner:
                    raise ValueError(f"executor.backends.{name}: a pool of pools ({inner[0]})")
        for key, name in used.items():
            if name not in known:
                raise ValueError(
                    f"executor.{key}={name!r}: no such backend; known: {', '.join(sorted(known))}"
                )
            if name in self.searches and key != "operators.Search":
                raise ValueError(
                    f"executor.{key}={name!r} is a web search, which carries out Search alone; "
                    "name it in executor.operators.Search"
                )
        if self.serve and "serve" in self.backends:
            raise ValueError("executor.backends.serve: the name belongs to executor.serve")
        return self

    @property
    def searches(self) -> tuple[str, ...]:
        """Names of the backends that search the web."""
        return tuple(n for n, b in self.backends.items() if isinstance(b, SerperConfig))

    def _is_pool(self, name: str) -> bool:
        return isinstance(self.backends.get(name), PoolConfig)

    @property
    def default(self) -> str:
        """Name of the backend of every operator that does not name its own."""
        return self.backend or ("serve" if self.serve else "rule_based")

    @property
    def used(self) -> tuple[str, ...]:
        """Names of all backends that some operator may reach."""
        names = dict.fromkeys([self.default, *self.operators.values()])
        for name in tuple(names):
            backend = self.backends.get(name)
            if isinstance(backend, PoolConfig):
                names |= dict.fromkeys(backend.members)
        return tuple(names)

    def served_at(self, base_url: str) -> ExecutorConfig:
        """The same with `serve` as an ordinary backend that answers at `base_url`."""
        assert self.serve is not None
        shared = {name: getattr(self.serve, name) for name in _Guarded.model_fields}
        backend = OpenAICompatibleConfig(
            base_url=base_url,
            model=self.serve.model,
            temperature=self.serve.temperature,
            max_tokens=self.serve.max_tokens,
            **shared,
        )
        update = {"serve": None, "backend": self.default}
        return self.model_copy(update={**update, "backends": {**self.backends, "serve": backend}})


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key)
            yield from _keys(item)
    elif isinstance(value, list):
        for item in value:
            yield from _keys(item)
