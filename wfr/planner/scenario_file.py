"""Scenarios in YAML files."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from wfr.config import ConfigError
from wfr.planner.scenario import Scenario
from wfr.yaml_lines import key_lines, line_of


def load_scenario(path: str | Path, overrides: Sequence[str] = ()) -> Scenario:
    """Read a YAML file, apply `a.b=value` overrides, and check the result.

    Raises:
        ConfigError: naming the file, each offending key, its line, its value and what is allowed.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        values = yaml.safe_load(text) or {}
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds a {type(values).__name__}, expected sections of keys")
    lines = dict(key_lines(text)) if text.strip() else {}
    return parse_scenario(values, str(path), overrides, lines)


def parse_scenario(
    values: dict[str, Any],
    source: str = "scenario",
    overrides: Sequence[str] = (),
    lines: Mapping[tuple[str | int, ...], int] = types.MappingProxyType({}),
) -> Scenario:
    """Override in a nested mapping and check it; raises ConfigError as `load_scenario`."""
    places = dict(lines)
    for override in overrides:
        places.pop(_apply(values, override), None)
    try:
        return Scenario.model_validate(values)
    except ValidationError as error:
        faults = [_explain(fault, places) for fault in error.errors()]
        raise ConfigError(f"{source}:\n  " + "\n  ".join(faults)) from None


def _apply(values: dict[str, Any], override: str) -> tuple[str, ...]:
    """Set one key; returns its place."""
    key, separator, text = override.partition("=")
    *sections, name = key.strip().split(".")
    if not separator or not all((*sections, name)):
        raise ConfigError(f"--set {override!r}: expected section.key=value")
    target = values
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise ConfigError(f"--set {override!r}: {section!r} is a value, not a section")
    try:
        target[name] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override!r}: the value is not YAML: {error}") from None
    return (*sections, name)


def _explain(fault: Any, lines: dict[tuple[str | int, ...], int]) -> str:
    place = fault["loc"]
    key = ".".join(map(str, place))
    line = line_of(place, lines)
    where = f" (line {line})" if line else ""
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        section: Any = Scenario
        for part in place[:-1]:
            section = _inside(section, part)
        known = f"; allowed here: {', '.join(section.model_fields)}" if section else ""
        return f"{key}: unknown key{known}{where}"
    if not key or isinstance(fault["input"], dict | list | BaseModel):
        return f"{key}: {message}{where}".removeprefix(": ")
    return f"{key}={fault['input']!r}: {message}{where}"


def _inside(section: Any, part: int | str) -> Any:
    """The model of a part of a section, if it is one."""
    field = getattr(section, "model_fields", {}).get(part)
    inside = field and field.annotation
    return inside if isinstance(inside, type) and issubclass(inside, BaseModel) else None
