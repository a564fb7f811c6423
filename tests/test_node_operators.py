"""Operators as nodes: what they ask, what they make of the reply, what they refuse."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfr.backends.base import Completion
from wfr.config import SandboxConfig
from wfr.operators.base import Scope
from wfr.operators.library import (
    LIBRARY,
    NAMES,
    POOLS,
    PROMPTED,
    LibraryError,
    canvas_specs,
    check,
    collected,
    declarations,
    make_nodes,
    make_pool,
)
from wfr.operators.meter import Budget, BudgetSpentError, Meter
from wfr.operators.planning import numbered_lines
from wfr.operators.prompted import Prompted, PromptedOperator
from wfr.operators.python_code import find_program
from wfr.operators.reply import Field, UnusableReplyError, read_fields
from wfr.operators.search import Search
from wfr.operators.values import NodeInput, Value, ValueKind
from wfr.operators.voting import normal, vote
from wfr.retrieval.memory_index import MemoryIndex
from wfr.sandbox import Result, Sandbox, Status, TestOutcome
from wfr.search_config import SearchConfig
from wfr.tasks.source import Document
from wfr.testing import FakeBackend, FakeSandbox
from wfr.trajectory import StopReason, WorldFailureError
from wfr.workflow.dsl import parse
from wfr.workflow.interpreter import Interpreter

SCOPE = Scope("t")
CODE_SCOPE = Scope("t", tests=("assert f(1) == 2", "assert f(2) == 3"), entry_point="f")


class Table:
    """The nodes of the library over a scripted backend and sandbox."""

    def __init__(self, *script, outcomes=None):
        self.backend = FakeBackend(*script)
        self.sandbox = FakeSandbox(outcomes)
        self.meter = Meter()
        search = Search(SearchConfig(), MemoryIndex((Document("Rome", "Rome , capital of Italy"),)))
        self.nodes = make_nodes(NAMES, search=search, sandbox=self.sandbox, backend=self.backend)

    def run(self, name, *previous, problem="2 + 2?", instruction="", scope=SCOPE, sample=0):
        values = tuple(Value(v) if isinstance(v, str) else v for v in previous)
        inputs = NodeInput(problem, instruction, values, sample)
        return asyncio.run(self.nodes[name].run(inputs, scope, self.meter))


def value(name, reply, *previous, **options):
    outcome = Table(reply).run(name, *previous, **options)
    assert outcome.error is None, outcome.error
    return outcome.value


def error(name, reply, *previous, **options):
    outcome = Table(reply).run(name, *previous, **options)
    assert outcome.value is None
    assert outcome.error.message
    return outcome.error.code


# --- the library ---


def test_the_canvas_has_twelve_operators_in_six_categories():
    specs = canvas_specs("canvas")
    assert len(specs) == 12
    categories = {}
    for name, spec in specs.items():
        categories.setdefault(spec.category, []).append(name)
    assert categories == {
        "planning": ["Plan", "Decompose"],
        "solving": ["Programmer", "Custom", "AnswerGenerate"],
        "verification": ["Test", "Review", "Verify"],
        "revision": ["Revise"],
        "ensemble": ["ScEnsemble", "Aggregate"],
        "formatting": ["Format"],
    }
    assert {name for name, spec in specs.items() if spec.is_check} == {"Test", "Review", "Verify"}
    assert {n for n, s in specs.items() if s.is_ensemble} == {"ScEnsemble", "Aggregate"}
    assert set(POOLS["base"]) | set(POOLS["search"]) | set(POOLS["canvas"]) | {"MdEnsemble"} == set(
        NAMES
    )


@pytest.mark.parametrize("name", PROMPTED)
def test_each_declared_operator_says_what_it_wants_and_takes_it(name):
    form = PROMPTED[name].node
    reply = {f.name: "true" if f.kind == "verdict" else f"the {f.name}" for f in form.fields}
    reply |= {"sub_problems": "1. one\n2. two"} if name == "Decompose" else {}
    reply |= {"answer": "B"} if name in ("ScEnsemble", "MdEnsemble") else {}
    text = "".join(f"<{key}>{content}</{key}>" for key, content in reply.items())
    table = Table(text)
    outcome = table.run(name, "4", "5", instruction="be very brief")
    assert outcome.error is None
    assert outcome.value.text
    prompt = table.backend.requests[0].prompt
    assert "2 + 2?" in prompt
    assert "be very brief" in prompt
    assert all(f"<{field.name}>" in prompt for field in form.fields)
    assert len(table.backend.requests) == PROMPTED[name].node_samples
    assert len(table.meter.calls) == PROMPTED[name].node_samples


@pytest.mark.parametrize("name", PROMPTED)
def test_a_reply_without_its_fields_is_asked_again_once_and_is_then_an_error(name):
    table = Table("I would rather not say")
    outcome = table.run(name, "4", "5")
    assert (outcome.value, outcome.error.code) == (None, "missing_field")
    samples = PROMPTED[name].node_samples
    assert len(table.backend.requests) == 2 * samples
    again = [request.prompt for request in table.backend.requests if "asked for." in request.prompt]
    assert len(again) == samples
    assert "I would rather not say" in again[0]


def test_the_second_reply_counts():
    table = Table("what?", "<answer>4</answer>")
    assert table.run("AnswerGenerate").value.text == "4"
    assert [call.status for call in table.meter.calls] == ["ok", "ok"]


def test_a_check_without_verdict_is_never_a_verdict():
    assert error("Review", "<feedback>looks good</feedback>", "4") == "missing_field"
    assert error("Verify", "<is_correct>maybe</is_correct><answer>4</answer>", "4") == (
        "missing_field"
    )


class Refusing:
    name = "refusing"

    async def complete(self, request):
        return Completion("I must not", status="refused")


def test_a_refusal_is_an_error_and_is_not_asked_again():
    meter = Meter()
    node = PromptedOperator(PROMPTED["Review"], Refusing())
    outcome = asyncio.run(node.run(NodeInput("p", previous=(Value("s"),)), SCOPE, meter))
    assert outcome.error.code == "refused"
    assert [call.status for call in meter.calls] == ["refused"]


def test_a_world_failure_is_raised():
    with pytest.raises(WorldFailureError):
        Table(WorldFailureError(StopReason.BACKEND_FAILED, "down")).run("Plan")


def test_the_budget_stops_before_the_call():
    table = Table("what?", "<answer>4</answer>")
    table.meter = Meter(Budget(calls=1))
    with pytest.raises(BudgetSpentError):
        table.run("AnswerGenerate")
    assert len(table.backend.requests) == 1


def test_the_instruction_leads_custom():
    table = Table("<answer>4</answer>")
    table.run("Custom", "a plan", instruction="count it")
    request = table.backend.requests[0]
    assert request.inputs == {"task": ("2 + 2?\n\na plan",), "instruction": ("count it",)}
    assert request.prompt.startswith("count it\n\n2 + 2?")
    assert request.prompt.count("count it") == 1


# --- planning and solving ---


def test_a_plan_has_steps():
    found = value("Plan", "<approach>add</approach><plan>1. add\n2. check</plan>")
    assert (found.kind, found.parts) == (ValueKind.PLAN, ("add", "check"))
    assert found.text == "add\n1. add\n2. check"


def test_a_decomposition_has_parts():
    found = value("Decompose", "<sub_problems>1. What is a?\n2) What is b?</sub_problems>")
    assert (found.kind, found.parts) == (ValueKind.SUB_PROBLEMS, ("What is a?", "What is b?"))
    assert error("Decompose", "<sub_problems>I cannot</sub_problems>") == "missing_field"


def test_several_answers_are_candidates():
    table = Table("<answer>4</answer>", "nothing", "<answer>5</answer>", "nothing")
    found = table.run("MultiAnswerGenerate", sample=2).value
    assert (found.kind, found.parts) == (ValueKind.CANDIDATES, ("4", "5"))
    assert {request.sample for request in table.backend.requests} == {6, 7, 8}


def test_an_answer_that_is_the_function_asked_for_is_a_program():
    code = "def f(x):\n    return x + 1"
    reply = f"<answer>```python\n{code}\n```</answer>"
    assert value("Custom", reply, scope=CODE_SCOPE).code == code
    assert value("Custom", reply).code == ""
    assert value("Custom", "<answer>4</answer>", scope=CODE_SCOPE).code == ""


# --- Programmer ---


def test_programmer_writes_and_runs():
    table = Table("<code>```python\nprint(4)\n```</code>", outcomes={"print(4)": "4"})
    outcome = table.run("Programmer", "a plan")
    assert outcome.value == Value("4", code="print(4)")
    request = table.backend.requests[0]
    assert request.inputs["analysis"] == ("a plan",)
    assert request.inputs["error"] == ()
    assert [call.backend for call in table.meter.calls] == ["fake", "sandbox"]


def test_programmer_repairs_what_fails():
    broken = Result(Status.ERROR, stderr="Traceback\nNameError: x\n")
    table = Table(
        *(f"<code>{code}</code>" for code in ("x", "y", "print(4)")),
        outcomes={"x": broken, "print(4)": "4"},
    )
    assert table.run("Programmer").value.text == "4"
    errors = [request.inputs["error"] for request in table.backend.requests]
    assert errors == [(), ("error: NameError: x",), ("the program printed nothing",)]
    assert "NameError: x" in table.backend.requests[1].prompt


def test_programmer_gives_up_after_three_programs():
    broken = Result(Status.TIMEOUT)
    table = Table("<code>loop</code>", outcomes={"loop": broken})
    outcome = table.run("Programmer")
    assert outcome.error.code == "program_failed"
    assert table.sandbox.programs == ["loop"] * 3


def test_a_megabyte_of_output_loses_its_middle():
    output = "a" * 500_000 + "b" * 500_000
    text = value_of_program(output).text
    assert (text[0], text[-1]) == ("a", "b")
    assert "980000 characters left out" in text
    assert len(text) < 21_000


def value_of_program(output):
    table = Table("<code>x</code>", outcomes={"x": Result(Status.PASSED, stdout=output)})
    return table.run("Programmer").value


def test_programmer_without_a_program():
    assert error("Programmer", "let me think") == "no_code"


def test_programmer_writes_the_function_that_is_asked_for():
    table = Table("So:\n```python\ndef f(x): return x\n```")
    outcome = table.run("Programmer", scope=CODE_SCOPE)
    assert outcome.value.text == outcome.value.code == "def f(x): return x"
    assert table.backend.requests[0].inputs["entry_point"] == ("f",)


def test_programmer_reads_why_the_program_before_it_failed():
    table = Table("<code>print(4)</code>", outcomes={"print(4)": "4"})
    table.run("Programmer", Value("5", code="print(5)", passed=False, feedback="5 is wrong"))
    inputs = table.backend.requests[0].inputs
    assert inputs["error"] == ("5 is wrong",)
    assert "print(5)" in inputs["analysis"][0]


# --- checks and revision ---


@pytest.mark.parametrize(
    ("name", "reply", "passed", "feedback"),
    [
        ("Review", "<review_result>false</review_result><feedback>no</feedback>", False, "no"),
        ("Review", "<review_result> Yes. </review_result><feedback>ok</feedback>", True, "ok"),
        (
            "Verify",
            "<is_correct>False</is_correct><answer>5</answer><confidence>high</confidence>",
            *(False, "my own answer is 5 (confidence high)"),
        ),
        (
            "Verify",
            "<is_correct>true</is_correct><answer>4</answer>",
            *(True, "my own answer is 4 (confidence low)"),
        ),
    ],
)
def test_a_check_passes_on_what_it_checked(name, reply, passed, feedback):
    solution = Value("4", code="print(4)", fields={"k": "v"})
    found = value(name, reply, solution)
    assert (found.text, found.code, found.fields["k"]) == ("4", "print(4)", "v")
    assert (found.passed, found.feedback) == (passed, feedback)


@pytest.mark.parametrize("name", ["Review", "Verify", "Revise", "Format", "Test"])
def test_what_needs_a_solution_asks_nobody_without_one(name):
    table = Table("x")
    assert table.run(name).error.code == "no_solution"
    assert table.backend.requests == []


def test_a_check_sees_the_program_behind_an_answer():
    table = Table("<review_result>true</review_result><feedback>ok</feedback>")
    table.run("Review", Value("4", code="print(4)"))
    assert table.backend.requests[0].inputs["solution"] == (
        "4\n\nIt came from this program:\n```python\nprint(4)\n```",
    )


def test_a_check_after_several_solutions_sees_them_all():
    table = Table("<review_result>true</review_result><feedback>ok</feedback>")
    found = table.run("Review", "4", "5").value
    assert table.backend.requests[0].inputs["solution"] == ("[1] 4\n\n[2] 5",)
    assert (found.kind, found.parts) == (ValueKind.CANDIDATES, ("4", "5"))


def test_revise_reads_the_feedback():
    table = Table("<answer>5</answer>")
    found = table.run("Revise", Value("4", passed=False, feedback="too small")).value
    assert table.backend.requests[0].inputs["feedback"] == ("too small",)
    assert found == Value("5", fields={"think": "", "answer": "5"})
    table.run("Revise", "4")
    assert table.backend.requests[1].inputs["feedback"] == ()


def test_a_revised_program_is_a_program():
    code = "def f(x):\n    return x + 1"
    found = value("Revise", f"<answer>```\n{code}\n```</answer>", Value("old", code="old"))
    assert found.text == found.code == code


# --- Test ---


def run_test(result, *previous, scope=CODE_SCOPE):
    table = Table(outcomes={"code": result})
    return table.run("Test", *previous, scope=scope)


def test_public_tests_decide():
    passed = Result(Status.PASSED, tests=(TestOutcome("passed", ""),) * 2)
    found = run_test(passed, Value("code", code="code")).value
    assert (found.text, found.passed) == ("code", True)
    assert found.feedback == "all 2 public tests passed"
    failed = Result(
        Status.FAILED, tests=(TestOutcome("passed", ""), TestOutcome("failed", "got 2"))
    )
    found = run_test(failed, Value("code", code="code")).value
    assert found.passed is False
    assert found.feedback == "1 of 2 public tests passed\nassert f(2) == 3: got 2"
    broken = Result(Status.ERROR, stderr="SyntaxError: x")
    found = run_test(broken, Value("code", code="code")).value
    assert found.feedback == "0 of 2 public tests passed\nerror: SyntaxError: x"


def test_without_tests_or_program_there_is_no_verdict():
    assert run_test(None, Value("4", code="code"), scope=SCOPE).error.code == "no_tests"
    assert run_test(None, "no code").error.code == "no_code_to_test"
    two = Value("a", code="a"), Value("b", code="b")
    assert run_test(None, *two).error.code == "no_code_to_test"


def test_an_absent_sandbox_is_a_fault_of_the_world():
    with pytest.raises(WorldFailureError):
        run_test(Result(Status.UNAVAILABLE, stderr="gone"), Value("code", code="code"))


def test_public_tests_run_in_the_real_sandbox(require):
    require("bubblewrap")
    scope = Scope("t", tests=("assert f(1) == 2", "assert f(5) == 6"), entry_point="f")

    async def verdicts():
        async with Sandbox(SandboxConfig(processes=1)) as sandbox:
            nodes = make_nodes(
                ("Test",),
                search=Search(SearchConfig(), MemoryIndex(())),
                sandbox=sandbox,
                backend=FakeBackend(),
            )
            programs = ("def f(x): return x + 1", "def f(x): return 2", "import sys; sys.exit(0)")
            values = [Value(code, code=code) for code in programs]
            runs = [nodes["Test"].run(NodeInput("", "", (v,)), scope, Meter()) for v in values]
            return [(await run).value for run in runs]

    found = asyncio.run(verdicts())
    assert [v.passed for v in found] == [True, False, False]
    assert "assert f(5) == 6" in found[1].feedback


# --- ensembles ---


def test_a_clear_vote_asks_nobody():
    table = Table("x")
    one, two = Value("4.0", code="one"), Value("4", code="two")
    assert table.run("ScEnsemble", "5", one, two).value == one
    assert table.run("Aggregate", "5", " 5. ", "4").value.text == "5"
    assert table.run("MdEnsemble", "4").value.text == "4"
    assert table.backend.requests == []


def test_a_tie_is_decided_by_letter_or_by_words():
    for answer in ("B", "b.", "(B)", "Rome", " rome. "):
        assert value("ScEnsemble", f"<answer>{answer}</answer>", "Oslo", "Rome").text == "Rome"
    assert error("ScEnsemble", "<answer>Paris</answer>", "Oslo", "Rome") == "missing_field"


def test_candidates_come_out_of_what_holds_several():
    several = Value("[1] a\n[2] b", ValueKind.CANDIDATES, parts=("a", "b"))
    table = Table("<answer>A</answer>")
    assert table.run("ScEnsemble", several, "c").value.text == "a"
    assert table.backend.requests[0].inputs["solution"] == ("a", "b", "c")
    assert error("ScEnsemble", "x") == "no_candidates"


def test_md_ensemble_shuffles_and_takes_the_majority():
    table = Table("<answer>Rome</answer>")
    assert table.run("MdEnsemble", "Oslo", "Rome", "Kiel").value.text == "Rome"
    orders = {request.inputs["solution"] for request in table.backend.requests}
    assert len(table.backend.requests) == 5
    assert len(orders) > 1
    table = Table("<answer>A</answer>")  # whoever stands first
    firsts = [0, 0, 0]
    chosen = table.run("MdEnsemble", "Oslo", "Rome", "Kiel").value.text
    for request in table.backend.requests:
        firsts[["Oslo", "Rome", "Kiel"].index(request.inputs["solution"][0])] += 1
    assert chosen == ["Oslo", "Rome", "Kiel"][firsts.index(max(firsts))]


def test_aggregate_puts_sub_answers_together():
    parts = Value("", ValueKind.SUB_ANSWERS, parts=("2", "3"), fields={"sub_problems": "a?\nb?"})
    table = Table("<answer>5</answer>")
    assert table.run("Aggregate", parts).value.text == "5"
    inputs = table.backend.requests[0].inputs
    assert (inputs["sub_problem"], inputs["solution"]) == (("a?", "b?"), ("2", "3"))
    assert "a?\n  2" in table.backend.requests[0].prompt


def test_format_keeps_the_program():
    found = value("Format", "<answer>4</answer>", Value("it is 4", code="c", passed=True))
    assert (found.text, found.code, found.passed) == ("4", "c", True)


def test_search_looks_up_the_prompt_or_the_problem():
    table = Table()
    assert "capital of Italy" in table.run("Search", instruction="Rome").value.text
    assert "capital of Italy" in table.run("Search", problem="Rome?").value.text
    assert table.run("Search", problem="Oslo?").value.text == "no results"


# --- votes, lists, programs ---


@pytest.mark.parametrize(
    ("answers", "winner"),
    [
        (["a"], 0),
        (["a", "b"], None),
        (["a", "b", "B "], 1),
        (["a", "b", "a", "b"], None),
        (["2", "2.00", "3"], 0),
        (["1,000", "1000", "x"], 0),
        (["", ""], 0),
        ([], None),
    ],
)
def test_votes(answers, winner):
    assert vote(answers) == winner


@given(st.lists(st.sampled_from(["a", "b", "c"])))
def test_a_vote_is_the_plurality(answers):
    counts = {a: answers.count(a) for a in answers}
    best = [a for a, count in counts.items() if count == max(counts.values())]
    clear = len(best) == 1 and (counts[best[0]] > 1 or len(counts) == 1)
    assert vote(answers) == (answers.index(best[0]) if clear else None)


@given(st.text())
def test_normal_answers_are_stable(text):
    assert normal(normal(text)) == normal(text)


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("1. a\n2. b", ("a", "b")),
        ("Step 1: a\nthen\n step 2) b ", ("a", "b")),
        ("- a", ()),
        ("", ()),
    ],
)
def test_numbered_lines(text, items):
    assert numbered_lines(text) == items


def test_numbered_lines_cost_linear_time():
    assert numbered_lines(" \t" * 300_000 + "1" * 300_000) == ()


@pytest.mark.parametrize("text", ["", "```", "```python", "```\nx", "x"])
def test_no_program(text):
    assert find_program(text) == ""


def test_fields():
    fields = (Field("a"), Field("b", "none"), Field("c", kind="verdict"))
    assert read_fields(fields, "<c>NO</c> <a> x </a>") == {"a": "x", "b": "none", "c": "false"}
    with pytest.raises(UnusableReplyError, match=r"<a>…</a>, <c>true or false</c>"):
        read_fields(fields, "<a> </a><c>perhaps</c>")


# --- a user's own operator, in one file ---

OWN = re.search(
    r"```python\n(# my_operators.*?)```",
    (Path(__file__).parents[1] / "docs/extending.md").read_text(encoding="utf-8"),
    re.DOTALL,
)[1]


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Writes a module of the user's and names it."""

    def write(text):
        (tmp_path / "my_operators.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        sys.modules.pop("my_operators", None)
        return "my_operators:TRANSLATE"

    yield write
    sys.modules.pop("my_operators", None)


def test_a_users_operator_works_in_both_worlds(own):
    pool = ("Plan", own(OWN))
    backend = FakeBackend("<plan>1. go</plan>", "<answer>bonjour</answer>")
    services = {"search": None, "sandbox": FakeSandbox(), "backend": backend}
    tools = make_pool(pool, **services)
    nodes = make_nodes(pool, **services)
    interpreter = Interpreter(nodes)
    execution = asyncio.run(interpreter.run(parse("Plan -> Translate"), "hello", SCOPE))
    assert execution.answer == "bonjour"
    assert asyncio.run(tools["Translate"].call("hello", SCOPE)).text == "French: bonjour"


def test_a_users_operator_is_found_by_its_entry_point(own, tmp_path):
    own(OWN)
    info = tmp_path / "my_operators-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-operators\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[wfr.operators]\nTranslate = my_operators:TRANSLATE\n")
    assert list(declarations(("Translate", "Plan"))) == ["Translate", "Plan"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<answer>…</answer>", "tags", r"my_operators\.py:6: operator 'Translate' never tells"),
        ("'content'", "'text'", r"reads an input which it is not given: 'text'"),
        ('usage="Translate: TEXT"', 'usage="Tr"', r"needs a usage that begins with 'Translate:'"),
        ('name="Translate"', 'name="until"', r"needs a name"),
        ('category="solving"', 'category=""', r"needs a category"),
        ("(ANSWER,)", "()", r"needs reply fields"),
        ("(ANSWER,)", "(ANSWER, ANSWER)", r"with different names"),
        ('usage="Translate: TEXT",', 'usage="Translate: TEXT", is_check=True,', r"kind 'verdict'"),
        ("    node=", "    samples=3,\n    node=", r"several samples at temperature 0"),
        ("TRANSLATE =", "OTHER =", r"my_operators:TRANSLATE' cannot be loaded"),
        ("TRANSLATE = Prompted(", "TRANSLATE = dict(", r"is a dict; declare it as Prompted"),
    ],
)
def test_an_inconsistent_operator_is_refused_with_file_and_line(own, old, new, message):
    assert old in OWN
    path = own(OWN.replace(old, new))
    with pytest.raises(LibraryError, match=message):
        declarations((path,))


def test_an_operator_declared_twice_is_refused_with_both_places():
    plan = LIBRARY["Plan"]
    with pytest.raises(LibraryError, match=r"planning\.py:\d+: operator 'Plan' is declared a sec"):
        collected([plan, plan])


def test_the_library_itself_is_consistent():
    for declaration in LIBRARY.values():
        check(declaration)
        assert declaration.where.partition(":")[0].endswith(".py")


def test_an_operator_that_is_not_there_is_named():
    with pytest.raises(LibraryError, match=r"does not know Serch; known: Search, Programmer"):
        declarations(("Serch",))
    with pytest.raises(LibraryError, match=r"no_such_module"):
        declarations(("no_such_module:X",))


def test_where_is_the_line_of_the_declaration(own):
    path = own(OWN)
    found = declarations((path,))["Translate"]
    file, _, line = found.where.rpartition(":")
    assert file.endswith("my_operators.py")
    assert "TRANSLATE" in OWN.splitlines()[int(line) - 1]
    assert isinstance(found, Prompted)
