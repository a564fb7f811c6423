"""The embedded director: a tiny Qwen2 and its own byte-level BPE tokenizer.

Three choices make it learnable in minutes: each tag is one token that takes the space before it,
every name of the embedded world is one token, and digits come in pairs, so that a year is two
tokens of which the first rarely matters.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from learner.language import EOS, LANGUAGES, THINK_ACT, Language
from wfr.config import Config, TinyModelConfig

PAD = "<pad>"

_MAX_VOCABULARY = 4096
_MAX_POSITIONS = 2048


def build_tokenizer(language: Language = THINK_ACT) -> Qwen2Tokenizer:
    """Train the tokenizer on the words of the embedded world and protocol; deterministic."""
    untrained: Any = Qwen2Tokenizer(unk_token=EOS, eos_token=EOS, pad_token=PAD)
    tokenizer: Qwen2Tokenizer = untrained.train_new_from_iterator(
        language.words(), _MAX_VOCABULARY, show_progress=False, min_frequency=1
    )
    tokenizer.add_tokens(
        [AddedToken(tag, special=True, lstrip=True, normalized=False) for tag in language.tags]
    )
    pairs = [f"{tens}{ones}" for tens in range(10) for ones in range(10)]
    tokenizer.add_tokens(
        [AddedToken(text, normalized=False) for text in (" 19", *pairs, *language.compounds)]
    )
    tokenizer.chat_template = language.chat_template
    return tokenizer


def build_model(
    shape: TinyModelConfig, vocabulary: int, seed: int, eos: int | None = None
) -> Qwen2ForCausalLM:
    """A freshly initialised director with tied embeddings, in float32; `eos` ends its turns."""
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
        eos_token_id=eos,
        pad_token_id=None,
    )
    return Qwen2ForCausalLM(config)  # type: ignore[no-untyped-call]


def make(config: Config) -> tuple[Qwen2ForCausalLM, Qwen2Tokenizer]:
    """The untrained director that the configuration asks for, and its tokenizer."""
    language = LANGUAGES[config.environment.kind]
    tokenizer = build_tokenizer(language)
    eos = tokenizer.eos_token_id if language.turn_end else None
    return build_model(config.model.tiny, len(tokenizer), config.run.seed, eos), tokenizer


def save(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, directory: Path) -> None:
    """Write an ordinary Hugging Face directory, which transformers and vLLM load by its path."""
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
