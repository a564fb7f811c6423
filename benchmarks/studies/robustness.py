"""What does a trained director bear? `python -m benchmarks.studies.robustness`.

Questions, asked before any run. A director is trained with one form of question, one form of
observation, one pool of operators, and operators that do not err. (1) Does it bear another form of
question or observation? (2) Does its format hold there? (3) Does it correct an operator's error?

Directors: the quickstart with seeds 1 to N, all from one warm start. Each plays the held-out tasks
greedily under every condition; nothing is trained under any of them.

    as trained           the questions, the passages and the operators of training
    lower case           the question in small letters
    polite               "Please tell me: ... Thank you."
    typo                 two letters of the question's last word that is no name change places
    titled passages      numbered, with titles, after a line that repeats the query
    three passages       the three best instead of the best one
    no Programmer        its calls are refused
    Search mixed up      the first of equal calls finds what somebody else's call found
    Search out of order  the first of equal calls says that it failed
    Programmer mixed up  the first of equal calls shows the result of somebody else's call

Outcomes by director: exact match, and the share of episodes with a fault of format. Both are
compared with `as trained`: the mean difference over directors and its 95 % bootstrap interval. A
condition is borne if the interval of exact match lies above -0.05, not borne if it lies below, and
else undecided. The tasks' numbers are graded as texts, here and in `as trained`.

Corrections: of the tasks that a director answers rightly as trained and in which it calls the
erring operator there, the share that it answers rightly although the operator erred, and by how
many calls more. An unseen error is one that only the content of the passage gives away.

Nothing is corrected for many tests: intervals are descriptions, by ten conditions and two outcomes.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import typer

from benchmarks.series import CONFIG, ROOT, Series
from benchmarks.studies.paired import bootstrap
from benchmarks.studies.study import RESULTS
from wfr.config import load_config
from wfr.evaluation.prediction import Prediction, PredictionFile
from wfr.tasks.registry import make_source
from wfr.tasks.source import Task

OUT = ROOT / "runs/robustness"
STEPS = 60
BORNE = -0.05
BASELINE = "as trained"
_ERRING = "benchmarks.planted_errors"


@dataclasses.dataclass(frozen=True, slots=True)
class Condition:
    """What is different from training.

    Attributes:
        question: the form of the question.
        overrides: of the configuration, as `--set` takes them.
        errs: the operator whose errors are planted.
    """

    name: str
    question: Callable[[str], str] = str
    overrides: tuple[str, ...] = ()
    errs: str = ""


def typo(question: str) -> str:
    """Two inner letters of the last word that is no name change places; none such: as it was."""
    words = [m for m in re.finditer(r"[a-z]{4,}", question) if not _in_name(question, m.start())]
    if not words:
        return question
    at = words[-1].start() + 1
    return question[:at] + question[at + 1] + question[at] + question[at + 2 :]


def _in_name(question: str, at: int) -> bool:
    return at > 0 and question[at - 1].isalpha()


CONDITIONS = (
    Condition(BASELINE),
    Condition("lower case", str.lower),
    Condition("polite", lambda question: f"Please tell me: {question} Thank you."),
    Condition("typo", typo),
    Condition("titled passages", overrides=("environment.search.style=titled",)),
    Condition("three passages", overrides=("environment.search.top_k=3",)),
    Condition("no Programmer", overrides=("environment.pool=[Search]",)),
    Condition(
        "Search mixed up",
        overrides=(f"environment.pool=['{_ERRING}:SEARCH_MIXED_UP', Programmer]",),
        errs="Search",
    ),
    Condition(
        "Search out of order",
        overrides=(f"environment.pool=['{_ERRING}:SEARCH_OUT_OF_ORDER', Programmer]",),
        errs="Search",
    ),
    Condition(
        "Programmer mixed up",
        overrides=(f"environment.pool=[Search, '{_ERRING}:PROGRAMMER_MIXED_UP']",),
        errs="Programmer",
    ),
)


def main(
    seeds: Annotated[int, typer.Option(min=1, help="Directors: seeds 1 to N.")] = 3,
    steps: Annotated[int, typer.Option(min=2, help="Optimizer steps of each director.")] = STEPS,
    out: Annotated[Path, typer.Option(help="Directory of runs and results.")] = OUT,
    store: Annotated[bool, typer.Option(help="Keep the table in the repository.")] = False,
) -> None:
    """Train the directors that are missing, play what is missing, then report.

    Example:
      python -m benchmarks.studies.robustness --seeds 3 --store
    """
    series = Series(out)
    out = series.out
    directors = _directors(series, range(1, seeds + 1), steps)
    if not directors:
        typer.echo(f"no director could be trained in {out}", err=True)
        raise typer.Exit(1)
    _write_tasks(out)
    _play(series, directors.values())
    played = {
        seed: {c.name: _predictions(out, c, director) for c in CONDITIONS}
        for seed, director in directors.items()
    }
    table = rows(played)
    pq.write_table(pa.Table.from_pylist(table), out / "robustness.parquet")
    text = report(table)
    (out / "robustness.md").write_text(text, encoding="utf-8")
    if store:
        RESULTS.mkdir(exist_ok=True)
        shutil.copy(out / "robustness.parquet", RESULTS)
    typer.echo(text)


def _directors(series: Series, seeds: Iterable[int], steps: int) -> dict[int, Path]:
    """Run directories by seed, of those that could be trained."""
    found: dict[int, Path] = {}
    for seed in seeds:
        name, settings = f"director-{seed}", (f"run.seed={seed}", f"train.steps={steps}")
        series.base()
        directory = series.finished(name) or series.train(name, settings)
        if directory is not None:
            found[seed] = directory
    return found


# ---- playing


def _questions(out: Path, condition: Condition) -> Path:
    return out / "tasks" / f"{condition.name.replace(' ', '_')}.jsonl"


def _write_tasks(out: Path) -> None:
    """The held-out tasks in every form of question, and the passages."""
    source = make_source(load_config(CONFIG))
    (out / "tasks").mkdir(parents=True, exist_ok=True)
    for condition in CONDITIONS:
        if not condition.overrides:
            _lines(_questions(out, condition), tasks_as(condition, source.held_out()))
    passages = [{"title": d.title, "text": d.text} for d in source.corpus()]
    _lines(out / "tasks/passages.jsonl", passages)


def tasks_as(condition: Condition, tasks: Iterable[Task]) -> list[dict[str, Any]]:
    """Rows of a table of tasks; ids are those of the tasks, whatever the question's form."""
    return [
        {
            "id": task.id,
            "question": condition.question(task.question),
            "answers": list(task.answers),
            "skill": task.skill,
        }
        for task in tasks
    ]


