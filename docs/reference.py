"""Write the table of every configuration key into `configuration.md`.

Run it after a change of `wfr/config.py`; a test compares the two:

    python docs/reference.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wfr.config import Config

PAGE = Path(__file__).with_name("configuration.md")
MARK = "<!-- Written by docs/reference.py from wfr/config.py: below this line, do not edit. -->\n"

_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def reference() -> str:
    """The page with a fresh table."""
    kept, mark, _ = PAGE.read_text(encoding="utf-8").partition(MARK)
    assert mark, f"{PAGE} has lost its mark"
    return kept + MARK + "\n" + "\n".join(_sections()) + "\n"


def _sections() -> Iterator[str]:
    schema = Config.model_json_schema()
    for name, value in schema["properties"].items():
        section = _resolve(value, schema)
        yield f"### {name}\n\n{section['description']}\n"
        yield "| key | default | allowed | meaning |\n|---|---|---|---|"
        yield from _rows(name, section, schema)
        yield ""


def _rows(prefix: str, section: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[str]:
    for name, value in section["properties"].items():
        key, resolved = f"{prefix}.{name}", _resolve(value, schema)
        if "properties" in resolved:
            yield from _rows(key, resolved, schema)
        else:
            cells = (
                f"`{key}`",
                f"`{_yaml(value.get('default'))}`",
                _allowed(resolved),
                value.get("description", ""),
            )
            yield "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _resolve(value: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = value.get("$ref", "")
    return schema["$defs"][reference.rpartition("/")[2]] if reference else value


def _allowed(value: Mapping[str, Any]) -> str:
    if "anyOf" in value:
        return " or ".join(_allowed(option) for option in value["anyOf"])
    if "enum" in value or "const" in value:
        return ", ".join(f"`{_yaml(item)}`" for item in value.get("enum", [value.get("const")]))
    bounds = [f"{sign} {value[name]:g}" for name, sign in _BOUNDS.items() if name in value]
    kind = {"null": "`null`", "array": "list"}.get(value["type"], value["type"])
    return " ".join([kind, ", ".join(bounds)]).strip()


def _yaml(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return re.sub(r"\.0$", "", text)


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
