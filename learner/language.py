"""What a tiny director speaks: its tags, its words, and how a conversation is written."""

from __future__ import annotations

import dataclasses
import itertools
import random
import re
from collections.abc import Callable, Iterator, Sequence

from wfr.environments.canvas_demonstrations import PROMPTS, THOUGHTS
from wfr.operators.library import POOLS
from wfr.tasks import world
from wfr.tasks.demonstrations import demonstrate
from wfr.tasks.mixed_world import QA_SKILLS
from wfr.tasks.programs import all_programs
from wfr.tasks.questions import draw_question
from wfr.tasks.word_problems import draw_word_problem
from wfr.tasks_config import WorldConfig
from wfr.trajectory import Message
from wfr.workflow.codes import Code

EOS = "<eos>"


@dataclasses.dataclass(frozen=True, slots=True)
class Language:
    """A protocol as a tokenizer has to know it.

    Attributes:
        tags: one token each, which takes the space before it.
        words: texts in which every word that should be one token occurs.
        compounds: one token each, though a tokenizer would split them at their underscores.
        turn_end: what ends a turn besides its own tags: `EOS`, or nothing.
        chat_template: appending a message appends tokens.
    """

    tags: tuple[str, ...]
    words: Callable[[], Iterator[str]]
    compounds: tuple[str, ...]
    turn_end: str
    chat_template: str

    def parts(self, messages: Sequence[Message]) -> list[str]:
        """The conversation as the template writes it, cut at the messages."""
        return [self._part(message) for message in messages]

    def _part(self, message: Message) -> str:
        if message.role == "user":
            return f"<user> {message.content}<assistant>"
        if message.role == "assistant":
            return f"{message.content}{self.turn_end}"
        return message.content.replace("<info>", "<info> ")


_ENVIRONMENT_WORDS = "warning format unknown operator no results output error:"


def _think_act_words() -> Iterator[str]:
    for word in itertools.chain(_names(), _ENVIRONMENT_WORDS.split()):
        yield f" {word}"
    rng = random.Random("vocabulary")
    sample = world.World.draw(WorldConfig(), rng)
    for _ in range(200):
        for message in demonstrate(sample, rng).messages:
            yield re.sub(r"<[^>]*>|[0-9]", "", f" {message.content}")


_CANVAS_WORDS = (
    "add delete modify set_prompt finish parallel conditional loop done qa math code ok no error "
    "right wrong xs): xs def find the passage start with choose numbers change each fold them into "
    "one read what answers unknown f(xs): Write finish_gate upstream_failed"
)


def _canvas_words() -> Iterator[str]:
    words = [*_names(), *_CANVAS_WORDS.split(), *THOUGHTS.values(), *POOLS["canvas"], *Code]
    for word in words:
        yield f" {word}"
    yield from (f",{name}" for name in POOLS["canvas"])
    rng = random.Random("vocabulary")
    texts = [*PROMPTS, *(program.text for program in all_programs(rng))]
    texts += [draw_word_problem(rng, 3).text for _ in range(200)]
    sample = world.World.draw(WorldConfig(), rng)
    texts += [draw_question(sample, skill, rng).text for skill in QA_SKILLS for _ in range(100)]
    yield from (re.sub(r"[0-9]", "", f" {text}") for text in texts)


def _names() -> Iterator[str]:
    names = (world.FIRST_NAMES, world.LAST_NAMES, world.CITIES, world.FIRMS)
    yield from itertools.chain(*names, world.RIVERS, world.JOBS)


_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message.role == 'user' -%}{{ '<user> ' + message.content }}"
    "{%- elif message.role == 'tool' -%}{{ message.content.replace('<info>', '<info> ') }}"
    "{%- elif message.role == 'assistant' -%}"
    "{%- if loop.previtem is defined and loop.previtem.role == 'user' -%}"
    "{{ '<assistant>' }}{%- endif -%}{{ message.content + 'TURN_END' }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt and messages and messages[-1].role == 'user' -%}"
    "{{ '<assistant>' }}{%- endif -%}"
)
"""A turn follows an observation with nothing in between.

Text after a tag starts with one space, so that a word is the same token there as anywhere.
"""

_ROLES = ("<user>", "<assistant>", "<think>", "</think>")
_ELEMENTS = (
    *("feedback", "action", "operator", "operators", "structure", "condition", "true", "false"),
    *("count", "until", "target", "prompt"),
)

THINK_ACT = Language(
    tags=(
        *_ROLES,
        *("<tool>", "</tool>", "<info>", "</info>", "<answer>", "</answer>"),
    ),
    words=_think_act_words,
    compounds=(),
    turn_end="",
    chat_template=_TEMPLATE.replace("TURN_END", ""),
)
CANVAS = Language(
    tags=(*_ROLES, *(f"<{mark}{name}>" for name in _ELEMENTS for mark in ("", "/"))),
    words=_canvas_words,
    compounds=tuple(f" node_{number}" for number in range(1, 33)),
    turn_end=EOS,
    chat_template=_TEMPLATE.replace("TURN_END", EOS),
)
LANGUAGES = {"think_act": THINK_ACT, "canvas": CANVAS}
"""By the kind of the environment."""
