"""The import table of the architecture, enforced on the syntax trees of every package."""

from __future__ import annotations

import ast
import configparser
import graphlib
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("wfr", "actors", "learner", "cluster")

_WFR = {
    "aiohttp",
    "bm25s",
    "diskcache",
    "httpx2",
    "math_verify",
    "numpy",
    "openai",
    "prometheus_client",
    "pyarrow",
    "pydantic",
    "sympy",
    "tenacity",
    "wfr",
    "xxhash",
    "yaml",
}
_EVERYTHING = {"wfr", "actors", "learner", "cluster", "benchmarks", "tests"}

# What a package may import anywhere in it, besides the standard library.
ALLOWED = {
    "wfr": _WFR,
    "actors": _WFR | {"actors", "msgspec"},
    "learner": _WFR | {"learner", "peft", "safetensors", "tokenizers", "torch", "transformers"},
    "cluster": _WFR
    | {"actors", "cluster", "learner"}
    | {"duckdb", "fastapi", "packaging", "psutil", "ray", "rich", "starlette", "tokenizers"}
    | {"torch", "transformers", "typer", "uvicorn"},
}

# What single files may import on top: the one place that knows an engine.
EXCEPTIONS = {
    "actors/chat_server.py": {"vllm"},
    "actors/cpu_engine.py": {"vllm"},
    "actors/director_server.py": {"vllm"},
    "actors/engine_death.py": {"vllm"},
    "actors/sampler.py": {"vllm"},
    "actors/sampling_params.py": {"vllm"},
    "actors/gloo_transfer.py": {"vllm", "torch"},
    "actors/checked_transfer.py": {"vllm", "torch"},
    "actors/render.py": {"transformers"},
    "learner/engine.py": {"deepspeed"},
    "learner/logprob_kernels.py": {"triton"},
    "wfr/tasks/hub.py": {"datasets"},
    "cluster/checkpoint_store.py": {"fsspec"},
    "cluster/trackers.py": {"mlflow", "tensorboard", "wandb"},
    "learner/publisher.py": {"vllm.distributed.weight_transfer", "vllm.config"},
}
# Files that run in the sandbox see the standard library and each other, and nothing else.
BEHIND_THE_WALL = "wfr/sandbox/inside/"
SIBLINGS = {path.stem for path in (ROOT / BEHIND_THE_WALL).glob("*.py")}


