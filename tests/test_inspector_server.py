"""The inspector's server: what it answers, whom it answers, and under which headers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from inspected_run import PAYLOADS, group_of, trajectory, write_run
from starlette.testclient import TestClient
from typer.testing import CliRunner

from cluster import cli
from cluster.inspector.run import InspectedRun
from cluster.inspector.server import HOST, application
from wfr.journal import Journal
from wfr.learner_config import LogprobsConfig
from wfr.trained_logprobs import TrainedLogprobs

ROOT = Path(__file__).resolve().parents[1]
STATIC = ROOT / "cluster" / "inspector" / "static"


@pytest.fixture
def run(tmp_path):
    """A run of two groups; group 1 has two siblings."""
    run = InspectedRun(
        write_run(
            tmp_path / "run",
            group_of(
                trajectory(1, 0, reward=1.0, task="t", texts=("<think>x</think>a", "b")),
                trajectory(1, 1, reward=0.0, task="t", texts=("<think>y</think>a",)),
            ),
            group_of(trajectory(2, version=3)),
            steps=[(2, [1])],
            config={
                "run": {"name": "<b>demo</b>"},
                "objective": {"advantage": "centred", "max_turn_lag": 0},
            },
        )
    )
    run.index.refresh()
    yield run
    run.index.close()


@pytest.fixture
def client(run):
    return TestClient(application(run), base_url=f"http://{HOST}")


def test_the_list(client):
    about = client.get("/api/run").json()
    assert (about["name"], about["trajectories"], about["groups"]) == ("<b>demo</b>", 3, 2)
    assert about["indexing"] is False
    found = client.get("/api/trajectories?order=best&count=1&start=0").json()
    assert (found["total"], [row["sibling"] for row in found["rows"]]) == (3, [0])
    assert client.get("/api/trajectories?operator=None").json()["total"] == 0


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("trajectories?order=random", 400, "order='random' is none of newest"),
        ("trajectories?reward_min=x", 400, "reward_min='x' is not a number"),
        ("trajectories?start=-1", 400, "start='-1' is not a whole number"),
        ("trajectories?count=٣", 400, "count"),
        ("group?group=9", 404, "no group '9'"),
        ("group", 400, "group is missing"),
        ("task?task=9", 404, "no task '9'"),
        ("trajectory?group=1&sibling=7", 404, "no trajectory '1'/7"),
        ("tokens?group=1&sibling=0&turn=5", 404, "has no turn 5"),
    ],
)
def test_what_cannot_be_is_refused_and_said(client, path, status, said):
    reply = client.get(f"/api/{path}")
    assert reply.status_code == status
    assert said in reply.json()["error"]


def test_a_trajectory(client):
    found = client.get("/api/trajectory?group=1&sibling=0").json()
    assert (found["advantage"], found["consumed"], found["siblings"]) == (0.5, 1, [0, 1])
    first, second = found["turns"]
    assert first["parts"] == [{"kind": "think", "text": "x"}, {"kind": "text", "text": "a"}]
    assert first["observed"] == [{"role": "tool", "content": "<info>i</info>"}]
    assert [(t["lag"], t["masked"]) for t in (first, second)] == [(1, True), (0, False)]
    assert [m["role"] for m in found["prompt"]] == ["system", "user"]
    assert found["calls"][0]["begin"] == 0.5
    assert found["canvas"] is None
    tokens = client.get("/api/tokens?group=1&sibling=0&turn=1").json()
    assert tokens["ids"] == [4, 5, 6]
    assert tokens["pieces"] == ["⟨4⟩", "⟨5⟩", "⟨6⟩"]
    assert tokens["version"] == [1, 1, -1]
    assert tokens["own"] == [True, True, False]
    assert tokens["ratio"] is None


def test_ratios_are_those_of_the_step_that_used_the_trajectory(client, run):
    kept = TrainedLogprobs(run.path, 0, LogprobsConfig(every=1))
    logp = np.log([1, 0.5, 1, 1, 0.25, 2]).astype(np.float32)
    logp[[1, 2, 4, 5]] -= 0.5  # the behaviour policy's log-prob of each token
    kept.add(["1/1", "1/0"], [3, 6], np.concatenate([np.zeros(3, np.float32), logp]))
    kept.write(1)
    ratios = [client.get(f"/api/tokens?group=1&sibling=0&turn={n}").json()["ratio"] for n in (0, 1)]
    assert ratios == [[0.5, 1.0, 1.0], [0.25, 2.0, 1.0]]
    assert client.get("/api/tokens?group=2&sibling=0&turn=0").json()["ratio"] is None, "not used"


def test_a_group_a_task_and_a_comparison(client):
    group = client.get("/api/group?group=1").json()
    assert [row["advantage"] for row in group["rows"]] == [0.5, -0.5]
    assert len(client.get("/api/task?task=t").json()["rows"]) == 2
    query = "a_group=1&a_sibling=0&b_group=1&b_sibling=1"
    turns = client.get(f"/api/compare?{query}").json()["turns"]
    assert ["removed", "x"] in turns[0]["text"]
    assert ["added", "y"] in turns[0]["text"]
    assert turns[1]["text"] == [["removed", "b"]]


def test_an_export_is_the_whole_trajectory(client):
    reply = client.get("/api/export?group=1&sibling=1")
    assert "attachment" in reply.headers["content-disposition"]
    found = reply.json()
    assert found["tokens"] == [0, 1, 2, 3]
    assert found["reward_parts"] == {"correct": 1.0}
    assert found["turns"][0]["start"] == 1
    assert found["consumed"] == 1


def test_every_answer_has_the_headers(client):
    for path in ("/", "/static/app.js", "/api/run", "/api/group?group=9", "/nothing"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; ")
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


def test_only_its_own_name_and_only_with_the_key(run, client):
    assert client.get("/api/run", headers={"Host": "evil.example"}).status_code == 400
    keyed = TestClient(application(run, "secret"), base_url=f"http://{HOST}")
    assert keyed.get("/api/run").status_code == 403
    assert keyed.get("/?key=wrong").status_code == 403
    assert keyed.get("/?key=secret", follow_redirects=False).headers["location"] == "/"
    assert keyed.get("/api/run").status_code == 200
    cookie = keyed.cookies.jar
    assert [c.has_nonstandard_attr("HttpOnly") for c in cookie] == [True]


@pytest.mark.parametrize("path", ["/static/../server.py", "/static/%2e%2e/server.py"])
def test_no_other_file_is_served(client, path):
    assert client.get(path).status_code == 404


def test_nothing_is_loaded_from_elsewhere_and_no_text_becomes_markup():
    scripts = {path.name: path.read_text() for path in STATIC.glob("*.js")}
    for name, text in scripts.items():
        for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert sink not in text, (name, sink)
    everything = "".join(path.read_text() for path in STATIC.iterdir())
    addresses = everything.count("http://") + everything.count("https://")
    assert addresses == everything.count("http://www.w3.org/2000/svg")
    assert "url(" not in everything.replace("url(#arrow)", "")
    assert "style=" not in everything
    assert "onclick=" not in everything


def test_a_compacted_group_is_said_to_be_gone(client, tmp_path):
    for path in (tmp_path / "run" / "journal").glob("*/*"):
        path.unlink()
    assert client.get("/api/trajectories").json()["total"] == 3
    reply = client.get("/api/trajectory?group=1&sibling=0")
    assert reply.status_code == 404
    assert "compacted" in reply.json()["error"]


def test_payloads_arrive_as_text(tmp_path):
    batches = [
        group_of(trajectory(n, task=text, texts=(text,), seen=text, answer=text, question=text))
        for n, text in enumerate(PAYLOADS)
    ]
    run = InspectedRun(write_run(tmp_path / "run", *batches))
    run.index.refresh()
    client = TestClient(application(run), base_url=f"http://{HOST}")
    for number, text in enumerate(PAYLOADS):
        reply = client.get(f"/api/trajectory?group={number}&sibling=0")
        assert reply.headers["content-type"] == "application/json"
        assert reply.json()["answer"] == text
        task = client.get("/api/task", params={"task": text}).json()
        assert task["rows"][0]["question"] == text
    run.index.close()


@pytest.mark.engine  # for its time
def test_it_follows_a_run_in_progress(client, tmp_path):
    with client:  # starts the thread that follows the journal
        with Journal(tmp_path / "run" / "journal" / "worker-9") as journal:
            journal.append(group_of(trajectory(50)))
        asked = 0
        while client.get("/api/trajectories?text=task-50").json()["total"] == 0:
            asked += 1
            assert asked < 20_000


@pytest.mark.engine  # for its time
def test_the_command_serves_until_interrupted(tmp_path):
    run = write_run(tmp_path / "run", group_of(trajectory(1)))
    command = [sys.executable, "-m", "cluster.cli", "inspect", str(run), "--port", "0"]
    with subprocess.Popen(
        [*command, "--no-browser"], cwd=ROOT, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:  # fmt: skip
        address = process.stdout.readline().strip()
        assert address.startswith(f"http://{HOST}:")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) in (0, 130, -signal.SIGINT)


def test_the_command_refuses_what_it_cannot_do(tmp_path):
    call = CliRunner().invoke
    refused = call(cli.app, ["inspect", str(tmp_path / "nothing")])
    assert refused.exit_code == 2
    assert "no such directory" in refused.stderr
    refused = call(cli.app, ["inspect", str(write_run(tmp_path / "run")), "--json"])
    assert refused.exit_code == 2
    assert "--sql" in refused.stderr
