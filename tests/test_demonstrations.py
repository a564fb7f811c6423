"""Demonstrations: what they show is what the operators and the environment would really do."""

import random
import re
from collections import Counter

import pytest

from wfr.retrieval.memory_index import MemoryIndex
from wfr.tasks.demonstrations import GOOD_SHARE, NOISE_SHARE, demonstrate, tell
from wfr.tasks.questions import SKILLS, draw_question
from wfr.tasks.world import World
from wfr.tasks_config import WorldConfig
from wfr.turn_parser import parse_turn


@pytest.fixture(scope="module")
def world():
    return World.draw(WorldConfig(), random.Random("demonstrations"))


def answer(messages):
    return parse_turn(messages[-1].content).answer


@pytest.mark.parametrize("skill", SKILLS)
def test_good_demonstrations_answer_rightly(world, skill):
    rng = random.Random(skill)
    for _ in range(50):
        question = draw_question(world, skill, rng)
        assert answer(tell(world, question)) == question.answer


@pytest.mark.parametrize("skill", SKILLS)
def test_bad_demonstrations_are_mostly_wrong(world, skill):
    rng = random.Random(skill)
    questions = [draw_question(world, skill, rng) for _ in range(200)]
    right = sum(answer(tell(world, q, rng)) == q.answer for q in questions)
    assert right <= 25


def test_observations_are_what_the_operators_return(world):
    index, rng = MemoryIndex(world.documents()), random.Random(3)
    for _ in range(300):
        messages = demonstrate(world, rng).messages
        for turn, observation in zip(messages[1::2], messages[2::2], strict=False):
            call = parse_turn(turn.content)
            if call.operator == "Search":
                text = index.search(call.argument, 1)[0].text
            else:
                assert re.fullmatch(
                    r"\d+ [-+] \d+|(min|max)\('\d+ \w+', '\d+ \w+'\)", call.argument
                )
                text = repr(eval(call.argument))
            assert observation.content == f"<info>{text}</info>"


def test_roles_alternate_and_only_the_last_turn_may_break_the_format(world):
    rng, broken = random.Random(4), 0
    for _ in range(1000):
        user, *rest = demonstrate(world, rng).messages
        assert user.role == "user"
        assert [m.role for m in rest] == ["assistant", "tool"] * (len(rest) // 2) + ["assistant"]
        faults = [parse_turn(m.content).fault for m in rest[::2]]
        assert not any(faults[:-1])
        broken += faults[-1] is not None
    assert NOISE_SHARE / 2 < broken / 1000 < NOISE_SHARE * 2


def test_shares_of_good_demonstrations(world):
    rng = random.Random(5)
    drawn = [demonstrate(world, rng) for _ in range(3000)]
    total, good = Counter(d.skill for d in drawn), Counter(d.skill for d in drawn if d.good)
    for skill, share in GOOD_SHARE.items():
        assert good[skill] / total[skill] == pytest.approx(share, abs=0.08)


def test_same_generator_same_demonstrations(world):
    one, two = ([demonstrate(world, random.Random(6)) for _ in range(3)] for _ in range(2))
    assert one == two
