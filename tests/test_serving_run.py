"""`wfr serve` with a real engine behind Ray Serve."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading

import httpx
import hypothesis
import openai
import psutil
import pytest
import schemathesis
from schemathesis import checks as schema_checks
from served import sse

from cluster.ports import free_port
from wfr.config import parse_config

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]

SECTIONS = {
    "run": {"name": "served"},
    "model": {"max_length": 512},
    "tasks": {"format": "lookup_world", "eval_tasks": 6},
    "environment": {
        "prompt": "question",
        "pool": ["Search"],
        "max_response_tokens": 256,
        "max_turn_tokens": 24,
        "max_turns": 4,
    },
    "sampler": {"max_num_seqs": 16},
    "serving": {"canary": {"workflows": 0}, "poll_s": 0.2, "drain_s": 30, "temperature": 1.0},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory with one checkpoint of an untrained tiny director."""
    from learner import tiny

    path = tmp_path_factory.mktemp("runs") / "served"
    sections = {**SECTIONS, "run": {"name": "served", "dir": str(path.parent)}}
    config = parse_config(sections)
    tiny.save(*tiny.make(config), path / "checkpoints" / "1")
    (path / "config.json").write_text(config.model_dump_json())
    return path


@contextlib.contextmanager
def serving(*arguments):
    """`wfr serve` in a process; yields its URL and the process."""
    port = free_port()
    command = [sys.executable, "-m", "cluster.cli", "serve", *map(str, arguments)]
    command += ["--set", f"serving.port={port}"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            said = []
            for line in process.stdout:
                said.append(line)
                if "answers; Ctrl-C" in line:
                    break
            else:
                pytest.fail("".join(said))
            yield f"http://127.0.0.1:{port}", process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def service(run):
    """A service that follows the run; ended in order when the module is done."""
    with serving("--follow", run) as (url, process):
        yield url
        before = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        _, alive = psutil.wait_procs(before, 30)
        assert alive == []


def test_the_official_client(service):
    client = openai.OpenAI(base_url=f"{service}/v1", api_key="none")
    messages = [{"role": "user", "content": "Ada Lang's job?"}]
    raw = client.chat.completions.create(
        model="director", messages=messages, max_tokens=5, temperature=1.0
    )
    assert raw.usage.completion_tokens <= 5
    chunks = list(
        client.chat.completions.create(
            model="director", messages=messages, max_tokens=5, stream=True
        )
    )
    assert chunks[-1].choices[0].finish_reason in ("length", "stop")
    text = client.completions.create(model="director", prompt="Ada Lang", max_tokens=3)
    assert text.object == "text_completion"
    whole = client.chat.completions.create(model="director:workflow", messages=messages)
    assert whole.choices[0].finish_reason in ("length", "stop")
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="unknown", messages=messages)


def test_a_workflow_streams(service):
    with httpx.Client(base_url=service, timeout=60) as client:
        body = {"question": "Ada Lang's job?", "stream": True, "budgets": {"turns": 2}}
        answer = client.post("/v1/workflows", json=body)
        told = sse(answer.text)
        assert told[0][0] == "workflow"
        assert told[-1][0] == "result"
        written = "".join(d["text"] for n, d in told if n == "token" and d["turn"] == 0)
        text = told[-1][1]["turns"][0]["text"]
        half = "\ufffd"  # of a character that was never finished
        assert text.rstrip(half) == written.removesuffix("<|im_end|>").rstrip(half)
        assert answer.headers["x-policy-version"] == str(told[0][1]["policy_version"])


def test_a_client_that_leaves_frees_its_place(service):
    with httpx.Client(base_url=service, timeout=60) as client:
        body = {"question": "x", "stream": True}
        with client.stream("POST", "/v1/workflows", json=body) as answer:
            next(answer.iter_lines())
        running = 'wfr_serving_running{kind="workflow"'
        while True:
            lines = client.get("/metrics").text.splitlines()
            if all(line.endswith(" 0.0") for line in lines if line.startswith(running)):
                break


