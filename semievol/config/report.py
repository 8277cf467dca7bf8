"""Turn pydantic's errors in a config into one message for the person who wrote it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError

_ONLY_IN = {"methods": "a study; use `semievol study`", "model": "the config of a run; use `semievol run`"}
# Pydantic's words, and plainer ones.
_WORDS = {
    **{"Input should": "must", "List should": "must", " after validation": ""},
    **{"a valid integer": "a whole number", "a valid": "a"},
    **{"greater than or equal to": "at least", "less than or equal to": "at most"},
}


def problems(
    error: ValidationError, kind: type[BaseModel], path: str, overrides: list[tuple[str, Any]], missing: set[str]
) -> str:
    """Return all problems, one a line: where the value was given (`overrides`: texts and what they make), the key, why."""
    from omegaconf import OmegaConf

    schema = kind.model_json_schema()
    lines = []
    for problem in error.errors(include_url=False):
        key, node = _place(schema, problem["loc"])
        if problem["type"] == "extra_forbidden" and key in _ONLY_IN:
            return f"{path}: this is {_ONLY_IN[key]}"
        if problem["type"] == "missing":
            missing = missing | {key}
        elif key not in missing:
            message = _message(problem, key, node)
            named = message.partition(":")[0] if problem["type"] == "value_error" else key
            given = (text for text, changes in reversed(overrides) if OmegaConf.select(changes, named) is not None)
            lines.append(f"{next(given, path)}: {message}")
    return "\n".join([*lines, *([missing_keys(path, missing)] if missing else [])])


def missing_keys(path: str, keys: set[str]) -> str:
    """Return the message for required keys that are not set."""
    way_out = "Set them in the file or as key=value"
    if "data.test" in keys:
        way_out += "; data.test=0.2 holds back a fifth of the labeled rows"
    return f"{path}: missing required key(s): {', '.join(sorted(keys))}. {way_out}"


def _place(schema: dict[str, Any], location: tuple[int | str, ...]) -> tuple[str, dict[str, Any]]:
    """Return the key of a place and its part of a JSON Schema; for an unknown key, that of its group."""
    key, node = "", schema
    for part in location:
        if part == "[key]":
            continue  # pydantic's mark for the key of a mapping itself
        if "discriminator" in node:  # pydantic names the kind here, which is not part of the key
            node = definition(schema, node["discriminator"]["mapping"][part])
            continue
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else part
        node = node.get("items") or node.get("properties", {}).get(part) or node.get("additionalProperties") or node
        node = definition(schema, node["$ref"]) if "$ref" in node else node
    return key, node


def definition(schema: dict[str, Any], place: str) -> dict[str, Any]:
    """Return the part of a JSON Schema that a `$ref` names."""
    found: dict[str, Any] = schema["$defs"][place.rpartition("/")[2]]
    return found


def _message(problem: Any, key: str, node: dict[str, Any]) -> str:
    """Return what is wrong, beginning with the key."""
    given = problem["input"]
    match problem["type"]:
        case "extra_forbidden":
            return _unknown(key, str(problem["loc"][-1]), node["properties"])
        case "value_error":
            separator = "" if not key else "." if "properties" in node else ": "
            return f"{key}{separator}{problem['ctx']['error']}"
        case "union_tag_invalid":
            return f"{key}.kind: {_one_of(problem['ctx']['tag'], list(node['discriminator']['mapping']))}"
        case "literal_error" if "enum" in node:
            return f"{key}: {_one_of(given, node['enum'])}"
        case "model_type" | "model_attributes_type":
            return f"{key} is a group of settings ({', '.join(node.get('properties', ['kind', '..']))}), and not {_shown(given)}"
        case "list_type":
            return f"{key} is a list, and only replaced as a whole: {key}=[..]"
    wanted = problem["msg"].partition(", unable to")[0]
    for theirs, ours in _WORDS.items():
        wanted = wanted.replace(theirs, ours)
    return f"{key}: {wanted}, is {_shown(given)}"


def _unknown(key: str, name: str, properties: dict[str, Any]) -> str:
    kind = properties.get("kind", {}).get("const")  # it decides which keys there are
    valid = f"; valid keys {f'with kind: {kind}' if kind else 'here'}: {', '.join(properties)}"
    return f"unknown key '{key}'" + (_hint(name, properties, key.removesuffix(name)) or valid)


def _one_of(given: Any, choices: list[Any]) -> str:
    names = list(map(str, choices))
    return f"must be one of {', '.join(names)}, is {_shown(given)}{_hint(str(given), names)}"


def _shown(given: Any) -> str:
    return f"'{given}'" if isinstance(given, str) else "null" if given is None else str(given)


def _hint(name: str, names: Iterable[str], prefix: str = "") -> str:
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return "".join(f"; did you mean '{prefix}{found}'?" for found in near)
