"""The service's page in a real Chromium."""

from __future__ import annotations

import contextlib
import shutil

import pytest
from served import SEARCH, listening, turns

pytestmark = pytest.mark.engine  # of browsers

EVIL = "<img src=x onerror=window.hacked=1><script>window.hacked=1</script>"

CONTRAST = r"""() => {
  const parse = (c) => c.match(/[\d.]+/g).slice(0, 3).map(Number);
  const light = (c) => parse(c).map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const back = (e) => {
    for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor;
      if (!c.endsWith(', 0)') && c !== 'transparent') return c;
    }
    return 'rgb(255, 255, 255)';
  };
  let worst = 99;
  for (const e of document.querySelectorAll('h1,h2,p,label,button,small,pre,dt,dd,b,summary')) {
    if (!e.offsetParent || !e.textContent.trim() || e.disabled) continue;
    const [a, b] = [light(getComputedStyle(e).color), light(back(e))].sort((x, y) => y - x);
    worst = Math.min(worst, (a + 0.05) / (b + 0.05));
  }
  return worst;
}"""
"""The smallest ratio of a text's luminance to that of what is behind it (WCAG 2.1)."""


@pytest.fixture(scope="module")
def chromium(require):
    require("chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        program = shutil.which("chromium")
        chromium = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@contextlib.contextmanager
def watching(chromium, *script, **look):
    """The page of a service, and the service; errors of scripts fail the test."""
    problems = []
    with listening(*script) as (url, one), chromium.new_context(**look) as context:
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(url)
        yield page, one
    assert problems == []


def ask(page, question):
    page.keyboard.type(question)
    page.keyboard.press("Control+Enter")


def test_a_workflow_is_asked_for_and_watched_by_keyboard_alone(chromium):
    with watching(chromium) as (page, _):
        ask(page, "Capital of Germany?")
        page.locator("#result").wait_for()
        assert page.locator("#answer").text_content() == "Berlin"
        assert page.locator("#turns-list > li").count() == 2
        assert page.locator("#turns-list pre").first.text_content() == SEARCH
        assert page.locator("#graph .node").text_content() == "Searchnode_1"
        assert page.locator("#sources > li").count() == 1
        facts = page.locator("#facts").inner_text()
        assert "Operator calls" in facts
        assert "Version" in facts
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "go"


def test_it_grows_turn_by_turn_and_can_be_cancelled(chromium):
    with watching(chromium, turns(SEARCH)) as (page, one):
        ask(page, "Capital of Germany?")
        page.locator("#turns-list > li").nth(1).wait_for()
        page.keyboard.press("Escape")
        page.get_by_text("Cancelled").wait_for()
        assert page.locator("#stop").is_disabled()
        while one.service.places["workflow"].running:
            page.wait_for_timeout(10)


def test_nothing_that_a_model_or_a_client_writes_is_executed(chromium):
    with watching(chromium, turns(f"<think>x</think><answer>{EVIL}</answer>")) as (page, _):
        ask(page, EVIL)
        page.locator("#result").wait_for()
        assert page.locator("#answer").text_content() == EVIL
        assert page.locator("img").count() == 0
        page.evaluate(
            "const s = document.createElement('script'); s.textContent = 'window.hacked = 1';"
            "document.body.append(s)"
        )
        assert page.evaluate("window.hacked") is None


def test_a_refusal_is_shown(chromium):
    with watching(chromium) as (page, one):
        one.service.places["workflow"].draining = True
        ask(page, "Capital of Germany?")
        page.locator("#status.bad").wait_for()
        assert "shutting down" in page.locator("#status").text_content()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read(chromium, scheme):
    """On a phone: contrast of at least 4.5 to 1, every field labelled, no sideways scrolling."""
    phone = {"viewport": {"width": 380, "height": 800}, "color_scheme": scheme}
    with watching(chromium, **phone) as (page, _):
        ask(page, "Capital of Germany?")
        page.locator("#result").wait_for()
        page.locator("summary").click()
        assert page.evaluate(CONTRAST) >= 4.5
        fields = "[...document.querySelectorAll('input,textarea')]"
        assert page.evaluate(f"{fields}.every((e) => e.labels.length === 1)")
        root = "document.documentElement"
        assert page.evaluate(f"{root}.scrollWidth - {root}.clientWidth") == 0
