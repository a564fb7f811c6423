"""The report in a real Chromium: on a phone, in the dark, on paper, and with hostile texts."""

from __future__ import annotations

import gzip

import pytest
from chromium import CONTRAST, chromium
from test_report import PAYLOADS, RECORDS, trajectory

from wfr.journal import Journal
from wfr.report.page import write
from wfr.schema import to_batch
from wfr.trajectory import Group

pytestmark = pytest.mark.engine  # of browsers


@pytest.fixture(scope="module")
def browser(require):
    require("chromium")
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Of a run whose director wrote every payload, with the records of a real run."""
    run = tmp_path_factory.mktemp("run")
    (run / "metrics.jsonl").write_bytes(gzip.decompress(RECORDS.read_bytes()))
    (run / "config.json").write_text('{"run": {"name": "demo"}}', encoding="utf-8")
    with Journal(run / "journal" / "worker-0") as journal:
        for index, payload in enumerate(PAYLOADS):
            said = trajectory(index, index / 10, said=f"<think>{payload}</think>", task=payload)
            journal.append(to_batch(Group(said.group_id, said.task_id, 0, [said])))
    return write(run)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [380, 1200])
def test_it_can_be_read(browser, report, scheme, width):
    look = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
    with browser.new_context(**look) as context:
        page = context.new_page()
        page.goto(report.as_uri())
        assert page.locator("h2").count() > 3
        assert page.locator("svg polyline").count() > 3
        assert page.evaluate(CONTRAST) >= 4.5
        root = "document.documentElement"
        assert page.evaluate(f"{root}.scrollWidth - {root}.clientWidth") == 0


def test_nothing_that_a_model_wrote_acts(browser, report):
    with browser.new_context() as context:
        page, dialogs, requests = context.new_page(), [], []
        page.on("dialog", lambda dialog: dialogs.append(dialog.message) or dialog.dismiss())
        page.on("request", lambda request: requests.append(request.url))
        page.goto(report.as_uri())
        for element in page.locator("details").all():
            element.evaluate("e => e.open = true")
        assert dialogs == []
        assert requests == [report.as_uri()]
        assert page.locator("script, iframe, img").count() == 0


def test_it_prints(browser, report):
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(report.as_uri())
        assert page.pdf(format="A4").startswith(b"%PDF")
