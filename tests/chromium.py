"""A real Chromium for tests of pages, and what makes a page readable."""

from __future__ import annotations

import contextlib
import shutil

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


@contextlib.contextmanager
def chromium():
    """The browser of the system, driven by playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        program = shutil.which("chromium")
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()
