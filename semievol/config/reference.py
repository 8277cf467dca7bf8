"""Generate the JSON Schema and the Markdown reference of a run's config (`semievol schema`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from semievol.config.report import definition
from semievol.config.schema import RunConfig

_BOUNDS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
_TABLE = "| key | type | default | meaning |\n| --- | --- | --- | --- |"


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema by which editors complete and check a config."""
    schema = RunConfig.model_json_schema()
    for node in (schema, *schema["$defs"].values()):
        node.pop("title")
        for value in node["properties"].values():
            value.pop("title", None)
            if "discriminator" in value:  # a group without a kind is of the default one
                for kind, place in value["discriminator"]["mapping"].items():
                    if kind != value["default"]["kind"]:
                        definition(schema, place)["required"] = ["kind"]
            if "$ref" in value or "discriminator" in value:
                value.pop("default", None)  # it says what the group's keys say
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


def markdown(schema: dict[str, Any]) -> str:
    """Return the reference of all keys, from what `json_schema` returns."""
    parts = ["# The config of a run", "Made with `semievol schema --markdown`.", *_group(schema, schema, "", {})]
    return "\n\n".join(parts) + "\n"


def _group(schema: dict[str, Any], node: dict[str, Any], key: str, shown: dict[str, str]) -> Iterator[str]:
    """Yield a group of settings, then the groups in it; a definition that several keys share only the first time."""
    yield _plain(node["description"], "\n")
    rows, inside = [], []
    for name, value in node["properties"].items():
        full = f"{key}.{name}" if key else name
        meaning = _plain(value.get("description", ""), " ")
        groups = list(_groups(value))
        for kind, place in groups:
            if place in shown:
                meaning = f"As `{shown[place]}`."
            else:
                shown[place] = full
                inside.append((f"{full}, kind: {kind}" if kind else full, full, place))
        if meaning or not groups:
            default = f"`{json.dumps(value['default'])}`" if "default" in value and not groups else ""
            if name in node.get("required", []) and "const" not in value:
                default = "required"
            rows.append(f"| `{full}` | {_type(value)} | {default} | {meaning} |")
    if rows:
        yield "\n".join([_TABLE, *rows])
    for title, full, place in inside:
        yield f"## {title}"
        yield from _group(schema, definition(schema, place), full, shown)


def _groups(value: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the definitions that a value may have, each with its kind; nothing for a plain value."""
    if "discriminator" in value:
        yield from value["discriminator"]["mapping"].items()
    elif place := value.get("$ref") or value.get("items", {}).get("$ref"):
        yield "", place


def _type(value: dict[str, Any]) -> str:
    if "anyOf" in value:
        return " or ".join(map(_type, value["anyOf"]))
    if "enum" in value or "const" in value:
        return ", ".join(f"`{choice}`" for choice in value.get("enum") or [value["const"]])
    if "discriminator" in value or "$ref" in value:
        return "group"
    if value.get("type") == "array":
        return f"list of {_type(value['items'])}s"
    bounds = [f"{sign} {value[name]:g}" for name, sign in _BOUNDS.items() if name in value]
    return " ".join([value["type"], ", ".join(bounds)]).strip()


def _plain(text: str, joint: str) -> str:
    return joint.join(line.strip() for line in text.replace("|", "\\|").splitlines())
