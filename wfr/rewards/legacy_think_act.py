"""The think-act scorer as released with Workflow-R1, mistakes included.

It reads the decoded response, observations and all (arXiv 2602.01202; sections 3.2 to 3.4 of the
analysis of its code): format 0 or −0.5 from a stack of tags, plus 1 for an exact match, 0 for a
wrong answer and −1 for none, where the answer is the last `<answer>…</answer>` found anywhere.
"""

from __future__ import annotations

import re

_TAG = re.compile(r"<(/?)([A-Za-z][\w:.-]*+)[^<>]*+>")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_NEXT = {
    "": ("think",),
    "think": ("tool", "answer"),
    "tool": ("tool_response",),
    "tool_response": ("think",),
    "answer": (),
}


def format_score(response: str) -> float:
    """0 for think → (tool → tool_response → think)* → answer at the top level, else −0.5."""
    previous = ""
    for name, body in top_level(response):
        if name not in _NEXT[previous] or (name in ("think", "tool") and not body.strip()):
            return -0.5
        previous = name
    return 0.0 if previous == "answer" else -0.5


def last_answer(response: str) -> str:
    """Contents of the last answer element anywhere, stripped; empty if there is none."""
    # Past the last closing tag nothing can match; looking there would take quadratic time.
    end = response.rfind("</answer>") + len("</answer>")
    answers = _ANSWER.findall(response[:end]) if end >= len("</answer>") else []
    return answers[-1].strip() if answers else ""


def top_level(response: str) -> list[tuple[str, str]]:
    """Names and bodies of the elements at depth 0 that get closed.

    A closing tag closes the innermost open element if that has its name, and nothing otherwise;
    so one `<br>` hides everything after it.
    """
    text = _without_comments(response)
    elements: list[tuple[str, str]] = []
    stack: list[tuple[str, int]] = []
    for tag in _TAG.finditer(text):
        closing, name = tag.groups()
        if not closing:
            stack.append((name, tag.end()))
        elif stack and stack[-1][0] == name:
            _, start = stack.pop()
            if not stack:
                elements.append((name, text[start : tag.start()]))
    return elements


def _without_comments(text: str) -> str:
    end = text.rfind("-->") + len("-->")
    return _COMMENT.sub("", text[:end]) + text[end:] if end >= len("-->") else text
