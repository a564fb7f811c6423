"""The service's page in a real Chromium."""

from __future__ import annotations

import asyncio

import pytest
from browser import browser
from served import SEARCH, listening, turns

EVIL = "<img src=x onerror=window.hacked=1><script>window.hacked=1</script>"


@pytest.fixture(autouse=True)
def _chromium(require):
    require("chromium")


def watching(test, *script, **kwargs):
    """Run the coroutine function `test(page, served)` on the page of a service."""
    with listening(*script, **kwargs) as (url, one):

        async def main():
            async with browser() as page:
                await page.goto(url)
                await test(page, one)
                assert page.problems == []

        asyncio.run(main())


def test_a_workflow_is_asked_for_and_watched_by_keyboard_alone():
    async def test(page, one):
        assert await page.focused() == "question"
        await page.type("Capital of Germany?")
        await page.press("Enter", control=True)
        await page.until("!document.getElementById('result').hidden")
        assert await page.eval("document.getElementById('answer').textContent") == "Berlin"
        assert await page.eval("document.querySelectorAll('#turns-list > li').length") == 2
        shown = await page.eval("document.querySelector('#turns-list pre').textContent")
        assert shown == SEARCH
        assert await page.eval("document.querySelector('#graph .node').firstChild.data") == "Search"
        assert await page.eval("document.querySelectorAll('#sources > li').length") == 1
        facts = await page.eval("document.getElementById('facts').innerText")
        assert "Operator calls" in facts
        assert "Version" in facts
        order = []
        for _ in range(3):
            await page.press("Tab")
            order.append(await page.focused())
        assert order[0] == "go"

    watching(test)


def test_it_grows_turn_by_turn_and_can_be_cancelled():
    async def test(page, one):
        await page.type("Capital?")
        await page.press("Enter", control=True)
        await page.until("document.querySelectorAll('#turns-list > li').length >= 2")
        await page.press("Escape")
        await page.until("document.getElementById('status').textContent.includes('Cancelled')")
        assert await page.eval("document.getElementById('stop').disabled")
        while one.service.places["workflow"].running:
            await asyncio.sleep(0.01)

    watching(test, turns(SEARCH))


def test_nothing_that_a_model_or_a_client_writes_is_executed():
    async def test(page, one):
        await page.type(EVIL)
        await page.press("Enter", control=True)
        await page.until("!document.getElementById('result').hidden")
        assert await page.eval("window.hacked") is None
        assert EVIL in await page.eval("document.getElementById('answer').textContent")
        assert await page.eval("document.images.length") == 0
        await page.eval(
            "new Promise(r => { const s = document.createElement('script');"
            " s.textContent = 'window.hacked = 1'; document.body.append(s); r(); })"
        )
        assert await page.eval("window.hacked") is None
        page.problems.clear()  # the policy has said that it kept the script out

    watching(test, turns(f"<think>x</think><answer>{EVIL}</answer>"))


def test_a_refusal_is_shown():
    async def test(page, one):
        one.service.places["workflow"].draining = True
        await page.type("x")
        await page.press("Enter", control=True)
        await page.until("document.getElementById('status').className === 'bad'")
        said = await page.eval("document.getElementById('status').textContent")
        assert "shutting down" in said
        page.problems.clear()  # the console tells of the 503 too

    watching(test)


@pytest.mark.parametrize("dark", [False, True])
def test_it_can_be_read(dark):
    """Contrast of at least 4.5 to 1, a label for every field, and no sideways scrolling."""
    contrast = """(() => {
      const parse = (c) => c.match(/[\\d.]+/g).slice(0, 3).map(Number);
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
    })()"""

    async def main(url):
        async with browser(380, 800, dark=dark) as page:
            await page.goto(url)
            await page.type("Capital of Germany?")
            await page.press("Enter", control=True)
            await page.until("!document.getElementById('result').hidden")
            await page.eval("document.querySelector('details').open = true")
            assert await page.eval(contrast) >= 4.5
            fields = "[...document.querySelectorAll('input,textarea')]"
            assert await page.eval(f"{fields}.every((e) => e.labels.length === 1)")
            wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            assert await page.eval(wide) == 0

    with listening() as (url, _):
        asyncio.run(main(url))
