"""The datasets of an evaluation, by name."""

from __future__ import annotations

from collections import Counter
from pathlib import PurePath

from wfr.config import Config
from wfr.tasks_config import TasksConfig


def datasets(config: Config) -> dict[str, Config]:
    """For each dataset the configuration with its tasks; named by format, and file where needed."""
    sections = config.evaluation.datasets or (config.tasks,)
    formats = Counter(section.format for section in sections)
    found: dict[str, Config] = {}
    for section in sections:
        name = _name(section, alone=formats[section.format] == 1)
        while name in found:
            name += "'"
        found[name] = config.model_copy(update={"tasks": section})
    return found


def _name(section: TasksConfig, *, alone: bool) -> str:
    if alone or section.path is None:
        return section.format
    return f"{section.format}:{PurePath(section.path).stem}"