def _lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _play(series: Series, directors: Iterable[Path]) -> None:
    """Have `wfr eval` play what is missing; conditions with the same operators in one call."""
    policies = [part for path in directors for part in ("--policy", str(path))]
    groups: dict[tuple[str, ...], list[Condition]] = {}
    for condition in CONDITIONS:
        groups.setdefault(condition.overrides, []).append(condition)
    for overrides, conditions in groups.items():
        settings = (
            f"evaluation.datasets={json.dumps([_dataset(series.out, c) for c in conditions])}",
            f"environment.search.corpus={series.out / 'tasks/passages.jsonl'}",
            f"environment.search.index_dir={series.out / 'index'}",
            *overrides,
        )
        parts = [part for setting in settings for part in ("--set", setting)]
        place = ("--out", str(_place(series.out, conditions[0])))
        if series.command("eval", "run", str(CONFIG), *policies, *parts, *place):
            raise RuntimeError(f"{conditions[0].name}: the evaluation failed: see above")


def _dataset(out: Path, condition: Condition) -> dict[str, Any]:
    names = ("question", "answers", "id", "skill")
    asked = condition if not condition.overrides else CONDITIONS[0]
    return {
        "format": "custom",
        "path": str(_questions(out, asked)),
        "columns": {name: name for name in names},
        "held_out": 1,
        "eval_tasks": 10_000,
    }


def _place(out: Path, condition: Condition) -> Path:
    name = condition.name if condition.overrides else BASELINE
    return out / "played" / name.replace(" ", "_")


