"""The warm start: repeatable, learns the director's tokens only, leaves a usable directory."""

import random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from learner import tiny
from learner.warmstart import demonstration_tokens, warmstart
from wfr.config import parse_config
from wfr.tasks.demonstrations import demonstrate
from wfr.tasks.world import World

CONFIG = parse_config(
    {
        "model": {"tiny": {"layers": 1, "hidden": 32, "intermediate": 64, "heads": 2}},
        "tasks": {"world": {"people": 40, "namesakes": 12, "cities": 12, "firms": 12}},
        "warmstart": {"steps": 60, "batch": 8, "world_every": 4, "threads": 1},
    }
)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    seen = []
    made = warmstart(CONFIG, tmp_path_factory.mktemp("a"), lambda *step: seen.append(step))
    return made, seen


def test_it_learns_and_reports_each_step(result):
    made, seen = result
    assert [step for step, _ in seen] == list(range(1, 61))
    assert made.steps == 60
    assert seen[-1][1] < 0.9 * seen[0][1]
    assert made.tokens > 60 * 8 * 20


def test_same_seed_same_weights(result, tmp_path):
    warmstart(CONFIG, tmp_path, lambda step, loss: None)
    one, two = (AutoModelForCausalLM.from_pretrained(p) for p in (result[0].path, tmp_path))
    for left, right in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(left, right)


def test_the_directory_serves_an_episode(result):
    tokenizer = AutoTokenizer.from_pretrained(result[0].path)
    model = AutoModelForCausalLM.from_pretrained(result[0].path)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Ada Adler's job?"}],
        add_generation_prompt=True,
        return_tensors="pt",
    )
    assert model(**prompt).logits.shape[-1] == len(tokenizer)


def test_only_turns_are_learned():
    tokenizer = tiny.build_tokenizer()
    rng = random.Random(1)
    drawn = [demonstrate(World.draw(CONFIG.tasks.world, rng), rng) for _ in range(5)]
    for demonstration, (ids, learned) in zip(
        drawn, demonstration_tokens(drawn, tokenizer), strict=True
    ):
        text = tokenizer.decode([i for i, own in zip(ids, learned, strict=True) if own])
        turns = "".join(m.content for m in demonstration.messages if m.role == "assistant")
        assert text.replace(" ", "") == turns.replace(" ", "")
