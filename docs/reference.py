"""Write the tables of configuration keys and of metrics into the pages that hold them.

Run it after a change of `wfr/config.py` or `wfr/metric_declarations.py`; a test compares the two:

    python docs/reference.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from wfr.config import Config
from wfr.metric_declarations import METRICS

DOCS = Path(__file__).parent
BEGIN = "<!-- Written by docs/reference.py from {}: do not edit. -->\n"
END = "<!-- End of what docs/reference.py writes. -->\n"

_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def pages() -> dict[Path, str]:
    """Every page with tables, and what it should hold."""
    return {
        DOCS / "configuration.md": _filled("configuration.md", "wfr/config.py", _sections()),
        DOCS / "operations.md": _filled(
            "operations.md", "wfr/metric_declarations.py", _metric_rows()
        ),
    }


def _filled(page: str, source: str, lines: Iterable[str]) -> str:
    """The page with fresh lines between its marks."""
    before, begin, rest = (DOCS / page).read_text(encoding="utf-8").partition(BEGIN.format(source))
    _, end, after = rest.partition(END)
    assert all((begin, end)), f"{page} has lost its marks"
    return before + begin + "\n" + "\n".join(lines).rstrip() + "\n\n" + end + after


def _metric_rows() -> Iterator[str]:
    yield "| metric | type | label | meaning |\n|---|---|---|---|"
    for metric in METRICS:
        label = f"`{metric.label}`" if metric.label else ""
        yield f"| `{metric.name}` | {metric.kind} | {label} | {metric.help} |"


def _sections() -> Iterator[str]:
    schema = Config.model_json_schema()
    for name, value in schema["properties"].items():
        kinds = value.get("discriminator", {}).get("mapping", {})
        for kind, reference in (kinds or {"": value.get("$ref", "")}).items():
            section = _resolve({"$ref": reference}, schema)
            title = f"{name}, kind: {kind}" if kind else name
            yield f"### {title}\n\n{section['description']}\n"
            yield "| key | default | allowed | meaning |\n|---|---|---|---|"
            yield from _rows(name, section, schema)
            yield ""


def _rows(prefix: str, section: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[str]:
    for name, value in section["properties"].items():
        key, resolved = f"{prefix}.{name}", _section(value, schema)
        if "properties" in resolved:
            yield from _rows(key, resolved, schema)
        elif kinds := _kinds(resolved):
            for kind, reference in kinds.items():
                section = _resolve({"$ref": reference}, schema)
                yield f"| `{key}.NAME` | | `kind: {kind}` | {section['description']} |"
                yield from _rows(f"{key}.NAME", section, schema)
        else:
            cells = (
                f"`{key}`",
                "" if name in section.get("required", ()) else f"`{_yaml(_default(value))}`",
                _allowed(resolved),
                " ".join(value.get("description", "").split()),
            )
            yield "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _resolve(value: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = value.get("$ref", "")
    return schema["$defs"][reference.rpartition("/")[2]] if reference else value


def _default(value: Mapping[str, Any]) -> Any:
    # What pydantic makes afresh each time, an empty mapping here, has no default in the schema.
    return {} if value.get("type") == "object" else value.get("default")


def _section(value: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The section that a value is, or may be."""
    options = [option for option in value.get("anyOf", ()) if "$ref" in option]
    return _resolve(options[0] if options else value, schema)


def _kinds(value: Mapping[str, Any]) -> Mapping[str, str]:
    """Sections by kind, where a mapping holds sections of several kinds."""
    inside = value.get("additionalProperties")
    found: Mapping[str, str] = {}
    if isinstance(inside, Mapping):
        found = inside.get("discriminator", {}).get("mapping", {})
    return found


def _allowed(value: Mapping[str, Any]) -> str:
    if "anyOf" in value:
        return " or ".join(_allowed(option) for option in value["anyOf"])
    if "enum" in value or "const" in value:
        return ", ".join(f"`{_yaml(item)}`" for item in value.get("enum", [value.get("const")]))
    bounds = [f"{sign} {value[name]:g}" for name, sign in _BOUNDS.items() if name in value]
    names = {"null": "`null`", "array": "list", "object": "mapping"}
    kind = names.get(value["type"], value["type"])
    return " ".join([kind, ", ".join(bounds)]).strip()


def _yaml(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return re.sub(r"\.0$", "", text)


if __name__ == "__main__":
    for page, text in pages().items():
        page.write_text(text, encoding="utf-8")