def _predictions(out: Path, condition: Condition, director: Path) -> list[Prediction]:
    """What a director made of the tasks under a condition."""
    stem = _questions(out, condition if not condition.overrides else CONDITIONS[0]).stem
    wanted = {"custom", f"custom:{stem}"}
    found = PredictionFile(_place(out, condition) / "predictions.jsonl")
    return [p for p in found if p.dataset in wanted and Path(p.policy).is_relative_to(director)]


# ---- report

Played = Mapping[int, Mapping[str, Sequence[Prediction]]]
"""Predictions by director's seed and condition."""


def rows(played: Played) -> list[dict[str, Any]]:
    """One line for each director and condition."""
    return [
        {
            "seed": seed,
            "condition": condition.name,
            "tasks": sum(p.correct is not None for p in by_name[condition.name]),
            "exact_match": _mean(p.correct for p in by_name[condition.name]),
            "format_faults": _mean(
                float(p.metrics.get("format_faults", 0) > 0) for p in by_name[condition.name]
            ),
            "turns": _mean(float(p.turns) for p in by_name[condition.name]),
            **_corrections(condition, by_name[BASELINE], by_name[condition.name]),
        }
        for seed, by_name in played.items()
        for condition in CONDITIONS
    ]


def _corrections(
    condition: Condition, before: Sequence[Prediction], with_error: Sequence[Prediction]
) -> dict[str, float | int | None]:
    """How often a director is right in spite of an error, of what it is right about without."""
    if not condition.errs:
        return {"at_stake": None, "corrected": None, "more_calls": None}
    calls = {
        p.task_id: p.operators[condition.errs]
        for p in before
        if p.correct == 1 and p.operators.get(condition.errs)
    }
    at_stake = [p for p in with_error if p.task_id in calls and p.correct is not None]
    more = (p.operators.get(condition.errs, 0) - calls[p.task_id] for p in at_stake)
    return {
        "at_stake": len(at_stake),
        "corrected": _mean(p.correct for p in at_stake),
        "more_calls": _mean(map(float, more)),
    }


def _mean(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return statistics.mean(found) if found else None


def report(table: Sequence[Mapping[str, Any]]) -> str:
    """All conditions against `as trained`, and the corrections, as Markdown."""
    by_name = {c.name: [row for row in table if row["condition"] == c.name] for c in CONDITIONS}
    base = by_name[BASELINE]
    lines = [
        f"{len(base)} directors.",
        "",
        "| condition | exact match | difference | borne | format faults | turns |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in by_name.items():
        pairs = zip(found, base, strict=True)
        differences = [row["exact_match"] - same["exact_match"] for row, same in pairs]
        shown = ("", "") if name == BASELINE else (_interval(differences), borne(differences))
        means = [_mean(row[key] for row in found) or 0.0 for key in ("exact_match", "turns")]
        faults = _mean(row["format_faults"] for row in found) or 0.0
        cells = (name, f"{means[0]:.3f}", *shown, f"{100 * faults:.1f} %", f"{means[1]:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "| planted error | tasks at stake | answered rightly all the same | calls more |",
        "|---|---|---|---|",
    ]
    for condition in CONDITIONS:
        if not condition.errs:
            continue
        found = by_name[condition.name]
        corrected = [row["corrected"] for row in found if row["corrected"] is not None]
        shown_error = (
            condition.name,
            str(sum(row["at_stake"] for row in found)),
            _interval(corrected) if corrected else "none",
            f"{_mean(row['more_calls'] for row in found) or 0.0:+.2f}",
        )
        lines.append(f"| {' | '.join(shown_error)} |")
    return "\n".join(lines) + "\n"


def _interval(values: Sequence[float]) -> str:
    mean, interval = statistics.mean(values), bootstrap(values)
    shown = f"{mean:+.3f}" if min(values) < 0 else f"{mean:.3f}"
    return shown if interval is None else f"{shown} [{interval[0]:.3f}, {interval[1]:.3f}]"


def borne(differences: Sequence[float]) -> str:
    """Whether a condition is borne: by the interval of the differences in exact match."""
    interval = bootstrap(differences)
    if interval is None:
        return "one director only"
    if interval[0] > BORNE:
        return "yes"
    return "no" if interval[1] < BORNE else "undecided"


if __name__ == "__main__":
    typer.run(main)
