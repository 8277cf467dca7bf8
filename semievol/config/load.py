"""From YAML and overrides to a checked config, by OmegaConf and the dataclasses of `schema`.

What is wrong is found here, before anything starts: each becomes a `UserError` that names the key and the nearest valid one.
"""

from __future__ import annotations

import dataclasses
import difflib
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from semievol.config.check import check
from semievol.config.schema import RunConfig
from semievol.errors import UserError

Kind = TypeVar("Kind")


def load(path: str, overrides: list[str] | None = None) -> RunConfig:
    """Read a YAML config, apply `key=value` overrides, and check it.

    Raises:
        UserError: the file is missing or no YAML, a key is unknown (with the nearest valid one), a value has the
            wrong type, a required key is missing, or a combination is impossible.
    """
    if not Path(path).is_file():
        raise UserError(f"config file not found: {path}")
    return loads(Path(path).read_text("utf-8"), overrides, path)


def loads(text: str, overrides: list[str] | None, path: str) -> RunConfig:
    """Like `load`, from the text of a config; `path` stands in messages."""
    config = structured(RunConfig, text, overrides, path)
    check(config)
    return config


def structured(kind: type[Kind], text: str, overrides: list[str] | None, path: str) -> Kind:
    """A YAML text with `key=value` overrides as a dataclass of this kind, keys and types checked.

    Raises:
        UserError: as of `load`.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    schema, keys = _schema(kind)  # type: ignore[arg-type]  # mypy takes the class for unhashable, as its objects are
    try:
        in_file = OmegaConf.create(text)
        if not OmegaConf.is_dict(in_file):
            raise UserError(f"{path}: a config is a mapping of keys to values")
    except (YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path}: not a readable YAML mapping: {error}") from None
    _reject_unknown_keys(OmegaConf.to_container(in_file), keys, path)
    by_hand = _overrides(overrides or [], keys)
    try:
        try:
            given = OmegaConf.merge(in_file, by_hand)
        except TypeError as error:  # [i] of a list under a key that takes anything, as engine.extra
            raise UserError(
                f"{', '.join(overrides or [])}: {error}. A list is only replaced as a whole: KEY=[..]"
            ) from None
        merged = OmegaConf.merge(schema, _preset(OmegaConf.select(given, "preset", default="default")), given)
        missing = sorted(OmegaConf.missing_keys(merged))
        if missing:
            raise UserError(
                f"{path}: missing required key(s): {', '.join(missing)}. Set them in the file or as key=value"
            )
        config: Kind = OmegaConf.to_object(merged)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise UserError(f"{path}: {error.full_key or 'config'}: {str(error.msg or error).splitlines()[0]}") from None
    return config


@cache
def _schema(kind: type[Any]) -> tuple[Any, Any]:
    """The dataclass for OmegaConf, which copies it, and as plain containers; to make it takes a tenth of a second."""
    from omegaconf import OmegaConf

    schema = OmegaConf.structured(kind)
    return schema, OmegaConf.to_container(schema)


def _preset(name: Any) -> Any:
    from importlib.resources import files

    from omegaconf import OmegaConf

    if name == "default":
        return {}
    folder = files("semievol").joinpath("config", "presets")
    known = sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))
    if name not in known:
        raise UserError(f"preset: '{name}' is none of default, {', '.join(known)}")
    return OmegaConf.create(folder.joinpath(f"{name}.yaml").read_text("utf-8"))


def to_yaml(config: RunConfig) -> str:
    """The resolved config as YAML: what `load` reads back to an equal config."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(config)))


def _overrides(texts: list[str], keys: Any) -> Any:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    made: Any = OmegaConf.create()
    for text in texts:
        if "=" not in text:
            raise UserError(f"{text}: an override is written KEY=VALUE")
        try:
            one = OmegaConf.from_dotlist([text])
        except (YAMLError, OmegaConfBaseException) as error:
            raise UserError(f"{text}: not a value in YAML's notation: {str(error).splitlines()[0]}") from None
        _reject_unknown_keys(OmegaConf.to_container(one), keys, text)
        made = OmegaConf.merge(made, one)
    return made


# Keys that only the other kind of file has.
_KINDS = {"methods": "a study; use `semievol study`", "model": "the config of a run; use `semievol run`"}


def _reject_unknown_keys(given: Any, schema: Any, where: str, prefix: str = "") -> None:
    """Args: where: the file or the override that it stands in; prefix: the key of `given`, with its dot."""
    key = prefix.rstrip(".")
    if isinstance(schema, list):
        if not isinstance(given, list):
            raise UserError(f"{where}: {key} is a list, and only replaced as a whole: {key}=[..]")
        for i, one in enumerate(given if schema else ()):
            _reject_unknown_keys(one, schema[0], where, f"{key}[{i}].")
    if not isinstance(schema, dict) or not schema:
        return  # a value; an empty mapping takes any key
    if not isinstance(given, dict):
        raise UserError(f"{where}: {key} is a group of settings ({', '.join(schema)}), and not '{given}'")
    for name, kind in _KINDS.items():
        if not prefix and name in given and name not in schema:
            raise UserError(f"{where}: this is {kind}")
    for name, value in given.items():
        if name not in schema:
            near = difflib.get_close_matches(str(name), list(schema), n=1, cutoff=0.5)
            hint = f"; did you mean '{prefix}{near[0]}'?" if near else f"; valid keys here: {', '.join(schema)}"
            raise UserError(f"{where}: unknown key '{prefix}{name}'{hint}")
        if value is not None:  # an empty group is one without settings
            _reject_unknown_keys(value, schema[name], where, f"{prefix}{name}.")