def sources(*packages: str) -> list[Path]:
    return sorted(path for package in packages for path in (ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sources(*PACKAGES)}


def imports(tree: ast.AST) -> Iterator[str]:
    """Every dotted name that a tree imports: `from a import b` yields `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"relative import, line {node.lineno}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            first = node.args[0]
            if isinstance(first, ast.Constant):
                yield str(first.value)


def is_under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def faults(path: str, source: str) -> list[str]:
    """The imports of a file that the table forbids."""
    package = path.split("/")[0]
    allowed = ALLOWED[package] | EXCEPTIONS.get(path, set()) | sys.stdlib_module_names
    if path.startswith(BEHIND_THE_WALL):
        allowed = SIBLINGS | {"wfr.sandbox.inside"} | sys.stdlib_module_names
    return [
        name
        for name in imports(ast.parse(source))
        if not any(is_under(name, prefix) for prefix in allowed)
    ]


@pytest.mark.parametrize("path", MODULES.values(), ids=MODULES)
def test_imports_follow_the_table(path):
    relative = path.relative_to(ROOT).as_posix()
    assert not faults(relative, path.read_text()), f"{relative} imports what its layer may not"


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("wfr/buffer.py", "import torch"),
        ("wfr/sandbox/inside/trial.py", "from wfr.config import Config"),
        ("wfr/sandbox/inside/trial.py", "import numpy"),
        ("wfr/buffer.py", "from learner.learner import Learner"),
        ("wfr/buffer.py", "importlib.import_module('ray')"),
        ("actors/rollout.py", "from vllm import SamplingParams"),
        ("actors/rollout.py", "def f():\n    import ray"),
        ("actors/worker.py", "from learner import publisher"),
        ("learner/publisher.py", "from vllm import LLM"),
        ("learner/packing.py", "import deepspeed"),
        ("cluster/cli.py", "import benchmarks"),
        ("cluster/cli.py", "from tests import conftest"),
    ],
)
def test_the_table_refuses(path, line):
    assert len(faults(path, line)) == 1


def edges(path: Path) -> set[str]:
    """Our modules that a file imports at run time, inside functions too."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            node.body = []
    names = (name if name in MODULES else name.rpartition(".")[0] for name in imports(tree))
    return {name for name in names if name in MODULES and MODULES[name] != path}


def check_acyclic(graph: dict[str, set[str]]) -> None:
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail("import cycle: " + " -> ".join(error.args[1][::-1]))


def test_modules_import_one_way():
    check_acyclic({name: edges(path) for name, path in MODULES.items()})


def test_subpackages_import_one_way():
    def unit(module: str) -> str:
        return ".".join(module.split(".")[:2])

    graph: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        graph.setdefault(unit(name), set()).update(unit(other) for other in edges(path))
    check_acyclic({name: others - {name} for name, others in graph.items()})


def test_cycle_is_found():
    with pytest.raises(pytest.fail.Exception, match=r"(a -> b -> a)|(b -> a -> b)"):
        check_acyclic({"a": {"b"}, "b": {"a"}})


def ray_decorated(source: str) -> Iterator[ast.AST]:
    """Classes and functions that carry `@ray.remote`, with or without options."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            decorators = (ast.unparse(item) for item in node.decorator_list)
            if any(re.match(r"(ray\.)?remote\b", text) for text in decorators):
                yield node


@pytest.mark.parametrize("path", MODULES.values(), ids=MODULES)
def test_decorated_at_the_edge(path):
    inside = path.is_relative_to(ROOT / "cluster")
    for node in ray_decorated(path.read_text()):
        assert inside, f"{path.name}:{node.lineno}: @ray.remote outside cluster/"
        assert not isinstance(node, ast.ClassDef), f"{path.name}:{node.lineno}: host it instead"


def test_ray_decorator_is_found():
    source = "@ray.remote(num_cpus=1)\nclass A: ...\n@remote\ndef f(): ...\n@other\ndef g(): ..."
    assert len(list(ray_decorated(source))) == 2


def test_each_package_has_its_own_docstring():
    docstrings = {
        path: ast.get_docstring(ast.parse(path.read_text()))
        for path in sources(*PACKAGES, "benchmarks")
        if path.name == "__init__.py"
    }
    assert all(docstrings.values()), docstrings
    assert len(set(docstrings.values())) == len(docstrings), docstrings


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(delimiters=("=",))
    parser.read(ROOT / "setup.cfg")
    return parser


def test_every_package_is_installed():
    listed = set(setup_cfg()["options"]["packages"].split())
    found = {module_name(p) for p in sources(*PACKAGES) if p.name == "__init__.py"}
    folders = {module_name(p / "__init__.py") for p in {q.parent for q in sources(*PACKAGES)}}
    assert listed == found == folders


def test_every_import_is_declared():
    config = setup_cfg()
    texts = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    declared = {
        canonicalize_name(Requirement(line).name) for t in texts for line in t.split("\n") if line
    }
    owners = metadata.packages_distributions()
    used = {
        name.split(".")[0]
        for path in MODULES.values()
        for name in imports(ast.parse(path.read_text()))
    }
    third_party = used - sys.stdlib_module_names - _EVERYTHING - SIBLINGS - {"triton", "vllm"}
    missing = {
        name
        for name in third_party
        if not declared & {canonicalize_name(owner) for owner in owners.get(name, (name,))}
    }
    assert not missing, f"imported, but not in setup.cfg: {sorted(missing)}"
