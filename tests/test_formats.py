"""Benchmark files: the public samples, every way to be wrong, the held-out split."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfr.config import Config
from wfr.grading.texts import grade_text
from wfr.tasks import hub
from wfr.tasks.files import Columns, FileTasks, known_formats, load_tasks, read_tasks
from wfr.tasks.formats import mathqa
from wfr.tasks.formats.fields import FieldError, Fields
from wfr.tasks.formats.registry import FORMATS, looks_like
from wfr.tasks.registry import make_source
from wfr.tasks.rows import FormatError, rows
from wfr.tasks.source import Document
from wfr.tasks_config import TaskFormat

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


def tasks_of(format, path, **options):
    tasks, faults = load_tasks(format, path, **options)
    assert not faults
    return tasks


def hotpotqa(tmp_path, *items):
    path = tmp_path / "sample.json"
    path.write_text(json.dumps(items), encoding="utf-8")
    return path


def gsm8k(tmp_path, data):
    path = tmp_path / "sample.jsonl"
    path.write_bytes(data)
    return path


def test_public_hotpotqa_sample():
    tasks = tasks_of("hotpotqa", sample("hotpotqa/sample.json"))
    assert len(tasks) == 64
    assert {t.skill for t in tasks} == {"bridge", "comparison"}
    assert all(t.metric == "hotpotqa" and t.corpus and len(t.answers) == 1 for t in tasks)
    assert tasks[0].id == "5ac3d667554299076e296ca5"
    assert tasks[0].corpus[0].title == "Appenzeller cheese"
    assert tasks[0].corpus[0].text.startswith("Appenzeller cheese is a hard cow's-milk cheese")


def test_public_gsm8k_sample():
    tasks = tasks_of("gsm8k", sample("gsm8k/sample.jsonl"))
    assert len(tasks) == 64
    assert all(t.metric == t.skill == t.source == "gsm8k" for t in tasks)
    assert tasks[0].answers == ("16",)
    assert all(float(t.answers[0]) == float(t.answers[0]) for t in tasks)


def test_a_directory_holds_its_files():
    assert len(tasks_of("gsm8k", sample("gsm8k"))) == 64


def test_hotpotqa_fields(tmp_path):
    (task,) = tasks_of("hotpotqa", hotpotqa(tmp_path, ITEM))
    assert (task.question, task.answers) == ("Which dog is Swiss?", ("Sennenhund",))
    assert task.corpus == (Document("Dog", "A dog. It barks."), Document("Empty", ""))


def test_gsm8k_survives_bom_crlf_and_line_separators(tmp_path):
    row = {**ROW, "question": "How\u2028many é?"}
    line = json.dumps(row, ensure_ascii=False).encode()
    path = gsm8k(
        tmp_path, b"\xef\xbb\xbf" + line + b"\r\n\r\n" + json.dumps(ROW).encode() + b"\r\n"
    )
    tasks = tasks_of("gsm8k", path)
    assert [t.question for t in tasks] == ["How\u2028many é?", "How many?"]
    assert tasks[0].answers == ("1002",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": None}, r"item 1: field 'answer': expected text, found nothing"),
        ({"question": " "}, r"item 1: field 'question': expected text, found str ' '"),
        ({"_id": 5}, r"item 1: field '_id': expected text, found int 5"),
        ({"type": []}, r"item 1: field 'type'"),
        ({"context": "x"}, r"item 1: field 'context': expected JSON in text"),
        ({"context": [["Dog", "text"]]}, r"item 1: field 'context\[0\]': expected \[title,"),
        ({"context": [["Dog", ["a"]], ["B", [1]]]}, r"item 1: field 'context\[1\]'"),
        ({"_id": "5a"}, r"item 1: another row has the id '5a' too"),
    ],
)
def test_hotpotqa_errors_name_item_and_field(tmp_path, change, message):
    path = hotpotqa(tmp_path, ITEM, {**ITEM, "_id": "5b", **change})
    with pytest.raises(FormatError, match=message):
        load_tasks("hotpotqa", path, strict=True)
    tasks, faults = load_tasks("hotpotqa", path)
    assert len(tasks) == len(faults) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "field '_id': expected text, found nothing"),
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
        (b'{"question": "q", "answer": "2"}', "line 2: field 'answer': expected a final number"),
        (b'{"question": "\xff"}', "line 2: is not UTF-8 at byte 14"),
    ],
)
def test_gsm8k_errors_name_line_and_field(tmp_path, line, message):
    path = gsm8k(tmp_path, json.dumps(ROW).encode() + b"\n" + line + b"\n")
    with pytest.raises(FormatError, match=message):
        load_tasks("gsm8k", path, strict=True)


def test_a_missing_file_and_an_unknown_format_are_named(tmp_path):
    with pytest.raises(FormatError, match=r"absent\.json: there is no such file"):
        load_tasks("hotpotqa", tmp_path / "absent.json")
    with pytest.raises(FormatError, match=r"holds no file that ends in \.jsonl"):
        load_tasks("gsm8k", tmp_path)
    with pytest.raises(ValueError, match="'squad' is unknown; known: 2wikimultihopqa, aime"):
        load_tasks("squad", tmp_path)
    (tmp_path / "rows.xml").touch()
    with pytest.raises(FormatError, match=r"rows\.xml: expected a name that ends in"):
        load_tasks("gsm8k", tmp_path / "rows.xml")


PUBLIC = {
    "2wikimultihopqa": ("2wikimultihopqa/sample.json", 64),
    "bamboogle": ("bamboogle/sample.csv", 64),
    "gsm8k": ("gsm8k/sample.jsonl", 64),
    "hotpotqa": ("hotpotqa/sample.json", 64),
    "humaneval": ("humaneval/sample.jsonl.gz", 64),
    "mbpp": ("mbpp/sample.jsonl", 64),
    "musique": ("musique/sample.jsonl", 64),
    "nq_open": ("nq_open/sample.jsonl", 64),
    "popqa": ("popqa/sample.tsv", 64),
    "squad_v2": ("squad_v2/sample.json", 64),
    "triviaqa": ("triviaqa/sample.json", 2),
}


@pytest.mark.parametrize("format", PUBLIC)
def test_public_samples(format):
    name, count = PUBLIC[format]
    tasks = tasks_of(format, sample(name))
    assert len(tasks) == count
    assert all(task.question and task.skill and task.source == format for task in tasks)
    assert all(task.answers or task.tests or task.metric == "squad_v2" for task in tasks)


@pytest.mark.parametrize("format", [name for name in PUBLIC if name not in ("mbpp", "humaneval")])
def test_gold_answers_of_public_samples_are_right(format):
    for task in tasks_of(format, sample(PUBLIC[format][0])):
        for gold in task.answers or ("",):
            assert grade_text(task, gold).correct == 1.0, (task.id, gold)


def test_squad_keeps_its_unanswerable_half():
    tasks = tasks_of("squad_v2", sample("squad_v2/sample.json"))
    assert sum(task.skill == "no_answer" for task in tasks) == 28


@pytest.mark.parametrize("format", PUBLIC)
def test_public_samples_look_like_what_they_are(format):
    _, first = next(rows(sample(PUBLIC[format][0])))
    assert looks_like(first)[0] == format


def test_a_wrong_format_says_what_the_rows_look_like(tmp_path):
    path = hotpotqa(tmp_path, {**ITEM, "supporting_facts": []})
    with pytest.raises(FormatError, match=r"1 of 1 rows .* 'gsm8k'; they look like 'hotpotqa'"):
        load_tasks("gsm8k", path)


PARAGRAPH = {"title": "t", "paragraph_text": "p"}
ROWS = {
    "2wikimultihopqa": {**ITEM, "evidences": []},
    "aime": {"problem": "p", "answer": 33},
    "apps": {"question": "q", "input_output": '{"inputs": ["1\\n"], "outputs": ["2\\n"]}'},
    "bamboogle": {"Question": "q", "Answer": "a"},
    "ds1000": {
        "prompt": "p",
        "code_context": "c",
        "metadata": {"library": "Numpy", "problem_id": 1},
    },
    "flowsteer": {
        "problem": "p",
        "problem_type": "qa",
        "source": "squad",
        "ground_truth": "a|b",
        "meta": {},
    },
    "gsm8k": ROW,
    "hotpotqa": {**ITEM, "supporting_facts": []},
    "humaneval": {
        "task_id": "HumanEval/0",
        "prompt": 'def f(x):\n    """\n    >>> f(1)\n    2\n    """\n',
        "entry_point": "f",
        "test": "def check(candidate):\n    assert candidate(1) == 2\n",
    },
    "math": {"problem": "p", "solution": r"so \boxed{\frac{1}{2}}", "type": "Algebra"},
    "mathqa": {"Problem": "p", "options": "a ) 38 , b ) 27.675 , c ) 30", "correct": "c"},
    "mbpp": {
        "task_id": 1,
        "text": "t",
        "test_list": ["assert f() == 1"],
        "test_setup_code": "x = 1",
    },
    "musique": {
        "id": "2hop__1_2",
        "question": "q",
        "answer": "a",
        "answer_aliases": ["b"],
        "paragraphs": [PARAGRAPH],
        "question_decomposition": [],
        "answerable": True,
    },
    "nq_open": {"question": "q", "answer": ["a", "b"]},
    "popqa": {"id": 1, "question": "q", "prop": "capital", "possible_answers": '["a"]'},
    "search_r1": {
        "question": "q",
        "data_source": "nq",
        "reward_model": {"ground_truth": {"target": ["a"]}},
    },
    "squad_v2": {
        "id": "1",
        "question": "q",
        "context": "c",
        "title": "t",
        "answers": {"text": ["a"], "answer_start": [0]},
    },
    "triviaqa": {"Question": "q", "QuestionId": "1", "Answer": {"Aliases": ["a"], "Value": "b"}},
}


def test_every_format_has_a_row():
    assert ROWS.keys() == FORMATS.keys()


@pytest.mark.parametrize("format", ROWS)
def test_a_row_of_every_format(format, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROWS[format]))
    (task,) = tasks_of(format, path)
    assert task.answers or task.tests
    assert looks_like(ROWS[format])[0] == format


def test_humaneval_shows_the_examples_of_its_prompt(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROWS["humaneval"]))
    (task,) = tasks_of("humaneval", path)
    assert task.public_tests == ("assert f(1) == 2",)
    assert task.tests[-1] == "check(f)"
    assert "check" not in task.question


DAMAGE = st.sampled_from(
    [None, True, 3, -1.5, "", "x", "[", "[]", [], {}, [3], {"title": [1], "sentences": ["x"]}]
)


@pytest.mark.parametrize("format", ROWS)
@given(data=st.data())
def test_a_damaged_row_is_a_fault_or_a_task(format, data):
    row = dict(ROWS[format])
    for field in data.draw(st.sets(st.sampled_from(sorted(row)), min_size=1)):
        row[field] = data.draw(DAMAGE)
    try:
        task = FORMATS[format].task(Fields(row))
    except FieldError:
        return
    assert task.question


def test_containers(tmp_path):
    table = {"question": ["q1", "q2"], "answer": [["a"], ["b", "c"]]}
    pq.write_table(pa.table(table), tmp_path / "rows.parquet")
    pairs = zip(table["question"], table["answer"], strict=True)
    lines = "\n".join(json.dumps({"question": q, "answer": a}) for q, a in pairs)
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "lines.json").write_text(lines)
    wanted = [("q1", ("a",)), ("q2", ("b", "c"))]
    for name in ("rows.parquet", "rows.jsonl.gz", "lines.json"):
        assert [(t.question, t.answers) for t in tasks_of("nq_open", tmp_path / name)] == wanted


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.csv", b"Question,Answer\nq\n", "line 2: expected 2 columns"),
        ("x.csv", b"Question,Answer\nq,a,b\n", "line 2: expected 2 columns"),
        ("x.csv", b"Question,Answer\n\xff,a\n", "after line"),
        ("x.parquet", b"PAR1 not", "is not Parquet"),
        ("x.json", b"\xff", "is not UTF-8"),
    ],
)
def test_broken_containers_name_the_place(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(FormatError, match=message):
        load_tasks("bamboogle", tmp_path / name, strict=True)


def test_apps_folders(tmp_path):
    problems = [
        {"inputs": ["1\n"], "outputs": ["2\n"]},
        {"fn_name": "f", "inputs": [[1, [2]]], "outputs": [[3]]},
    ]
    for number, pairs in enumerate(problems):
        folder = tmp_path / f"{number:04d}"
        folder.mkdir()
        (folder / "question.txt").write_text(f"question {number}")
        (folder / "input_output.json").write_text(json.dumps(pairs))
        (folder / "metadata.json").write_text('{"difficulty": "interview"}')
    stdin, call = tasks_of("apps", tmp_path)
    assert (stdin.metric, stdin.skill) == ("stdin_tests", "interview")
    assert json.loads(stdin.tests[0]) == {"stdin": "1\n", "stdout": "2\n"}
    assert call.metric == "hidden_tests"
    exec(call.tests[0], {"f": lambda x, y: (x + y[0],)})  # tuples count as lists
    with pytest.raises(AssertionError):
        exec(call.tests[0], {"f": lambda x, y: x - y[0]})


def test_mathqa_options():
    text = "a ) 38 , b ) 27.675 , c ) data inadequate , d ) 30 ( x ) , e ) 1"
    assert mathqa.parse_options(text) == {
        "a": "38",
        "b": "27.675",
        "c": "data inadequate",
        "d": "30 ( x )",
        "e": "1",
    }


def test_a_users_own_table(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("prompt,gold,level\nWhat?,x,easy\nWho?,,hard\n")
    columns = Columns({"question": "prompt", "answers": "gold", "skill": "level"}, "popqa")
    tasks, faults = load_tasks("custom", path, columns=columns)
    assert [(t.question, t.answers, t.skill, t.metric) for t in tasks] == [
        ("What?", ("x",), "easy", "popqa")
    ]
    assert "line 3: field 'gold'" in str(faults[0])
    with pytest.raises(ValueError, match="which column is what"):
        load_tasks("custom", path)


@pytest.mark.parametrize(
    "columns", [{"question": "a"}, {"answers": "a"}, {"question": "a", "answers": "b", "z": "c"}]
)
def test_columns_that_make_no_task_are_refused(columns):
    with pytest.raises(ValueError, match="name the columns of"):
        Columns(columns)


def test_the_configuration_knows_every_format():
    assert {*get_args(TaskFormat)} == {*known_formats(), "lookup_world", "mixed_world"}


def test_a_users_table_in_the_configuration(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("q,a\n" + "".join(f"what {n}?,x\n" for n in range(50)))
    columns = {"question": "q", "answers": "a"}
    tasks = {"format": "custom", "path": str(path), "columns": columns}
    source = make_source(Config.model_validate({"tasks": tasks}))
    assert len(source.train()) + len(source.held_out()) == 50
    with pytest.raises(ValueError, match="contradict each other"):
        Config.model_validate({"tasks": {**tasks, "columns": {}}})
    unknown = Config.model_validate({"tasks": {**tasks, "metric": "bleu"}})
    with pytest.raises(ValueError, match="'bleu' is unknown"):
        make_source(unknown)


def test_rows_are_read_one_at_a_time(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROW) + "\n{broken")
    reader = read_tasks("gsm8k", path)
    assert next(reader).question == "How many?"
    assert "line 2: is not JSON" in str(next(reader))


def test_hub_addresses():
    assert hub.parse("hub:openai/gsm8k:main:test") == ("openai/gsm8k", "main", "test")
    assert hub.parse("hub:x/y") == ("x/y", None, "train")
    with pytest.raises(FormatError, match="expected hub:NAME"):
        hub.parse("hub:")


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
