"""The base class of all sections of a config, and the types that several of them use."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
)

FINGERPRINT = "fingerprint"  # a context of `model_dump`


class Section(BaseModel):
    """A group of settings. It refuses unknown keys and impossible values when it is made."""

    model_config = ConfigDict(
        extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, coerce_numbers_to_str=True
    )

    later: ClassVar[dict[str, Any]] = {}
    """Keys that came later, and the value with which all is as before: fingerprints leave a key with this value out."""

    @model_serializer(mode="wrap")
    def _dump(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        dumped: dict[str, Any] = handler(self)
        if info.context != FINGERPRINT:
            return dumped
        return {key: value for key, value in dumped.items() if key not in self.later or value != self.later[key]}


def added_later(default: Any) -> Any:
    """Return a field that older configs did not have. It is dumped only if it is not at its default, so that the fingerprints of
    their runs stay what they are."""
    return Field(default, exclude_if=lambda value: value == default)


def with_kind(default: str) -> BeforeValidator:
    """Make a group that names no `kind` one of the default kind."""
    return BeforeValidator(lambda given: {"kind": default} | given if isinstance(given, dict) else given)


def _matches(pattern: str, problem: str) -> AfterValidator:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"'{text}' {problem}")
        return text

    return AfterValidator(check)


def _rows(given: Any) -> Any:
    if isinstance(given, str) or (isinstance(given, float) and 0 < given < 1):
        return given
    raise ValueError(
        f"must be a file, a folder, a glob or a URI, or a fraction such as 0.2, is {'nothing' if given is None else given}"
    )


FolderName = Annotated[str, _matches(r"[\w][\w.-]*", "names a folder: letters, digits, . _ -")]
BaseURL = Annotated[
    str, _matches(r"https?://[^/\s]+(/\S*)?", "is not the base URL of an API, as in http://host:8000/v1")
]
Share = Annotated[float, Field(ge=0, le=1)]  # both ends included
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
ShareAboveZero = Annotated[float, Field(gt=0, le=1)]
FilesOrShare = Annotated[str | Annotated[float, Field(gt=0, lt=1)], BeforeValidator(_rows)]
Options = dict[str, Any]  # goes to a library as it is
