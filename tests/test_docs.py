"""Documents say what is: links lead somewhere, the tables are the code's."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from wfr.yaml_lines import key_lines

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_links_and_named_files_exist(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!http)([^)#]+)", text)
    named = re.findall(r"`((?:wfr|actors|learner|cluster|tests|docs)/[\w/.-]+\.\w+)`", text)
    missing = [link for link in links if not (page.parent / link).exists()]
    missing += [name for name in named if not (ROOT / name).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_named_make_targets_exist(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"(?:`|    )make ([a-z]+)", page.read_text(encoding="utf-8")))
    assert named <= targets


@pytest.mark.parametrize("name", ["flowsteer_8b", "workflow_r1_7b"])
def test_every_line_of_a_papers_configuration_is_explained(name):
    text = (ROOT / f"cluster/configs/{name}.yaml").read_text(encoding="utf-8")
    pages = (ROOT / "docs/papers.md").read_text(encoding="utf-8").split("\n## ")
    (section,) = (page for page in pages if f"`{name}.yaml`" in page.splitlines()[0])
    firsts = " ".join(row.split("|")[1] for row in section.splitlines() if row.startswith("|"))
    words = {word for key in re.findall(r"`([\w.]+)`", firsts) for word in key.split(".")}
    keys = {str(part) for path in key_lines(text) for part in path if isinstance(part, str)}
    assert keys <= words, f"docs/papers.md says nothing of {sorted(keys - words)}"


def test_tables_are_the_codes():
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs/reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for page, text in module.pages().items():
        assert page.read_text(encoding="utf-8") == text, "run `python docs/reference.py`"
