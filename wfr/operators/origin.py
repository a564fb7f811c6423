"""Where in the source something was declared, for errors that a user can follow."""

from __future__ import annotations

import sys


def calling_line(above: int) -> str:
    """`file:line` of the caller's caller, `above` frames further up."""
    frame = sys._getframe(above + 1)
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
