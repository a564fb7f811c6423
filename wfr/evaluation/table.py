"""Tables of an evaluation, as Markdown and as one HTML file that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from wfr.evaluation.summary import Summary

_COLUMNS = (
    "policy", "dataset", "tasks", "score [95 %]", "pass@k", "maj@k", "turns", "tokens", "s",
    "cost $", "faulty form", "not scored",
)  # fmt: skip


def rows(summaries: Iterable[Summary]) -> list[Sequence[str]]:
    """The cells of the table, one row for each policy and dataset."""
    return [
        (
            item.policy,
            item.dataset,
            str(item.score.count),
            str(item.score),
            ", ".join(f"{k}: {value:.3f}" for k, value in item.pass_at.items()),
            str(item.majority or ""),
            f"{item.turns:.1f}",
            f"{item.tokens:.0f}",
            f"{item.seconds:.2f}",
            f"{item.cost_usd:.4f}",
            f"{item.format_faults:.3f}",
            str(item.not_scored),
        )
        for item in summaries
    ]


def markdown(summaries: Iterable[Summary]) -> str:
    """A Markdown table; bars in names are escaped."""
    lines = [_line(_COLUMNS), _line(["---"] * len(_COLUMNS))]
    lines += [_line([cell.replace("|", "\\|") for cell in row]) for row in rows(summaries)]
    return "\n".join(lines) + "\n"


def page(summaries: Sequence[Summary], title: str) -> str:
    """One HTML page; every text in it is escaped, for names and tasks may come from anywhere."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in _COLUMNS)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in rows(summaries)
    )
    return _PAGE.format(title=html.escape(title), head=head, body=body)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem; }}
table {{ border-collapse: collapse; }}
th, td {{ padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #8884; }}
th:nth-child(-n+2), td:nth-child(-n+2) {{ text-align: left; }}
</style></head>
<body><h1>{title}</h1>
<p>Scores are means over tasks; brackets hold 95 % intervals (bootstrap over tasks).</p>
<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>
</body></html>
"""
