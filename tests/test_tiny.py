"""The tiny director: its directory loads anywhere, and text becomes the same tokens every way."""

import itertools
import random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.render import Renderer
from learner import tiny
from learner.warmstart import demonstration_tokens
from wfr.config import TinyModelConfig
from wfr.environments.observations import BRIEF_WARNING
from wfr.tasks import world
from wfr.tasks.demonstrations import demonstrate
from wfr.tasks_config import WorldConfig
from wfr.turn_parser import parse_turn


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    tokenizer = tiny.build_tokenizer()
    tiny.save(tiny.build_model(TinyModelConfig(), len(tokenizer), seed=1), tokenizer, path)
    return path


@pytest.fixture(scope="module")
def tokenizer(directory):
    return AutoTokenizer.from_pretrained(directory)


@pytest.fixture(scope="module")
def demonstrations():
    rng = random.Random("tiny")
    drawn = world.World.draw(WorldConfig(), rng)
    return [demonstrate(drawn, rng) for _ in range(100)]


def chat(messages):
    return [{"role": m.role, "content": m.content} for m in messages]


def test_loaded_tokenizer_is_the_built_one(tokenizer, demonstrations):
    built = tiny.build_tokenizer()
    for demonstration in demonstrations[:20]:
        text = tokenizer.apply_chat_template(chat(demonstration.messages), tokenize=False)
        assert tokenizer(text)["input_ids"] == built(text)["input_ids"]


def test_every_name_is_one_token(tokenizer):
    names = (world.FIRST_NAMES, world.LAST_NAMES, world.CITIES, world.FIRMS)
    for word in itertools.chain(*names, world.RIVERS, world.JOBS, BRIEF_WARNING.split()):
        assert len(tokenizer(f" {word}")["input_ids"]) == 1, word


def test_numbers_come_in_pairs(tokenizer):
    def pieces(text):
        return tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])

    assert pieces("<think> born 1904") == ["<think>", "Ġborn", " 19", "04"]
    assert pieces("(1904, 1931)")[1:3] == ["19", "04"]
    assert pieces("<answer> 27 </answer>")[-2:] == ["27", "</answer>"]


def test_episode_and_warm_start_see_the_same_tokens(directory, tokenizer, demonstrations):
    """Incremental rendering, the warm start's and the whole template agree token by token."""
    renderer = Renderer(directory)
    trained = demonstration_tokens(demonstrations, tokenizer)
    for demonstration, (ids, learned) in zip(demonstrations, trained, strict=True):
        grown = renderer.prompt(demonstration.messages[:1])
        own = [False] * len(grown)
        for message in demonstration.messages[1:]:
            turn = message.role == "assistant"
            if turn:
                part = tokenizer.encode(message.content, add_special_tokens=False)
            else:
                part = renderer.observation([message], ended_by_eos=False)
            grown += part
            own += [turn] * len(part)
        whole = tokenizer.apply_chat_template(chat(demonstration.messages), return_dict=False)
        assert ids == grown == whole
        assert learned == own


def test_turns_survive_decoding(tokenizer, demonstrations):
    for demonstration in demonstrations:
        for message in demonstration.messages[1::2]:
            ids = tokenizer.encode(message.content, add_special_tokens=False)
            decoded = tokenizer.decode(ids, skip_special_tokens=False)
            assert parse_turn(decoded) == parse_turn(message.content)
            assert tokenizer.encode(decoded, add_special_tokens=False) == ids


def test_loaded_model_is_the_built_one(directory):
    loaded = AutoModelForCausalLM.from_pretrained(directory)
    assert loaded.config.architectures == ["Qwen2ForCausalLM"]
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    built = tiny.build_model(TinyModelConfig(), loaded.config.vocab_size, seed=1)
    ids = torch.arange(20)[None]
    assert torch.equal(loaded(ids).logits, built(ids).logits)
    assert 0.8e6 < sum(p.numel() for p in loaded.parameters()) < 1.1e6
