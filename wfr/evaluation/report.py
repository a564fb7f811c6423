"""The directory of an evaluation: predictions, what they belong to, tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wfr.config import Config
from wfr.evaluation.prediction import Prediction, PredictionFile
from wfr.evaluation.summary import Summary, summarise
from wfr.evaluation.table import markdown, page

PREDICTIONS = "predictions.jsonl"
_SETTINGS = "evaluation.json"
_COMPARED = ("tasks", "environment", "executor", "sandbox", "evaluation")
_ONE_BY_ONE = {"evaluation": ("concurrency",)}
"""Keys that change nothing about a prediction."""


class ReportDirectory:
    """Keeps predictions of one configuration, so that an evaluation can go on."""

    def __init__(self, path: Path, config: Config) -> None:
        """Open the directory, or make it.

        Raises:
            ValueError: it holds predictions under another configuration, or one that is damaged.
        """
        self.path = path
        settings, kept = _settings(config), path / _SETTINGS
        if kept.exists():
            before = json.loads(kept.read_text(encoding="utf-8"))
            other = [key for key in settings if before.get(key) != settings[key]]
            if other:
                raise ValueError(
                    f"{path} holds predictions under other settings of {', '.join(other)}; give "
                    "another --out, or remove it"
                )
        path.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        self.predictions = PredictionFile(path / PREDICTIONS)

    def write(self, title: str) -> Sequence[Summary]:
        """Write `table.md` and `table.html` of everything that was predicted."""
        found = summarise(self.predictions)
        (self.path / "table.md").write_text(markdown(found), encoding="utf-8")
        (self.path / "table.html").write_text(page(found, title), encoding="utf-8")
        return found


def read_predictions(name: str) -> list[Prediction]:
    """The predictions of one policy: of a directory or file, or `DIRECTORY:POLICY`.

    Raises:
        ValueError: there are none, or those of several policies.
    """
    place, policy = Path(name), ""
    if not place.exists() and ":" in name:
        before, _, policy = name.partition(":")
        place = Path(before)
    path = place / PREDICTIONS if place.is_dir() else place
    if not path.is_file():
        raise ValueError(f"{name}: no {PREDICTIONS} there")
    found = list(PredictionFile(path))
    known = sorted({prediction.policy for prediction in found})
    if policy and policy not in known:
        raise ValueError(f"{path}: has no policy {policy!r}, only {', '.join(known)}")
    if not policy and len(known) != 1:
        raise ValueError(
            f"{path}: holds {len(known)} policies ({', '.join(known)}); choose one by "
            f"{place}:POLICY"
        )
    return [p for p in found if p.policy == (policy or known[0])]


def _settings(config: Config) -> dict[str, Any]:
    values = config.model_dump(mode="json")
    for section, keys in _ONE_BY_ONE.items():
        for key in keys:
            values[section].pop(key)
    return {"seed": config.run.seed, **{key: values[key] for key in _COMPARED}}
