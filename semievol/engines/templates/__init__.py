"""Chat templates: the model's own, those that come with the package (NAME.jinja in this folder), and files of users.

plain   roles as text ("User:", "Assistant:"); the end of a sequence ends a response
chatml  <|im_start|> and <|im_end|>
alpaca  "### Instruction:" and "### Response:"
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from semievol.config import ModelConfig
from semievol.data import storage
from semievol.errors import UserError

DEFAULT = "plain"  # of a model without a template
Thinking = Literal["off", "on"]


@dataclass(frozen=True)
class ChatSettings:
    """How a model is spoken to: the Jinja text of a template instead of its own, and whether it thinks first."""

    template: str | None = None
    thinking: Thinking = "off"

    @classmethod
    def of(cls, model: ModelConfig) -> ChatSettings:
        """Return the settings of a config; what is in a template's file travels with them."""
        return cls(source(model.chat_template) if model.chat_template else None, model.thinking)


OWN_TEMPLATE = ChatSettings()


def names() -> list[str]:
    """Return the names of the templates that come with the package."""
    files = resources.files(__name__).iterdir()
    return sorted(file.name.removesuffix(".jinja") for file in files if file.name.endswith(".jinja"))


def source(template: str) -> str:
    """Return the Jinja text of a template, given by its name, or by a file or URI."""
    if template in names():
        return (resources.files(__name__) / f"{template}.jinja").read_text("utf-8")
    try:
        return storage.read_text(template)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"model.chat_template: '{template}' is neither a readable file of a Jinja template ({error}) nor one of "
            f"{', '.join(names())}"
        ) from None


def own(tokenizer: Any) -> str | None:
    """Return the model's own template: of its tokenizer, or of the processor beside it."""
    if tokenizer.chat_template:
        return str(tokenizer.get_chat_template())
    beside = file_of(str(tokenizer.name_or_path), "chat_template.json")
    return json.loads(Path(beside).read_text("utf-8")).get("chat_template") if beside else None


def file_of(base: str, name: str) -> str | None:
    """Return the path of a file of a model, which is a local folder or a hub id; None if it has none of this name."""
    from transformers.utils import cached_file

    with suppress(OSError):  # the name of a tokenizer that was made in memory
        return str(found) if base and (found := cached_file(base, name)) else None
    return None
