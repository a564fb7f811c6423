"""The embedded director: a tiny Qwen2 and its own byte-level BPE tokenizer.

Three choices make it learnable in minutes: each tag is one token that takes the space before it,
every name of the embedded world is one token, and digits come in pairs, so that a year is two
tokens of which the first rarely matters.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from wfr.config import TinyModelConfig, WorldConfig
from wfr.tasks import world
from wfr.tasks.demonstrations import demonstrate

TAGS = (
    *("<user>", "<assistant>", "<think>", "</think>", "<tool>", "</tool>"),
    *("<info>", "</info>", "<answer>", "</answer>"),
)
PAD, EOS = "<pad>", "<eos>"
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message.role == 'user' -%}{{ '<user> ' + message.content }}"
    "{%- elif message.role == 'tool' -%}{{ message.content.replace('<info>', '<info> ') }}"
    "{%- elif message.role == 'assistant' -%}"
    "{%- if loop.previtem is defined and loop.previtem.role == 'user' -%}"
    "{{ '<assistant>' }}{%- endif -%}{{ message.content }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt and messages and messages[-1].role == 'user' -%}"
    "{{ '<assistant>' }}{%- endif -%}"
)
"""Appending a message appends tokens: a turn follows an observation with nothing in between.

Text after a tag starts with one space, so that a word is the same token there as anywhere.
"""

_MAX_VOCABULARY = 4096
_MAX_POSITIONS = 2048
_ENVIRONMENT_WORDS = "warning format unknown operator no results output error:"


def build_tokenizer() -> Qwen2Tokenizer:
    """Train the tokenizer on the words of the embedded world and protocol; deterministic."""
    untrained: Any = Qwen2Tokenizer(unk_token=EOS, eos_token=EOS, pad_token=PAD)
    tokenizer: Qwen2Tokenizer = untrained.train_new_from_iterator(
        _vocabulary(), _MAX_VOCABULARY, show_progress=False, min_frequency=1
    )
    tokenizer.add_tokens(
        [AddedToken(tag, special=True, lstrip=True, normalized=False) for tag in TAGS]
    )
    pairs = [f"{tens}{ones}" for tens in range(10) for ones in range(10)]
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in (" 19", *pairs)])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _vocabulary() -> Iterator[str]:
    """Text in which every word that should be one token occurs."""
    names = (world.FIRST_NAMES, world.LAST_NAMES, world.CITIES, world.FIRMS)
    for word in itertools.chain(*names, world.RIVERS, world.JOBS, _ENVIRONMENT_WORDS.split()):
        yield f" {word}"
    rng = random.Random("vocabulary")
    sample = world.World.draw(WorldConfig(), rng)
    for _ in range(200):
        for message in demonstrate(sample, rng).messages:
            yield re.sub(r"<[^>]*>|[0-9]", "", f" {message.content}")


def build_model(shape: TinyModelConfig, vocabulary: int, seed: int) -> Qwen2ForCausalLM:
    """A freshly initialised director with tied embeddings, in float32."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=_MAX_POSITIONS,
        tie_word_embeddings=True,
        initializer_range=shape.hidden**-0.5,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return Qwen2ForCausalLM(config)  # type: ignore[no-untyped-call]


def save(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, directory: Path) -> None:
    """Write an ordinary Hugging Face directory, which transformers and vLLM load by its path."""
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
