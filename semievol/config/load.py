"""From YAML and overrides to a checked config: OmegaConf reads, merges and interpolates, pydantic validates.

What is wrong is found here, before anything starts. It becomes one `UserError` with a line for each problem.
"""

from __future__ import annotations

import difflib
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from semievol.config import check
from semievol.config.schema import RunConfig
from semievol.errors import UserError

Kind = TypeVar("Kind", bound=BaseModel)
_ONLY_IN = {"methods": "a study; use `semievol study`", "model": "the config of a run; use `semievol run`"}


def load(path: str, overrides: list[str] | None = None) -> RunConfig:
    """Read a YAML config, apply `key=value` overrides, and check it.

    Raises:
        UserError: the file is missing or not YAML, a key is unknown (with the nearest valid one), a value has the
            wrong type or is out of bounds, a required key is missing, or a combination is impossible.
    """
    if not Path(path).is_file():
        raise UserError(f"config file not found: {path}")
    return loads(Path(path).read_text("utf-8"), overrides, path)


def loads(text: str, overrides: list[str] | None, path: str) -> RunConfig:
    """Like `load`, from the text of a config; `path` stands in messages."""
    config = structured(RunConfig, text, overrides, path)
    if found := list(check.problems(config)):
        raise UserError("\n".join(f"{path}: {problem}" for problem in found))
    return config


def structured(kind: type[Kind], text: str, overrides: list[str] | None, path: str) -> Kind:
    """Return a YAML text with `key=value` overrides as a model of this kind.

    Raises:
        UserError: as of `load`.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        given = OmegaConf.create(text)
    except (YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path}: not a readable YAML mapping: {error}") from None
    if not OmegaConf.is_dict(given):
        raise UserError(f"{path}: a config is a mapping of keys to values")
    read = [(override, _override(override)) for override in overrides or []]
    try:
        for where, changes in read:  # noqa: B007
            given = OmegaConf.merge(given, changes)
    except TypeError as error:
        raise UserError(f"{where}: {error}. A list is only replaced as a whole: KEY=[..]") from None
    try:
        given = OmegaConf.merge(_preset(given.get("preset")), given)
        merged = _with_defaults(kind, given)
        missing = OmegaConf.missing_keys(merged)
        values = OmegaConf.to_container(merged, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{path}: {error.full_key or 'config'}: {str(error.msg or error).splitlines()[0]}") from None
    try:
        config = kind.model_validate(values)
    except ValidationError as error:
        raise UserError(_report(error, kind, path, read, missing)) from None
    if missing:
        raise UserError(_missing(path, missing))
    return config


def to_yaml(config: RunConfig) -> str:
    """Return the resolved config as YAML: what `load` reads back to an equal config."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(config.model_dump()))


def _override(text: str) -> Any:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    if "=" not in text:
        raise UserError(f"{text}: an override is written KEY=VALUE")
    try:
        return OmegaConf.from_dotlist([text])
    except (YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{text}: not a value in YAML's notation: {str(error).splitlines()[0]}") from None


def _preset(name: Any) -> Any:
    """Return the settings of a preset; an unknown one is reported with the other problems."""
    from importlib.resources import files

    from omegaconf import OmegaConf

    if name == "default" or name not in get_args(RunConfig.model_fields["preset"].annotation):
        return {}
    return OmegaConf.create(files("semievol").joinpath("config", "presets", f"{name}.yaml").read_text("utf-8"))


def _with_defaults(kind: type[BaseModel], given: Any) -> Any:
    from omegaconf import OmegaConf

    try:
        return OmegaConf.merge(_defaults(kind), given)
    except TypeError:
        return given  # a list is where a group of settings should be, which the validation reports


@cache
def _defaults(kind: type[BaseModel]) -> Any:
    """Return the defaults that interpolations may refer to: of groups and plain values, without those of a `kind`."""
    found: dict[str, Any] = {}
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found[name] = _defaults(field.annotation)
        elif not field.is_required() and not field.discriminator and not isinstance(field.default, list):
            found[name] = field.default
    return found


def _missing(path: str, keys: set[str]) -> str:
    return f"{path}: missing required key(s): {', '.join(sorted(keys))}. Set them in the file or as key=value"


def _report(
    error: ValidationError, kind: type[BaseModel], path: str, read: list[tuple[str, Any]], missing: set[str]
) -> str:
    """Return all problems, one a line: where it was said, the key, and what would be right."""
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
            said = message.partition(":")[0] if problem["type"] == "value_error" else key
            given = (text for text, changes in reversed(read) if OmegaConf.select(changes, said) is not None)
            lines.append(f"{next(given, path)}: {message}")
    return "\n".join([*lines, *([_missing(path, missing)] if missing else [])])


def _place(schema: dict[str, Any], location: tuple[int | str, ...]) -> tuple[str, dict[str, Any]]:
    """Return the key of a place and its part of a JSON Schema: of a value that is unknown, the group that it is in."""
    key, node = "", _resolved(schema, schema)
    for part in location:
        if part == "[key]":
            continue  # pydantic's mark for the key of a mapping itself
        if "discriminator" in node:  # pydantic names the kind here, which is part of no key
            node = _resolved(schema, {"$ref": node["discriminator"]["mapping"][part]})
            continue
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else part
        inside = node.get("items") or node.get("properties", {}).get(part) or node.get("additionalProperties")
        node = _resolved(schema, inside) if inside else node
    return key, node


def _resolved(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    return schema["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node


def _message(problem: Any, key: str, node: dict[str, Any]) -> str:
    """Return what is wrong, beginning with the key."""
    given = problem["input"]
    shown = f"'{given}'" if isinstance(given, str) else "null" if given is None else given
    match problem["type"]:
        case "extra_forbidden":
            name, keys = str(problem["loc"][-1]), list(node["properties"])
            near = _nearest(name, keys)
            hint = (
                f"; did you mean '{key.removesuffix(name)}{near}'?" if near else f"; valid keys here: {', '.join(keys)}"
            )
            return f"unknown key '{key}'{hint}"
        case "value_error":
            group = f"{key}." if key and "properties" in node else f"{key}: " if key else ""
            return f"{group}{problem['ctx']['error']}"
        case "union_tag_invalid":
            return f"{key}.kind: {_one_of(problem['ctx']['tag'], list(node['discriminator']['mapping']))}"
        case "literal_error" if "enum" in node:
            return f"{key}: {_one_of(given, node['enum'])}"
        case "model_type" | "model_attributes_type":
            keys = node.get("properties") or ["kind", ".."]
            return f"{key} is a group of settings ({', '.join(keys)}), and not {shown}"
        case "list_type":
            return f"{key} is a list, and only replaced as a whole: {key}=[..]"
    return (
        f"{key}: {problem['msg'].replace('Input should', 'must').replace('must be a valid', 'must be a')}, is {shown}"
    )


def _one_of(given: Any, choices: list[Any]) -> str:
    near = _nearest(str(given), list(map(str, choices)))
    hint = f"; did you mean '{near}'?" if near else ""
    return f"must be one of {', '.join(map(str, choices))}, is '{given}'{hint}"


def _nearest(name: str, names: list[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, names, n=1, cutoff=0.5)), None)
