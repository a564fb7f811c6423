"""DS-1000 (Lai et al., arXiv 2211.11501): the candidate is inserted into its row's own context.

A row's `code_context` defines `test_execution(solution)`, and sometimes `test_string(solution)`,
which raise where the solution is wrong. They execute it themselves, so candidate and test share an
interpreter: a program that looks for the verdict's mark among its callers could forge it, which no
other grader here allows. Ending early, printing and catching do not pass for success.
"""

from __future__ import annotations

import ast
import secrets
from collections.abc import Iterator

from wfr.grading.base import Gradable, Grade
from wfr.grading.programs import Runner, check_world
from wfr.sandbox import Status
from wfr.trajectory import StopReason, WorldFailureError

_PROGRAM = """\
import os
for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
os.environ["MPLBACKEND"] = "Agg"
def _passed(mark=input()):
    print("\\n" + mark)
{context}
_solution = {solution!r}
test_execution(_solution)
if "test_string" in globals():
    test_string(_solution)
_passed()
"""
_MISSING = """\
import importlib.util
[name for name in {modules!r} if importlib.util.find_spec(name) is None]
"""


async def ds1000(runner: Runner, task: Gradable, program: str) -> Grade:
    """Whether a program passes the tests of its row.

    Raises:
        WorldFailureError: there is no sandbox, or the row needs a package that programs cannot
            import there.
    """
    (context,) = task.tests
    await _check_packages(runner, task, context)
    mark = secrets.token_hex(16)
    result = await runner.run(_PROGRAM.format(context=context, solution=program), stdin=f"{mark}\n")
    check_world(task, result)
    last_line = result.stdout.rstrip().rpartition("\n")[2]
    return Grade(float(result.status == Status.PASSED and last_line == mark))


async def _check_packages(runner: Runner, task: Gradable, context: str) -> None:
    modules = sorted(set(_imported(context)))
    result = await runner.run(_MISSING.format(modules=modules))
    check_world(task, result)
    missing = ast.literal_eval(result.value or "[]")
    if missing:
        raise WorldFailureError(
            StopReason.SANDBOX_UNAVAILABLE,
            f"task {task.id!r} needs {', '.join(missing)}, which programs cannot import in the "
            "sandbox; install it in this environment and set sandbox.packages=true (and "
            "sandbox.memory_mib to 2048 or more)",
        )


def _imported(source: str) -> Iterator[str]:
    """Top-level packages that a context imports, those of programs in its strings too."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Constant) and "import " in str(node.value):
            yield from _imported(str(node.value))