def test_no_request_of_the_document_is_answered_by_a_5xx(service):
    """schemathesis makes up requests from the OpenAPI document, sensible ones and others."""
    schema = schemathesis.openapi.from_url(f"{service}/openapi.json")

    for operation in schema.get_all_operations():

        @hypothesis.given(operation.ok().as_strategy())
        @hypothesis.settings(
            max_examples=10,
            deadline=None,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        def check(case):
            case.call_and_validate(checks=[schema_checks.not_a_server_error], timeout=60)

        check()


@pytest.mark.soak
def test_a_newer_version_takes_over_under_load(service, run):
    """Nothing fails, nothing is mixed, and the old engine ends."""
    results, stop = [], threading.Event()

    async def ask(client):
        while not stop.is_set():
            body = {"question": "Ada Lang's job?", "budgets": {"turns": 2}}
            answer = await client.post("/v1/workflows", json=body)
            results.append((answer.status_code, answer.headers["x-policy-version"]))

    async def main():
        async with httpx.AsyncClient(base_url=service, timeout=120) as client:
            asking = [asyncio.create_task(ask(client)) for _ in range(4)]
            while len(results) < 8:
                await asyncio.sleep(0.01)
            shutil.copytree(run / "checkpoints" / "1", run / ".2")
            os.rename(run / ".2", run / "checkpoints" / "2")
            while not results or results[-1][1] != "2":
                await asyncio.sleep(0.01)
            seen = len(results)
            while len(results) < seen + 8:
                await asyncio.sleep(0.01)
            stop.set()
            await asyncio.gather(*asking)

    asyncio.run(main())
    assert {status for status, _ in results} == {200}
    assert {version for _, version in results} == {"1", "2"}
    with httpx.Client(base_url=service) as client:
        assert client.get("/v1/models").json()["data"][0]["version"] == 2


@pytest.mark.soak
def test_what_runs_at_the_end_is_finished(run):
    """SIGTERM while a workflow is under way: it is answered, and the process ends with 0."""
    long = ["--set", "environment.max_turn_tokens=200"]
    with serving("--policy", run, *long) as (url, process):
        with httpx.Client(base_url=url, timeout=60) as client:
            body = {"question": "x", "stream": True}
            with client.stream("POST", "/v1/workflows", json=body) as answer:
                lines = answer.iter_lines()
                next(lines)
                process.send_signal(signal.SIGTERM)
                text = "\n".join(lines)
        assert sse(text)[-1][0] == "result"
        assert process.wait(90) == 0


def replicas(service):
    """The processes of a service's replicas."""
    found = []
    for each in psutil.Process(service.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has just ended
            if "ServeReplica" in "".join(each.cmdline()):
                found.append(each)
    return found


@pytest.mark.soak
def test_a_replica_that_is_killed_costs_what_it_was_answering_and_no_more(run):
    """kill -9 of one of two replicas under load; another one takes its place."""
    clients, statuses = 4, []
    with serving("--policy", run, "--set", "serving.replicas=2") as (url, process):

        async def ask(client, stop):
            while not stop.is_set():
                body = {"question": "Ada Lang's job?", "budgets": {"turns": 2}}
                try:
                    answer = await client.post("/v1/workflows", json=body)
                    statuses.append(answer.status_code)
                except httpx.HTTPError:
                    statuses.append(0)

        async def main():
            stop = asyncio.Event()
            async with httpx.AsyncClient(base_url=url, timeout=120) as client:
                asking = [asyncio.create_task(ask(client, stop)) for _ in range(clients)]
                while len(statuses) < 20:
                    await asyncio.sleep(0.01)
                victim, survivor = replicas(process)
                engine = victim.children(recursive=True)
                victim.kill()
                while len(replicas(process)) < 2 or victim in replicas(process):
                    await asyncio.sleep(0.5)
                ready = set()
                while len(ready - {""}) < 2:
                    text = (await client.get("/metrics")).text
                    ready = {
                        line.split('replica="')[1].split('"')[0]
                        for line in text.splitlines()
                        if line.startswith("wfr_serving_policy_version{")
                    }
                    await asyncio.sleep(0.5)
                stop.set()
                await asyncio.gather(*asking)
                assert survivor.is_running()
                _, outlived = await asyncio.to_thread(psutil.wait_procs, engine, 30)
                assert outlived == []

        asyncio.run(main())
        failed = [status for status in statuses if status != 200]
        assert len(failed) <= clients, failed
        process.send_signal(signal.SIGTERM)
        assert process.wait(90) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name one of"),
        (["--policy", "nowhere"], "neither a run directory nor a checkpoint"),
        (["--follow", "nowhere"], "has not written a checkpoint"),
    ],
)
def test_bad_arguments_are_refused_before_anything_starts(arguments, said):
    command = [sys.executable, "-m", "cluster.cli", "serve", "up", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert said in done.stderr.replace("\n", " ")
