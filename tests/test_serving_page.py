"""The service's page in a real Chromium."""

from __future__ import annotations

import contextlib

import pytest
from chromium import CONTRAST, chromium
from served import SEARCH, listening, turns

from wfr.testing import FakeRenderer

pytestmark = pytest.mark.engine  # of browsers

EVIL = "<img src=x onerror=window.hacked=1><script>window.hacked=1</script>"


@pytest.fixture(scope="module")
def browser(require):
    require("chromium")
    with chromium() as found:
        yield found


@contextlib.contextmanager
def watching(browser, *script, **look):
    """The page of a service, and the service; errors of scripts fail the test."""
    problems = []
    with listening(*script) as (url, one), browser.new_context(**look) as context:
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(url)
        yield page, one
    assert problems == []


def ask(page, question):
    page.keyboard.type(question)
    page.keyboard.press("Control+Enter")


def test_a_workflow_is_asked_for_and_watched_by_keyboard_alone(browser):
    with watching(browser) as (page, _):
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


def test_it_grows_turn_by_turn_and_can_be_cancelled(browser):
    services = []

    def once(request):
        services[0].director.open.clear()  # the turn after this one waits for ever
        return FakeRenderer.ids(SEARCH)

    with watching(browser, once) as (page, one):
        services.append(one)
        ask(page, "Capital of Germany?")
        page.locator("#turns-list pre.seen").wait_for()
        assert page.locator("#turns-list > li").count() == 1
        page.keyboard.press("Escape")
        page.get_by_text("Cancelled").wait_for()
        assert page.locator("#stop").is_disabled()
        while one.service.places["workflow"].running:
            page.wait_for_timeout(10)


def test_nothing_that_a_model_or_a_client_writes_is_executed(browser):
    with watching(browser, turns(f"<think>x</think><answer>{EVIL}</answer>")) as (page, _):
        ask(page, EVIL)
        page.locator("#result").wait_for()
        assert page.locator("#answer").text_content() == EVIL
        assert page.locator("img").count() == 0
        page.evaluate(
            "const s = document.createElement('script'); s.textContent = 'window.hacked = 1';"
            "document.body.append(s)"
        )
        assert page.evaluate("window.hacked") is None


def test_a_refusal_is_shown(browser):
    with watching(browser) as (page, one):
        one.service.places["workflow"].draining = True
        ask(page, "Capital of Germany?")
        page.locator("#status.bad").wait_for()
        assert "shutting down" in page.locator("#status").text_content()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read(browser, scheme):
    """On a phone: contrast of at least 4.5 to 1, every field labelled, no sideways scrolling."""
    phone = {"viewport": {"width": 380, "height": 800}, "color_scheme": scheme}
    with watching(browser, **phone) as (page, _):
        ask(page, "Capital of Germany?")
        page.locator("#result").wait_for()
        page.locator("summary").click()
        assert page.evaluate(CONTRAST) >= 4.5
        fields = "[...document.querySelectorAll('input,textarea')]"
        assert page.evaluate(f"{fields}.every((e) => e.labels.length === 1)")
        root = "document.documentElement"
        assert page.evaluate(f"{root}.scrollWidth - {root}.clientWidth") == 0
