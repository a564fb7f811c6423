"""`Retry-After` (RFC 9110, 10.2.3)."""

from __future__ import annotations

import datetime
import email.utils


def retry_after(text: str) -> float | None:
    """Seconds that a server asks to be left alone, given as a number or a date; None if neither."""
    try:
        return max(float(text), 0.0)
    except ValueError:
        pass
    try:
        then = email.utils.parsedate_to_datetime(text)
        return max((then - datetime.datetime.now(datetime.UTC)).total_seconds(), 0.0)
    except (TypeError, ValueError):
        return None
