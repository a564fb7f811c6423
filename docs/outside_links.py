"""For mkdocs: what a page links to outside of `docs/` is in the repository, and not on the site."""

from __future__ import annotations

import re
from typing import Any

_LINK = re.compile(r"\[([^\]]+)\]\((?:\.\./)+[^)]+\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Write such links as mere text."""
    return _LINK.sub(r"\1", markdown)
