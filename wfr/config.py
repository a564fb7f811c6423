"""The whole configuration of a run: one model, checked before anything starts.

Values that people choose are fields; numbers that follow from them are properties. Unknown keys,
wrong types and contradictions are refused with the file, the key, the value and what is allowed.
"""

from __future__ import annotations

import re
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin

import yaml
from pydantic import Field, ValidationError, model_validator

from wfr.best_config import BestConfig
from wfr.canvas_config import CanvasConfig
from wfr.checkpoint_config import CheckpointsConfig
from wfr.executor_config import ExecutorConfig
from wfr.learner_config import LearnerConfig
from wfr.objective_config import ObjectiveConfig
from wfr.placement_config import PlacementConfig
from wfr.search_config import SearchConfig
from wfr.section import Section
from wfr.serving_config import ServingConfig
from wfr.supervision_config import SupervisionConfig
from wfr.tasks_config import TasksConfig
from wfr.yaml_lines import key_lines, line_of


class ConfigError(ValueError):
    """A configuration that cannot be run; the text says which key, which value, what to do."""


class RunConfig(Section):
    """Which run, and where it is written."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run; its directory is `dir/name`."""
    dir: str = "runs"
    """Directory that holds runs."""
    seed: int = Field(1, ge=0)
    """Seed of everything that is drawn: tasks, world, weights, sampling."""
    deterministic: bool = False
    """On a CPU the same configuration always gives the same weights, however often the run is
    interrupted, if its executors answer alike. It samples one turn at a time."""
    restarts: int = Field(3, ge=0)
    """How often the run goes on by itself, as with --resume, after it has lost a process that
    nothing replaces while it runs, such as the buffer."""


class TinyModelConfig(Section):
    """Shape of the embedded tiny director (Qwen2 architecture)."""

    layers: int = Field(4, ge=1)
    hidden: int = Field(128, ge=16)
    intermediate: int = Field(384, ge=16)
    heads: int = Field(4, ge=1)


class ModelConfig(Section):
    """The director."""

    path: str | None = None
    """Directory of a Hugging Face checkpoint with tokenizer; empty: build the tiny director."""
    tiny: TinyModelConfig = TinyModelConfig()
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the sampler's weights."""
    max_length: int = Field(1024, ge=16)
    """Longest token sequence of one episode, prompt included."""


class ThinkActConfig(Section):
    """The think-act environment (Workflow-R1, sections 1 and 2 of its specification)."""

    kind: Literal["think_act"] = "think_act"
    pool: Literal["base", "search", "embedded"] | tuple[str, ...] = "embedded"
    """Operators on offer: a preset or a list of names."""
    prompt: Literal["full", "question"] = "full"
    """`full`: protocol and operator list; `question`: the question alone (the tiny director)."""
    max_operator_turns: int = Field(20, ge=1)
    """Most turns that are answered by an observation, warnings included."""
    max_turns: int = Field(21, ge=1)
    """Most turns of the policy, the answer included."""
    max_response_tokens: int = Field(8192, ge=1)
    """Most tokens after the prompt, observations included."""
    max_turn_tokens: int = Field(1024, ge=1)
    """Most tokens of one turn of the policy."""
    observation_chars: int = Field(2048, ge=16)
    """Longest observation in characters; longer ones lose their middle."""
    reward: Literal["paper", "legacy_code"] = "paper"
    """`paper`: format {0, −0.5, −1} + EM; `legacy_code`: what the released scorer does."""
    search: SearchConfig = SearchConfig()


class SandboxConfig(Section):
    """Where code that a model wrote runs."""

    allow_unconfined: bool = False
    """Run model-written code without isolation where the machine offers none. Dangerous."""
    wall_s: float = Field(5.0, gt=0)
    memory_mib: int = Field(256, ge=16)
    processes: int = Field(1, ge=1)
    """Warm interpreters kept per rollout worker."""
    packages: bool = False
    """Programs may import what is installed in this environment (read-only), as DS-1000's have to;
    numerical packages want a `memory_mib` of 2048 or more."""


