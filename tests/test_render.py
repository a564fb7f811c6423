"""Rendering with real tokenizers: bit by bit is the whole at once, and no sampled id changes."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import Qwen2Tokenizer

from actors.render import Renderer
from actors.rollout import EpisodeId, Limits, Rollout
from learner.tiny import build_tokenizer
from wfr.tasks.source import Task
from wfr.testing import FakeEnvironment, FakeSampler
from wfr.trajectory import Message, StopReason

QWEN = """\
{%- if messages[0].role != 'system' -%}
{{ '<|im_start|>system\nBe helpful.<|im_end|>\n' }}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'tool' -%}
{%- if loop.previtem is not defined or loop.previtem.role != 'tool' -%}
{{ '<|im_start|>user' }}
{%- endif -%}
{{ '\n<tool_response>\n' + message.content + '\n</tool_response>' }}
{%- if loop.last or loop.nextitem.role != 'tool' -%}{{ '<|im_end|>\n' }}{%- endif -%}
{%- else -%}
{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}
"""
QUESTION = Message("user", "job of Rip Fese ?")
INFO = Message("tool", "<info>painter</info>")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The tiny director's tokenizer, loaded from its directory."""
    path = tmp_path_factory.mktemp("tiny")
    build_tokenizer().save_pretrained(path)
    return Renderer(path)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    """A byte-level BPE tokenizer with Qwen2.5's markers and a template of its form."""
    path = tmp_path_factory.mktemp("qwen")
    untrained = Qwen2Tokenizer(unk_token="<|im_end|>", eos_token="<|im_end|>")
    texts = ["<think> job of Rip Fese </think><tool>Search: painter</tool>", "assistant\n<info>"]
    tokenizer = untrained.train_new_from_iterator(texts * 3, 400, show_progress=False)
    tokenizer.add_tokens([AddedToken("<|im_start|>", special=True, normalized=False)])
    tokenizer.chat_template = QWEN
    tokenizer.save_pretrained(path)
    return Renderer(path)


def encode(renderer, text):
    return renderer.tokenizer.encode(text, add_special_tokens=False)


def decode(renderer, tokens):
    return renderer.tokenizer.decode(tokens, skip_special_tokens=False)


def whole(renderer, messages, *, opening):
    chat = [{"role": m.role, "content": m.content} for m in messages]
    return renderer.tokenizer.apply_chat_template(
        chat, add_generation_prompt=opening, return_dict=False
    )


def grown(renderer, question, exchanges, *, eos):
    """Token ids of an episode, built as the rollout does."""
    tokens = renderer.prompt([question])
    for turn, reply in exchanges:
        tokens += encode(renderer, turn) + [renderer.eos_id] * eos
        tokens += renderer.observation([Message("tool", reply)], ended_by_eos=eos)
    return tokens


def conversation(question, exchanges):
    messages = [question]
    for turn, reply in exchanges:
        messages += [Message("assistant", turn), Message("tool", reply)]
    return messages


words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(
    lambda text: "<|" not in text
)
exchanges = st.lists(
    st.tuples(
        words.map(lambda text: f"<think>{text}</think><tool>Search: x</tool>"),
        words.map(lambda text: f"<info>{text}</info>"),
    ),
    max_size=3,
)


@given(words, exchanges, st.booleans())
def test_qwen_bit_by_bit_is_the_whole_at_once(qwen, question, exchanges, eos):
    asked = Message("user", question)
    expected = whole(qwen, conversation(asked, exchanges), opening=True)
    assert grown(qwen, asked, exchanges, eos=eos) == expected


@given(exchanges)
def test_tiny_bit_by_bit_is_the_whole_at_once(tiny, exchanges):
    expected = whole(tiny, conversation(QUESTION, exchanges), opening=not exchanges)
    assert grown(tiny, QUESTION, exchanges, eos=False) == expected


