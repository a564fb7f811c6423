"""The inspector in a real Chromium: its pages draw, keys work, and nothing a model wrote acts."""

from __future__ import annotations

import contextlib
import math
import shutil
import socket
import threading
from urllib.parse import quote, urlencode

import numpy as np
import pytest
import uvicorn
from inspected_run import PAYLOADS, group_of, trajectory, write_run

from cluster.inspector.run import InspectedRun
from cluster.inspector.server import HOST, application
from wfr.journal import Journal
from wfr.learner_config import LogprobsConfig
from wfr.trained_logprobs import TrainedLogprobs
from wfr.trajectory import OperatorCall, StopReason

pytestmark = pytest.mark.engine  # of browsers

ADD = "<think>{0}</think><action>add</action><operator>{1}</operator><prompt>{0}</prompt>"


@contextlib.contextmanager
def served(run):
    """The address of a run's inspector, for as long as it is served by a thread of this process."""
    listener = socket.create_server((HOST, 0))
    config = uvicorn.Config(application(InspectedRun(run), "key"), log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://{HOST}:{listener.getsockname()[1]}/?key=key"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture(scope="module")
def chromium(require):
    require("chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        yield browser
        browser.close()


class Reader:
    """A tab of the inspector that notes whatever a page must not do."""

    def __init__(self, browser, address, **options):
        self.page = browser.new_page(**options)
        self.page.set_default_timeout(60_000)
        self.base, self.faults = address.partition("?")[0], []
        self.page.on("console", lambda message: self.faults.append(f"console: {message.text}"))
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: self.faults.append("dialog") or dialog.dismiss())
        self.page.on("request", self._note)
        self.page.goto(address)
        self.drawn("#/")

    def _note(self, request):
        if not request.url.startswith(self.base):
            self.faults.append(f"request: {request.url}")

    def drawn(self, where):
        self.page.wait_for_function(
            "w => document.querySelector('main').dataset.drawn === w", arg=where
        )

    def open(self, page, **values):
        where = f"#/{page}?{urlencode(values, quote_via=quote)}"
        self.page.evaluate("w => { location.hash = w; }", where)
        self.drawn(where)
        return self.text()

    def text(self):
        return self.page.inner_text("main")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A canvas run in which every text that a model, a task or a tool can write is a payload."""
    batches = []
    for number, text in enumerate(PAYLOADS):
        rows = [
            trajectory(
                f"{number}{text}", sibling, task=f"task {number} {text}", version=sibling,
                texts=(ADD.format(text, "Plan"), text, ADD.format(text, "Custom")),
                seen=text, question=text, answer=text, source=text, error=text,
                reward=float(sibling), reward_parts={text: 1.0},
                operator_calls=[
                    OperatorCall(text, text, 0.5, status=text, turn=0, ended_at=101.0),
                    OperatorCall("Custom", "b", 1.5, turn=2, ended_at=103.0, cache_hit=True),
                ],
            )
            for sibling in range(2)
        ]  # fmt: skip
        batches.append(group_of(*rows))
    failed = trajectory(
        "lost", texts=(), stop_reason=StopReason.SAMPLER_FAILED, reward=float("nan"), messages=[]
    )
    path = tmp_path_factory.mktemp("inspected") / "run"
    kept = TrainedLogprobs(path, 0, LogprobsConfig(every=1))
    kept.add([f"0{PAYLOADS[0]}/0"], [9], np.full(9, math.log(3) - 0.5, np.float32))  # ratio 3
    write_run(
        path,
        *batches,
        group_of(failed),
        steps=[(2, [f"{number}{text}" for number, text in enumerate(PAYLOADS)])],
        config={"run": {"name": PAYLOADS[0]}, "environment": {"kind": "canvas"}},
        summary={"status": PAYLOADS[1]},
    )
    kept.write(1)
    return path


@pytest.fixture(scope="module")
def address(run):
    with served(run) as found:
        yield found


@pytest.fixture
def reader(chromium, address):
    reader = Reader(chromium, address)
    yield reader
    reader.page.close()
    assert reader.faults == []


def visible(text):
    """A text as a browser shows it, for comparisons."""
    return text.split("\u2028")[0].replace("\x00", "").strip()


def test_payloads_are_text_on_every_page(reader):
    page = reader.page
    assert PAYLOADS[0] in page.inner_text("#run")
    for number, text in enumerate(PAYLOADS):
        key = {"group": f"{number}{text}", "sibling": 1}
        pages = [("trajectory", key)]
        if number % 4 == 0:
            other = {"a_group": key["group"], "a_sibling": 0, "b_group": key["group"]}
            pages += [
                ("", {"text": f"task {number}"}),
                ("group", {"group": key["group"]}),
                ("task", {"task": f"task {number} {text}"}),
                ("compare", {**other, "b_sibling": 1}),
            ]
        for name, values in pages:
            shown = reader.open(name, **values)
            assert visible(text) in shown.replace("\ufffd", "").replace("\x00", ""), (name, text)
    reader.open("trajectory", **key, show="logprob")
    page.wait_for_selector(".tokens span.own, .tokens span.lp1")
    assert page.evaluate("window.owned") is None
    assert page.title() != "owned"
    unknown = page.evaluate(
        "[...document.querySelectorAll('script, iframe, img, object, embed, base, style, link')]"
        ".map(e => e.outerHTML).filter(h => !/static\\/(app.js|style.css|icon.svg)/.test(h))"
    )
    assert unknown == []
    assert page.evaluate(
        "[...document.querySelectorAll('[href]')].map(e => e.getAttribute('href'))"
        ".every(h => /^(#\\/|#main|\\/api\\/export|\\/static\\/)/.test(h))"
    )
    handlers = "e => [...e.attributes].some(a => a.name.startsWith('on'))"
    assert not page.evaluate(f"[...document.querySelectorAll('*')].some({handlers})")


def test_the_policy_holds_against_the_page_itself(chromium, address):
    reader = Reader(chromium, address)
    refused = reader.page.evaluate(
        "() => { try { document.body.innerHTML = '<p>x</p>'; return false; }"
        " catch (error) { return error instanceof TypeError; } }"
    )
    assert refused
    violated = reader.page.evaluate(
        "() => new Promise((resolve) => {"
        " addEventListener('securitypolicyviolation', (e) => resolve(e.effectiveDirective));"
        " const image = document.createElement('img'); image.src = 'http://127.0.0.1:9/x.png';"
        " document.body.append(image); })"
    )
    assert violated == "img-src"
    reader.page.close()


def test_filters_pages_and_keys(reader):
    page = reader.page
    assert "of 25" in reader.text()
    page.keyboard.press("/")
    page.keyboard.type("task 3")
    page.keyboard.press("Enter")
    reader.drawn("#/?text=task+3&order=newest")
    assert "1 to 2 of 2" in reader.text()
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    assert page.evaluate("document.activeElement.textContent").endswith("/1")
    page.keyboard.press("Enter")
    page.wait_for_selector("h1:has-text('Trajectory')")
    page.keyboard.press("[")
    page.wait_for_function("() => document.querySelector('h1').textContent.endsWith('/0')")
    page.go_back()
    page.wait_for_function("() => document.querySelector('h1').textContent.endsWith('/1')")
    reader.open("", stop_reason="sampler_failed")
    assert "1 to 1 of 1" in reader.text()
    reader.open("trajectory", group="lost", sibling=0)
    assert "ended before its first turn" in reader.text()
    reader.open("", text="nothing like it")
    assert "No trajectory passes this filter" in reader.text()
    reader.open("nonsense")
    assert "There is no page" in reader.text()


def test_the_canvas_grows_with_the_slider(reader):
    page = reader.page
    reader.open("trajectory", group=f"0{PAYLOADS[0]}", sibling=0, turn=0)
    assert page.locator("svg rect.operator").count() == 1
    slider = page.get_by_label("After turn (0 to 2)")
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator("svg rect.operator").count() == 2
    assert page.locator("svg rect.new").count() == 1
    assert page.locator("article.current").get_attribute("id") == "turn-2"
    assert "turn=2" in page.url  # the address leads back here
    assert page.locator("svg text").all_text_contents()[0] == "Plan"
    bars = page.locator(".track > span").evaluate_all("b => b.map(x => x.style.left)")
    assert bars == ["12.5%", "37.5%"]


def test_siblings_stand_side_by_side(reader):
    page = reader.page
    shown = reader.open("group", group=f"5{PAYLOADS[5]}")
    assert "advantage\n-0.707" in shown
    assert "advantage\n+0.707" in shown
    left, right = (article.bounding_box() for article in page.locator("article").all())
    assert left["y"] == right["y"]
    summary = page.locator("article").nth(1).locator("summary").first
    summary.focus()
    page.keyboard.press("Enter")
    assert PAYLOADS[5] in page.locator("article").nth(1).locator("details").first.inner_text()


def test_tokens_are_coloured_and_walked_over(reader):
    page = reader.page
    reader.open("trajectory", group=f"0{PAYLOADS[0]}", sibling=0)
    for mode, kind in (("logprob", "lp1"), ("ratio", "r6"), ("version", "v0"), ("mask", "own")):
        page.get_by_label("Show").select_option(mode)
        page.wait_for_selector(f".tokens span.{kind}")
    box = page.get_by_label("Tokens of turn 1")
    box.focus()
    page.keyboard.press("ArrowRight")
    told = page.locator("#turn-1 .told").inner_text()
    assert "log p -0.5" in told
    assert "ratio 3" in told
    assert "show=mask" in page.url


def test_an_export_is_a_file(reader):
    reader.open("trajectory", group=f"4{PAYLOADS[4]}", sibling=1)
    with reader.page.expect_download() as download:
        reader.page.get_by_text("Export JSON").click()
    assert download.value.suggested_filename == "trajectory.json"


_UNLABELLED = """
[...document.querySelectorAll('input, select, button, a, [tabindex="0"], svg[role]')].filter(e =>
  !(e.labels?.length || e.getAttribute('aria-label') || e.textContent.trim())
).map(e => e.outerHTML)
"""
_CONTRASTS = """
() => {
  const rgb = (c) => c.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const c = rgb(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  const faint = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (!own || e.closest('svg, noscript, button:disabled') || !e.offsetParent) continue;
    const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) faint.push(`${e.className} ${e.tagName} ${e.textContent}`);
  }
  return faint;
}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_labels_and_contrast(chromium, address, scheme):
    reader = Reader(chromium, address, color_scheme=scheme, viewport={"width": 1000, "height": 900})
    group = f"0{PAYLOADS[0]}"
    for page, values in (
        ("", {}),
        ("group", {"group": group}),
        ("task", {"task": f"task 0 {PAYLOADS[0]}"}),
        ("trajectory", {"group": group, "sibling": 0}),
        ("trajectory", {"group": group, "sibling": 0, "show": "version"}),
    ):
        reader.open(page, **values)
        if "show" in values:
            reader.page.wait_for_selector("#turn-2 .tokens span")
        assert reader.page.evaluate(_UNLABELLED) == []
        assert reader.page.evaluate(_CONTRASTS) == [], page
        assert reader.page.locator("h1").count() == 1
    assert reader.page.evaluate("document.documentElement.lang") == "en"
    reader.page.close()
    assert reader.faults == []


def test_runs_that_are_not_whole(chromium, tmp_path):
    run = write_run(tmp_path / "run")
    with served(run) as address:
        reader = Reader(chromium, address)
        reader.page.wait_for_function(
            "() => { dispatchEvent(new Event('hashchange')); return document.querySelector('main')"
            ".textContent.includes('finished no trajectory yet'); }",
            polling=500,
        )
        with Journal(run / "journal" / "worker-0") as journal:  # the run goes on
            journal.append(group_of(trajectory(5)))
            reader.page.wait_for_function(
                "() => { dispatchEvent(new Event('hashchange')); return document.querySelector("
                "'main').textContent.includes('1 to 1 of 1'); }",
                polling=500,
            )
            journal.append(group_of(trajectory(6)))
        (path,) = (run / "journal").glob("*/*.arrow")  # and its machine loses power
        path.write_bytes(path.read_bytes()[:-100])
        assert "Trajectory 5/0" in reader.open("trajectory", group="5", sibling=0)
        reader.page.close()
        assert reader.faults == []