class GradingConfig(Section):
    """How answers are graded besides the metric of each task."""

    judge: bool = False
    """Let a language model decide on answers in words, for better or worse, instead of the metric;
    `executor.operators.Judge` names its backend. Programs are graded by their tests alone."""


class SamplerConfig(Section):
    """The vLLM engines."""

    count: int = Field(1, ge=1)
    max: int | None = Field(None, ge=1)
    """Most samplers: machines that join the cluster during the run get some, up to so many; none:
    `count`, which are kept whatever joins."""
    tensor_parallel: int = Field(1, ge=1)
    max_num_seqs: int = Field(128, ge=1)
    """Turns that an engine samples at once; others wait, those of the oldest groups are next. As
    few as keep the engine busy are best: what is sampled beyond that only gets older."""
    kv_cache_gib: int = Field(1, ge=1)
    """KV cache of one engine on CPU, in GiB."""
    gpu_memory_utilization: float = Field(0.85, gt=0, le=1)
    prefix_cache: bool = True
    in_flight: Literal["keep_kv", "recompute_kv", "finish_turn", "abort_resend"] = "keep_kv"
    """What an update does to turns being sampled: they go on with their KV cache; or with one
    computed again by the new weights; or the update waits for their ends; or they are cut off and
    sent again as prompts."""
    colocated: bool = False
    """Samplers sleep while the learner trains, and give it the GPUs: each takes half of one where
    `placement` says nothing, and weights travel over Gloo. Turns being sampled go on afterwards."""
    update_timeout_s: float = Field(60.0, gt=0)
    """How long one weight transfer may take before the sampler counts as dead."""
    threads: int = Field(1, ge=1)
    """CPU threads of one engine."""

    @property
    def most(self) -> int:
        """Samplers at most."""
        return self.max or self.count

    @model_validator(mode="after")
    def _room_to_grow(self) -> Self:
        if self.most < self.count:
            raise ValueError(
                f"max={self.max} is below count={self.count}; raise it, or leave it out"
            )
        return self


class RolloutConfig(Section):
    """The rollout workers."""

    workers: int = Field(1, ge=1)
    group_size: int = Field(8, ge=1)
    """G: sibling trajectories per task."""
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    episode_retries: int = Field(2, ge=0)
    """How often an episode that the world failed is run again before it is set aside; failures of
    the run's own processes have a budget of their own, `supervision.episode_retries`."""
    max_episode_failures: int = Field(10, ge=1)
    """Tasks in a row that the world failed for one cause stop the run with advice."""


class BufferConfig(Section):
    """The replay buffer."""

    max_lag: int = Field(4, ge=0)
    """Most optimizer steps between sampling a token and training on it; 0 is synchronous."""
    window: int = Field(4, ge=1)
    """Windowed FIFO: only the oldest `window × groups_per_batch` groups may be taken."""
    incomplete_groups: Literal["wait", "take", "drop"] = "take"
    """A group that lost siblings to the world: play these again until they are whole, train on the
    rest (`min_scored` at least), or drop it."""
    min_scored: int = Field(2, ge=1)
    """Fewest siblings that a group is trained on (k of `rollout.group_size`)."""
    stragglers: Literal["wait", "drop"] = "wait"
    """A group that is at its deadline and not finished: the learner waits for it, or it is given up
    (which biases training towards fast tasks). `objective.max_turn_lag` masks single old turns."""
    priority: Literal["age", "spread"] = "age"
    """Of the groups in the window: the oldest first, or those whose rewards spread most."""
    uses: int = Field(1, ge=1)
    """Most steps that train on one group, all within `max_lag`; a batch then has up to
    `(uses − 1) × groups_per_batch` groups besides its new ones."""
    memory_mib: int = Field(4096, ge=0)
    """Most MiB of waiting groups in the object store; what exceeds it waits in files."""
    shards: int = Field(1, ge=1)
    """Buffer processes that share the groups; one serves some hundred workers."""


