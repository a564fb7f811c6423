"""The embedded world: determinism, the split, answers that can be read up, and what misleads."""

import random
import re
from collections import Counter

import pytest

from wfr.retrieval.memory_index import MemoryIndex
from wfr.tasks.lookup_world import LookupWorld
from wfr.tasks.questions import SKILLS, draw_question
from wfr.tasks.world import World
from wfr.tasks_config import WorldConfig

SMALL = WorldConfig(people=40, namesakes=12, cities=12, firms=12, questions=40)


@pytest.fixture(scope="module")
def source():
    return LookupWorld(WorldConfig())


def read_up(question, documents):
    """Answer by nothing but the question's words and the documents' text (the slow oracle)."""
    passages = {d.title: d.text for d in documents}

    def fact(title, attribute):
        value = re.search(rf" {attribute} (.+?)(?= [a-z]|$)", passages[title])
        return value[1]

    if match := re.fullmatch(r"The (older|younger) of (.+) and (.+): job\?", question):
        pick = min if match[1] == "older" else max
        return fact(pick(match[2], match[3], key=lambda name: int(fact(name, "born"))), "job")
    if match := re.fullmatch(r"(.+) is how many years younger than (.+)\?", question):
        return str(int(fact(match[1], "born")) - int(fact(match[2], "born")))
    if match := re.fullmatch(r"The (\w+) (.+)'s (\w+)\?", question):
        return fact(f"{match[2]} ({match[1]})", match[3])
    name, *path = question.removesuffix("?").split("'s ")
    for attribute in path:
        name = fact(name, attribute)
    return name


def test_same_seed_same_world_and_questions(source):
    again = LookupWorld(WorldConfig())
    assert again.corpus() == source.corpus()
    assert again.train() == source.train()
    assert again.held_out() == source.held_out()
    assert LookupWorld(WorldConfig(seed=8)).corpus() != source.corpus()


def test_train_and_held_out_share_no_question(source):
    questions = [task.question for task in (*source.train(), *source.held_out())]
    assert len(set(questions)) == len(questions)
    ids = [task.id for task in (*source.train(), *source.held_out())]
    assert len(set(ids)) == len(ids)


def test_split_depends_on_the_question_alone(source):
    other = LookupWorld(WorldConfig(seed=8), eval_tasks=10_000)
    train, held_out = ({t.question for t in part} for part in (source.train(), other.held_out()))
    assert not train & held_out
    assert 0.15 < len(held_out) / (len(held_out) + len(other.train())) < 0.25


def test_skills_are_even(source):
    for tasks, spread in ((source.train(), 0.2), (source.held_out(), 0.1)):
        counts = Counter(task.skill for task in tasks)
        assert set(counts) == set(SKILLS)
        assert min(counts.values()) > (1 - spread) * max(counts.values())


def test_eval_tasks_is_an_upper_bound():
    assert len(LookupWorld(SMALL, eval_tasks=12).held_out()) == 12


def test_every_answer_can_be_read_up(source):
    for task in (*source.train(), *source.held_out()):
        assert read_up(task.question, source.corpus()) == task.answers[0], task.question


def test_a_name_finds_its_own_passage(source):
    index = MemoryIndex(source.corpus())
    for document in source.corpus():
        name = document.title.partition(" (")[0]
        assert index.search(name, 1)[0].title == name


def test_the_first_hit_misleads_and_the_job_helps(source):
    index = MemoryIndex(source.corpus())
    tasks = [task for task in source.train() if task.skill == "misleading"]
    for task in tasks:
        job, name = re.fullmatch(r"The (\w+) (.+)'s \w+\?", task.question).groups()
        first, second = index.search(name, 1)[0], index.search(f"{name} {job}", 1)[0]
        assert f" {task.answers[0]}" not in first.text
        assert f" {task.answers[0]}" in second.text
        assert f" job {job} " in second.text


def test_reversed_years_are_graded_wrong(source):
    from wfr.grading.texts import grade_text as grade

    task = next(t for t in source.train() if t.skill == "arithmetic")
    assert grade(task, task.answers[0]).correct == 1
    assert grade(task, f"-{task.answers[0]}").correct == 0


def test_no_namesakes_no_misleading_questions():
    config = SMALL.model_copy(update={"namesakes": 0})
    assert {t.skill for t in LookupWorld(config).train()} == set(SKILLS) - {"misleading"}


def test_a_walk_never_returns():
    world, rng = World.draw(SMALL, random.Random(1)), random.Random(2)
    for _ in range(200):
        question = draw_question(world, "hop3", rng)
        names = [question.subjects[0]]
        for attribute in question.path[:-1]:
            names.append(world[names[-1]].facts[attribute])
        assert len(set(names)) == 3


@pytest.mark.parametrize("key", ["people", "cities", "firms", "namesakes"])
def test_a_world_beyond_its_vocabulary_is_refused(key):
    with pytest.raises(ValueError, match=f"world.{key}="):
        World.draw(SMALL.model_copy(update={key: 1000}), random.Random(1))