def test_qwen_prompt(qwen):
    assert decode(qwen, qwen.prompt([QUESTION])) == (
        "<|im_start|>system\nBe helpful.<|im_end|>\n"
        "<|im_start|>user\njob of Rip Fese ?<|im_end|>\n<|im_start|>assistant\n"
    )
    system = [Message("system", "Be brief."), QUESTION]
    assert decode(qwen, qwen.prompt(system)).startswith("<|im_start|>system\nBe brief.<|im_end|>\n")


@pytest.mark.parametrize("eos", [True, False])
def test_qwen_observation(qwen, eos):
    tokens = qwen.observation([INFO], ended_by_eos=eos)
    assert decode(qwen, tokens) == ("" if eos else "<|im_end|>") + (
        "\n<|im_start|>user\n<tool_response>\n<info>painter</info>\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert (tokens[0] == qwen.eos_id) != eos


def test_an_observation_may_hold_any_text(qwen):
    """Even what the renderer itself looks for."""
    mark = "\u2063wfr\u2063"
    tokens = qwen.observation([Message("tool", f"a {mark} b {mark} c")], ended_by_eos=True)
    assert f"<tool_response>\na {mark} b {mark} c\n</tool_response>" in decode(qwen, tokens)


def test_several_messages_between_two_turns(qwen):
    several = [INFO, Message("tool", "<info>singer</info>")]
    tokens = encode(qwen, "hi") + qwen.observation(several, ended_by_eos=False)
    chat = [QUESTION, Message("assistant", "hi"), *several]
    assert qwen.prompt([QUESTION]) + tokens == whole(qwen, chat, opening=True)


@pytest.mark.parametrize("eos", [True, False])
def test_tiny_observation_is_the_text_alone(tiny, eos):
    assert tiny.observation([INFO], ended_by_eos=eos) == encode(tiny, "<info> painter</info>")


@pytest.mark.parametrize("name", ["tiny", "qwen"])
def test_text_of_a_turn_is_without_its_end(name, request):
    renderer = request.getfixturevalue(name)
    tokens = encode(renderer, "<think> job painter</think>")
    assert renderer.text([*tokens, renderer.eos_id]) == renderer.text(tokens)
    doubled = renderer.text([*tokens, renderer.eos_id, renderer.eos_id])
    assert doubled == renderer.text(tokens) + renderer.tokenizer.eos_token


def test_sampled_ids_are_never_encoded_again(tiny):
    """A policy may write a word in other pieces than the tokenizer would."""
    pieces = [encode(tiny, character)[0] for character in "get painter;"]
    assert encode(tiny, tiny.text(pieces)) != pieces
    last = [encode(tiny, character)[0] for character in "say singer;"]
    sampler = FakeSampler(pieces, last)
    rollout = Rollout(FakeEnvironment(), tiny, sampler.sample, Limits(200, 100, 50, 1.0))
    task = Task("t", "?", ("singer",), "test")
    trajectory = asyncio.run(rollout.run(task, EpisodeId("r", "g", 0)))
    trajectory.check_valid()
    assert trajectory.stop_reason is StopReason.ANSWERED
    assert trajectory.reward == 1.0
    assert np.array_equal(trajectory.tokens[trajectory.turn_id == 0], pieces)
    assert np.array_equal(trajectory.tokens[trajectory.turn_id == 1], last)
    assert trajectory.messages[1] == Message("assistant", "get painter;")


def test_a_tokenizer_without_a_template_is_refused(tmp_path):
    tokenizer = build_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no chat template"):
        Renderer(tmp_path)


def test_a_template_that_drops_what_the_assistant_wrote_is_noticed(tiny, tmp_path):
    tokenizer = build_tokenizer()
    tokenizer.chat_template = (
        "{%- for m in messages if m.role == 'user' -%}{{ m.content }}{%- endfor -%}"
    )
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(AssertionError, match="dropped the assistant's text"):
        Renderer(tmp_path).observation([INFO], ended_by_eos=False)
