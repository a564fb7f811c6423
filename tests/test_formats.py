"""Benchmark files: the public samples, every way to be wrong, the held-out split."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wfr.config import Config
from wfr.tasks.formats import FileTasks, FormatError, load_tasks
from wfr.tasks.registry import make_source
from wfr.tasks.source import Document

SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "data"


def sample(name):
    path = SAMPLES / name
    if not path.exists():
        pytest.skip(f"the public sample {name} is not beside this checkout")
    return path


ITEM = {
    "_id": "5a",
    "question": "Which dog is Swiss?",
    "answer": "Sennenhund",
    "type": "bridge",
    "context": [["Dog", ["A dog.", " It barks.\u2028"]], ["Empty", []]],
}
ROW = {"question": "How many?", "answer": "1+1=<<1+1=2>>2\n#### 1,002"}


def hotpotqa(tmp_path, *items):
    path = tmp_path / "sample.json"
    path.write_text(json.dumps(items), encoding="utf-8")
    return path


def gsm8k(tmp_path, data):
    path = tmp_path / "sample.jsonl"
    path.write_bytes(data)
    return path


def test_public_hotpotqa_sample():
    tasks = load_tasks("hotpotqa", sample("hotpotqa/sample.json"))
    assert len(tasks) == 64
    assert {t.skill for t in tasks} == {"bridge", "comparison"}
    assert all(t.metric == "qa_em" and t.corpus and len(t.answers) == 1 for t in tasks)
    assert tasks[0].id == "5ac3d667554299076e296ca5"
    assert tasks[0].corpus[0].title == "Appenzeller cheese"
    assert tasks[0].corpus[0].text.startswith("Appenzeller cheese is a hard cow's-milk cheese")


def test_public_gsm8k_sample():
    tasks = load_tasks("gsm8k", sample("gsm8k/sample.jsonl"))
    assert len(tasks) == 64
    assert all(t.metric == t.skill == t.source == "gsm8k" for t in tasks)
    assert tasks[0].answers == ("16",)
    assert all(float(t.answers[0]) == float(t.answers[0]) for t in tasks)


def test_a_directory_holds_its_files():
    assert len(load_tasks("gsm8k", sample("gsm8k"))) == 64


def test_hotpotqa_fields(tmp_path):
    (task,) = load_tasks("hotpotqa", hotpotqa(tmp_path, ITEM))
    assert (task.question, task.answers) == ("Which dog is Swiss?", ("Sennenhund",))
    assert task.corpus == (Document("Dog", "A dog. It barks."), Document("Empty", ""))


def test_gsm8k_survives_bom_crlf_and_line_separators(tmp_path):
    row = {**ROW, "question": "How\u2028many é?"}
    line = json.dumps(row, ensure_ascii=False).encode()
    path = gsm8k(
        tmp_path, b"\xef\xbb\xbf" + line + b"\r\n\r\n" + json.dumps(ROW).encode() + b"\r\n"
    )
    tasks = load_tasks("gsm8k", path)
    assert [t.question for t in tasks] == ["How\u2028many é?", "How many?"]
    assert tasks[0].answers == ("1002",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": None}, r"item 1: field 'answer': expected text, found NoneType None"),
        ({"question": " "}, r"item 1: field 'question': expected text, found str ' '"),
        ({"_id": 5}, r"item 1: field '_id': expected text, found int 5"),
        ({"type": []}, r"item 1: field 'type'"),
        ({"context": "x"}, r"item 1: field 'context': expected a list"),
        ({"context": [["Dog", "text"]]}, r"item 1: field 'context\[0\]': expected \[title,"),
        ({"context": [["Dog", ["a"]], ["B", [1]]]}, r"item 1: field 'context\[1\]'"),
        ({"_id": "5a"}, r"sample\.json: two tasks have the id '5a'"),
    ],
)
def test_hotpotqa_errors_name_item_and_field(tmp_path, change, message):
    path = hotpotqa(tmp_path, ITEM, {**ITEM, "_id": "5b", **change})
    with pytest.raises(FormatError, match=message):
        load_tasks("hotpotqa", path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "expected one array of items, found dict"),
        ("[3]", "item 0: expected an object, found int 3"),
        ("[]", "holds no task"),
        ("[{]", "is not JSON: .*line 1 column 3"),
    ],
)
def test_hotpotqa_must_be_an_array_of_objects(tmp_path, text, message):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(FormatError, match=message):
        load_tasks("hotpotqa", path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "line 2: is not JSON"),
        (b"[]", "line 2: expected an object, found list"),
        (b'{"question": "q"}', "line 2: field 'answer': expected text"),
        (b'{"question": "q", "answer": "2"}', "line 2: field 'answer' has no final number"),
        (b'{"question": "\xff"}', "line 2: is not UTF-8 at byte 14"),
    ],
)
def test_gsm8k_errors_name_line_and_field(tmp_path, line, message):
    path = gsm8k(tmp_path, json.dumps(ROW).encode() + b"\n" + line + b"\n")
    with pytest.raises(FormatError, match=message):
        load_tasks("gsm8k", path)


def test_a_missing_file_and_an_unknown_format_are_named(tmp_path):
    with pytest.raises(FormatError, match=r"absent\.json: is no file"):
        load_tasks("hotpotqa", tmp_path / "absent.json")
    with pytest.raises(FormatError, match=r"holds no \*\.jsonl"):
        load_tasks("gsm8k", tmp_path)
    with pytest.raises(ValueError, match="'squad' is unknown; known: hotpotqa, gsm8k"):
        load_tasks("squad", tmp_path)


@pytest.fixture
def many(tmp_path):
    skills = ("bridge",) * 3 + ("comparison",)
    items = [
        {**ITEM, "_id": str(n), "question": f"q{n}", "type": skills[n % 4]} for n in range(400)
    ]
    return hotpotqa(tmp_path, *items)


def test_the_split_depends_on_the_question_alone(many, tmp_path):
    source = FileTasks("hotpotqa", many, held_out=0.25, eval_tasks=1000)
    train, held_out = ({t.question for t in tasks} for tasks in (source.train(), source.held_out()))
    assert not train & held_out
    assert len(train | held_out) == 400
    assert 60 < len(held_out) < 140
    reordered = json.loads(many.read_text())[::-1]
    again = FileTasks("hotpotqa", hotpotqa(tmp_path, *reordered[:200]), 0.25, 1000)
    assert {t.question for t in again.held_out()} <= held_out


def test_evaluation_is_capped_evenly_over_the_skills(many, tmp_path):
    held_out = FileTasks("hotpotqa", many, held_out=0.25, eval_tasks=21).held_out()
    skills = [t.skill for t in held_out]
    assert (skills.count("bridge"), skills.count("comparison")) == (11, 10)
    reordered = hotpotqa(tmp_path, *json.loads(many.read_text())[::-1])
    assert FileTasks("hotpotqa", reordered, 0.25, eval_tasks=21).held_out() == held_out


def test_make_source_follows_the_configuration(many):
    tasks = {"format": "hotpotqa", "path": str(many), "eval_tasks": 5}
    source = make_source(Config.model_validate({"tasks": tasks}))
    assert (source.name, len(source.held_out()), source.corpus()) == ("hotpotqa", 5, ())
    assert make_source(Config()).name == "lookup_world"