class JournalConfig(Section):
    """What the run keeps on the disk of groups and turns, and how firmly."""

    fsync: Literal["always", "interval", "off"] = "interval"
    """When groups are forced to the disk: each as it comes in, every so often, or by the system's
    own choice. Without a power cut nothing is lost either way."""
    fsync_interval_s: float = Field(1.0, gt=0)
    """Seconds between two times of `fsync: interval`."""
    file_mib: int = Field(256, ge=1)
    """A journal file of this size is closed and the next one begun."""
    compact: Literal["never", "acknowledged"] = "never"
    """Delete journal files whose groups were all trained on in steps that a checkpoint covers;
    offline use and replay need them, `wfr audit` does not."""


class WarmstartConfig(Section):
    """Supervised start of the tiny director on scripted demonstrations."""

    steps: int = Field(800, ge=0)
    batch: int = Field(32, ge=1)
    """Demonstrations per step."""
    lr: float = Field(3e-3, gt=0)
    """Peak learning rate of a cosine schedule."""
    threads: int = Field(1, ge=1)
    """CPU threads; more than there are idle cores slow it down many times over."""
    world_every: int = Field(8, ge=1)
    """A new random world is drawn every so many steps."""


class TrainConfig(Section):
    """How long, and how much per step."""

    steps: int = Field(60, ge=0)
    groups_per_batch: int = Field(16, ge=1)
    eval_every: int = Field(0, ge=0)
    """Evaluate on held-out tasks every so many versions, beside training and on capacity that it
    leaves to spare; 0: only before and after it."""
    checkpoint_every: int = Field(0, ge=0)
    """Write a checkpoint every so many versions besides the last; 0: only the last. Files are
    written beside training. A resumed run repeats the learner's steps since then."""
    keep_states: int = Field(1, ge=1)
    """Newest checkpoints that keep the optimizer's state, which only resuming needs."""


class WeightsConfig(Section):
    """How new weights reach the samplers."""

    backend: Literal["auto", "nccl", "gloo"] = "auto"
    """`auto`: NCCL where there are GPUs that learner and samplers do not share, Gloo otherwise."""
    port: int = Field(0, ge=0, le=65535)
    """Rendezvous port; 0: any free one."""
    bucket_mib: int | None = Field(None, ge=1)
    """Size of the buckets that weights travel in; none: 512 over NCCL, 4 over Gloo."""
    overlap: bool | None = None
    """Run forward and backward of the next step while weights are sent; none: where it is possible,
    which is below ZeRO stage 3 and where samplers are not colocated."""
    checksums: bool = False
    """Debugging: compare a checksum of every tensor on both sides before new weights count."""


class EvaluationConfig(Section):
    """What `wfr eval` plays, and how much of it at once."""

    datasets: tuple[TasksConfig, ...] = ()
    """Sections as `tasks`, of each the held-out part; none: the held-out part of `tasks`."""
    concurrency: int = Field(64, ge=1)
    """Episodes at once, of `wfr eval` and of evaluations beside training."""
    search_episodes: int = Field(480, ge=16)
    """Training episodes that the policy `search` may play on each dataset."""


class MetricsConfig(Section):
    """Where numbers go besides metrics.jsonl."""

    port: int | None = Field(None, ge=0, le=65535)
    """Port of the Prometheus exporter on the driver; none: no exporter; 0: any free port."""
    host: str = "127.0.0.1"
    """Address that the exporter listens on; 0.0.0.0: all of the driver's machine."""
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ()
    """Experiment trackers that get the same numbers, each an extra of wfr of its name."""

    @model_validator(mode="after")
    def _each_tracker_once(self) -> Self:
        if len(set(self.trackers)) < len(self.trackers):
            raise ValueError(f"trackers={list(self.trackers)} names one twice; name each once")
        return self


EnvironmentConfig = Annotated[ThinkActConfig | CanvasConfig, Field(discriminator="kind")]


