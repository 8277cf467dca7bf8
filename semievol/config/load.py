"""Load a config from YAML and overrides: OmegaConf reads, merges and interpolates, pydantic validates."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from semievol.config import check, report
from semievol.config.schema import RunConfig
from semievol.errors import UserError

Kind = TypeVar("Kind", bound=BaseModel)


def load(path: str, overrides: list[str] | None = None) -> RunConfig:
    """Read a YAML config, apply `key=value` overrides, and check it. A UserError has a line for each problem."""
    if not Path(path).is_file():
        raise UserError(f"config file not found: {path}. `semievol init LABELED UNLABELED` writes one for your files")
    return loads(Path(path).read_text("utf-8"), overrides, path)


def of_run(text: str, overrides: list[str] | None, path: str) -> RunConfig:
    """Like `loads`, from the config.yaml of a run. Versions before 0.4 wrote there the keys of all kinds of a group."""
    from omegaconf import OmegaConf

    given: Any = OmegaConf.create(text)
    for name, field in RunConfig.model_fields.items():
        if field.discriminator and name in given:
            kinds = {kind.model_fields["kind"].default: kind for kind in get_args(field.annotation)}
            known = kinds[given[name].kind].model_fields
            given[name] = {key: value for key, value in given[name].items() if key in known}
    return loads(OmegaConf.to_yaml(given), overrides, path)


def loads(text: str, overrides: list[str] | None, path: str) -> RunConfig:
    """Like `load`, from the text of a config; messages name `path`."""
    config = structured(RunConfig, text, overrides, path)
    if found := list(check.problems(config, _preset(config.preset))):
        raise UserError("\n".join(f"{path}: {problem}" for problem in found))
    return config


def structured(kind: type[Kind], text: str, overrides: list[str] | None, path: str) -> Kind:
    """Return a YAML text with `key=value` overrides as a model of this kind."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError, safe_load

    try:
        given: Any = OmegaConf.create(text)
        bare = isinstance(safe_load(text), str)  # which OmegaConf takes as a key
    except (YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path}: not a readable YAML mapping: {error}") from None
    if bare or not OmegaConf.is_dict(given):
        raise UserError(
            f"{path}: a config is a mapping of keys to values in YAML. For a file with rows, `semievol init` writes one"
        )
    read = []
    for override in overrides or []:
        if "=" not in override:
            raise UserError(f"{override}: an override is written KEY=VALUE")
        try:
            read.append((override, OmegaConf.from_dotlist([override])))
            given = OmegaConf.merge(given, read[-1][1])
        except (YAMLError, OmegaConfBaseException) as error:
            raise UserError(
                f"{override}: not a value in YAML's notation: {str(error).splitlines()[0]}. A text with signs needs quotes "
                f"of its own: 'KEY=\"...\"'"
            ) from None
        except TypeError as error:
            raise UserError(f"{override}: {error}. A list is only replaced as a whole: KEY=[..]") from None
    try:
        given = OmegaConf.merge(OmegaConf.create(_preset(given.get("preset"))), given)
        with suppress(TypeError):  # a list is where a group of settings should be, which the validation reports
            given = OmegaConf.merge(_defaults(kind), given)
        missing = OmegaConf.missing_keys(given)
        values = OmegaConf.to_container(given, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{path}: {error.full_key or 'config'}: {str(error.msg or error).splitlines()[0]}") from None
    try:
        config = kind.model_validate(values)
    except ValidationError as error:
        raise UserError(report.problems(error, kind, path, read, missing)) from None
    if missing:
        raise UserError(report.missing_keys(path, missing))
    return config


def to_yaml(config: RunConfig) -> str:
    """Return the resolved config as YAML: what `load` reads back to an equal config."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(config.model_dump()))


def _preset(name: Any) -> Any:
    """Return the settings of a preset; an unknown one is reported with the other problems."""
    from omegaconf import OmegaConf

    if name == "default" or name not in get_args(RunConfig.model_fields["preset"].annotation):
        return {}
    text = files("semievol").joinpath("config", "presets", f"{name}.yaml").read_text("utf-8")
    return OmegaConf.to_container(OmegaConf.create(text))


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