class Config(Section):
    """A run."""

    run: RunConfig = RunConfig()
    model: ModelConfig = ModelConfig()
    tasks: TasksConfig = TasksConfig()
    environment: EnvironmentConfig = ThinkActConfig()
    executor: ExecutorConfig = ExecutorConfig()
    sandbox: SandboxConfig = SandboxConfig()
    grading: GradingConfig = GradingConfig()
    sampler: SamplerConfig = SamplerConfig()
    rollout: RolloutConfig = RolloutConfig()
    buffer: BufferConfig = BufferConfig()
    journal: JournalConfig = JournalConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    warmstart: WarmstartConfig = WarmstartConfig()
    learner: LearnerConfig = LearnerConfig()
    train: TrainConfig = TrainConfig()
    checkpoints: CheckpointsConfig = CheckpointsConfig()
    weights: WeightsConfig = WeightsConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    best: BestConfig = BestConfig()
    metrics: MetricsConfig = MetricsConfig()
    placement: PlacementConfig = PlacementConfig()
    supervision: SupervisionConfig = SupervisionConfig()
    serving: ServingConfig = ServingConfig()

    @property
    def slots(self) -> int:
        """Groups that may be alive at once: (max_lag + 1) × groups_per_batch."""
        return (self.buffer.max_lag + 1) * self.train.groups_per_batch

    @property
    def run_dir(self) -> Path:
        """Directory of the run."""
        return Path(self.run.dir) / self.run.name

    @property
    def overlaps_publishing(self) -> bool:
        """Whether the next step runs beside the sending of weights."""
        possible = self.learner.zero_stage < 3 and not self.sampler.colocated
        return possible if self.weights.overlap is None else self.weights.overlap

    @model_validator(mode="after")
    def _buffer_can_serve(self) -> Self:
        buffer = self.buffer
        if buffer.uses > buffer.max_lag + 1:
            raise ValueError(
                f"buffer.uses={buffer.uses} contradicts buffer.max_lag={buffer.max_lag}: a group "
                f"can be used at {buffer.max_lag + 1} successive versions at most"
            )
        if buffer.shards > self.train.groups_per_batch:
            raise ValueError(
                f"buffer.shards={buffer.shards} is above train.groups_per_batch="
                f"{self.train.groups_per_batch}: every shard gives each batch a group at least"
            )
        if buffer.min_scored > max(2, self.rollout.group_size):
            raise ValueError(
                f"buffer.min_scored={buffer.min_scored} is above rollout.group_size="
                f"{self.rollout.group_size}: no group could ever be trained on"
            )
        return self

    @model_validator(mode="after")
    def _colocated_can_share(self) -> Self:
        if self.sampler.colocated and self.sampler.tensor_parallel > 1:
            raise ValueError(
                f"sampler.colocated=true contradicts sampler.tensor_parallel="
                f"{self.sampler.tensor_parallel}: the parts of an engine need whole GPUs, which a "
                "learner rank cannot share; set tensor_parallel: 1, or colocated: false"
            )
        if self.sampler.colocated and self.weights.backend == "nccl":
            raise ValueError(
                "weights.backend='nccl' contradicts sampler.colocated=true: NCCL refuses two "
                "processes on one GPU; leave it out, or set gloo"
            )
        if self.sampler.colocated and self.weights.overlap:
            raise ValueError(
                "weights.overlap=true contradicts sampler.colocated=true: samplers sleep during a "
                "step, and cannot receive weights; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _deterministic_is_serial(self) -> Self:
        needed = {
            "buffer.max_lag": (self.buffer.max_lag, 0),
            "buffer.stragglers": (self.buffer.stragglers, "wait"),
            "sampler.count": (self.sampler.count, 1),
            "sampler.max_num_seqs": (self.sampler.max_num_seqs, 1),
            "sampler.prefix_cache": (self.sampler.prefix_cache, False),
        }
        wrong = [f"{key}: {want}" for key, (value, want) in needed.items() if value != want]
        if self.run.deterministic and wrong:
            raise ValueError(
                "run.deterministic=true, but what is sampled would depend on when; set "
                + ", ".join(wrong)
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _environment_is_think_act(cls, values: Any) -> Any:
        """An environment that does not say of which kind it is, is of the first."""
        environment = values.get("environment") if isinstance(values, Mapping) else None
        if isinstance(environment, Mapping) and "kind" not in environment:
            return {**values, "environment": {"kind": "think_act", **environment}}
        return values

    @model_validator(mode="after")
    def _judge_is_a_language_model(self) -> Self:
        executor = self.executor
        name = executor.operators.get("Judge", executor.default)
        kind = getattr(executor.backends.get(name), "kind", name)
        if self.grading.judge and kind == "rule_based":
            raise ValueError(
                f"grading.judge=true, but executor backend {name!r} is rule_based, which judges "
                "nothing; name a language model in executor.operators.Judge"
            )
        return self

    @model_validator(mode="after")
    def _the_web_can_be_asked(self) -> Self:
        if self.environment.search.engine != "web":
            return self
        executor = self.executor
        name = executor.operators.get("Search", executor.default)
        kind = getattr(executor.backends.get(name), "kind", name)
        if kind not in ("serper", "custom", "recorded"):
            raise ValueError(
                f"environment.search.engine='web', but Search is carried out by executor backend "
                f"{name!r} ({kind}), which searches nothing; name one of kind serper in "
                "executor.operators.Search"
            )
        return self

    @model_validator(mode="after")
    def _states_are_in_checkpoints(self) -> Self:
        keep, states = self.checkpoints.keep, self.train.keep_states
        if keep is not None and keep < states:
            raise ValueError(
                f"checkpoints.keep={keep} is below train.keep_states={states}: a state is part of "
                "a checkpoint; raise keep, or lower keep_states"
            )
        return self

    @model_validator(mode="after")
    def _best_is_looked_for(self) -> Self:
        if self.best.score is not None and not self.train.eval_every:
            raise ValueError(
                f"best.score={self.best.score!r} with train.eval_every=0: nothing is evaluated "
                "while the run trains; set train.eval_every, for example to 10"
            )
        return self

    @model_validator(mode="after")
    def _parts_of_an_engine_have_whole_gpus(self) -> Self:
        gpus, parts = self.placement.sampler.gpus, self.sampler.tensor_parallel
        if parts > 1 and gpus not in (None, 0, 1):
            raise ValueError(
                f"placement.sampler.gpus={gpus:g} contradicts sampler.tensor_parallel={parts}: "
                "each part takes one whole GPU; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.weights.overlap and self.learner.zero_stage == 3:
            raise ValueError(
                "weights.overlap=true contradicts learner.zero_stage=3, under which sending and "
                "training both gather the weights; leave it out, or use stage 2"
            )
        if self.rollout.group_size == 1 and self.objective.advantage == "zscore":
            raise ValueError(
                "rollout.group_size=1 contradicts objective.advantage='zscore': a group of one has "
                "no spread; use a group of at least 2"
            )
        if self.train.groups_per_batch % self.learner.minibatches:
            raise ValueError(
                f"learner.minibatches={self.learner.minibatches} does not divide "
                f"train.groups_per_batch={self.train.groups_per_batch}"
            )
        if self.learner.max_tokens < self.model.max_length:
            raise ValueError(
                f"learner.max_tokens={self.learner.max_tokens} is below model.max_length="
                f"{self.model.max_length}: the longest trajectory would not fit a micro-batch"
            )
        return self


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, apply `a.b=value` overrides, and check the result.

    Raises:
        ConfigError: naming the file, each offending key, its line, its value and what is allowed.
    """
    values = _read_yaml(Path(path))
    for override in overrides:
        _apply(values, override)
    return parse_config(values, source=str(path), lines=written_lines(path, overrides))


def written_lines(
    path: str | Path, overrides: Sequence[str] = ()
) -> Mapping[tuple[str | int, ...], int]:
    """Lines of the keys of a readable file; 0 for those that overrides set."""
    lines = dict(key_lines(Path(path).read_text(encoding="utf-8")))
    for override in overrides:
        lines[tuple(override.partition("=")[0].strip().split("."))] = 0
    return lines


def parse_config(
    values: Mapping[str, Any],
    source: str = "configuration",
    lines: Mapping[tuple[str | int, ...], int] = types.MappingProxyType({}),
) -> Config:
    """Check a nested mapping whose keys stand on `lines`; raises ConfigError as `load_config`."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        faults = [_explain(item) + _place(item["loc"], lines) for item in error.errors()]
        raise ConfigError(f"{source}:\n  " + "\n  ".join(faults)) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_WordLoader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not YAML: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds a {type(values).__name__}, expected sections of keys")
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise ConfigError(f"--set {override!r}: expected section.key=value")
    try:
        value = yaml.load(text, Loader=_NumberLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override!r}: the value is not YAML: {error}") from None
    target = values
    for part in parts[:-1]:
        nested = target.setdefault(part, {})
        if not isinstance(nested, dict):
            raise ConfigError(f"--set {override!r}: {part!r} is a value, not a section")
        target = nested
    target[parts[-1]] = value


_BOOL = "tag:yaml.org,2002:bool"


class _WordLoader(yaml.SafeLoader):
    """YAML 1.1 reads `off` as false; here it is a word, and a key that is a switch takes it too."""


_WordLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_WordLoader.add_implicit_resolver(
    _BOOL, re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


class _NumberLoader(_WordLoader):
    """YAML 1.1 reads `1e-6` as a string; people mean the number."""


def _scalar(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Any:
    value = yaml.SafeLoader.construct_yaml_str(loader, node)
    try:
        return float(value) if "e" in value.lower() else value
    except ValueError:
        return value


_NumberLoader.add_constructor("tag:yaml.org,2002:str", _scalar)


def _explain(error: Any) -> str:
    key = ".".join(_written(error["loc"])) or "(whole file)"
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown key; allowed here: {', '.join(_siblings(error['loc']))}"
    if error["type"] == "union_tag_invalid":
        ctx = error["ctx"]
        return f"{key}: {ctx['discriminator']} is none of {ctx['expected_tags']}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return message if key == "(whole file)" else f"{key}: {message}"
    if isinstance(error["input"], Mapping | list):  # long, and it may hold what nobody should see
        return f"{key}: {message}"
    return f"{key}={error['input']!r}: {message}"


def _place(location: Sequence[int | str], lines: Mapping[tuple[str | int, ...], int]) -> str:
    line = line_of(location, lines)
    return f" (line {line})" if line else ""


def _written(location: Sequence[int | str]) -> list[str]:
    """The keys as a file spells them: pydantic puts the kind of a section among them."""
    keys: list[str] = []
    model: Any = Config
    for part in location:
        inside = _inside(model, part)
        if inside is None or part not in (_kind(m) for m in get_args(model)):
            keys.append(str(part))
        model = inside
    return keys


def _siblings(location: Sequence[int | str]) -> list[str]:
    model: Any = Config
    for part in location[:-1]:
        model = _inside(model, part)
    return sorted(model.model_fields) if hasattr(model, "model_fields") else []


def _inside(kind: Any, part: int | str) -> Any:
    """The type that `part` of a location leads to: a field, a mapping's value, a union's member."""
    if hasattr(kind, "model_fields"):
        field = kind.model_fields.get(part)
        return _section_of(field.annotation) if field else None
    if get_origin(kind) is dict:
        return _section_of(get_args(kind)[1])
    return next((m for m in get_args(kind) if _kind(m) == part), None)


def _section_of(annotation: Any) -> Any:
    """Without `Annotated` and `| None`."""
    if get_origin(annotation) is Annotated:
        return _section_of(get_args(annotation)[0])
    members = [m for m in get_args(annotation) if m is not type(None)]
    if isinstance(annotation, types.UnionType) and len(members) == 1:
        return members[0]
    return annotation


def _kind(model: Any) -> Any:
    """Value of the field that tells the members of a union apart."""
    fields = getattr(model, "model_fields", {})
    return fields["kind"].default if "kind" in fields else None
