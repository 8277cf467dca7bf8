"""Read lists and chats that stand as text in a cell."""

from __future__ import annotations

import re
from typing import Any

from semievol.tasks.parsing.lists import literal

_SPEAKERS = r"(?P<role>Human|User|Assistant|AI|GPT|System)"
_MARKS = (
    re.compile(r"###\s*" + _SPEAKERS + r":"),  # guanaco
    re.compile(r"(?:\A|\n\n)" + _SPEAKERS + r":"),  # Anthropic
    re.compile(r"(?:\A|\n)" + _SPEAKERS + r":"),
    # What chat templates make of a chat: ChatML, Llama 3, Gemma, Zephyr and Phi.
    re.compile(r"<\|im_start\|>(?P<role>\w+)\n"),
    re.compile(r"<\|start_header_id\|>(?P<role>\w+)<\|end_header_id\|>"),
    re.compile(r"<start_of_turn>(?P<role>\w+)\n"),
    re.compile(r"<\|(?P<role>system|user|assistant)\|>"),
    re.compile(r"(?P<role>\[/?INST\])"),  # Llama 2, Mistral
)
_ROLES = {"[INST]": "user", "[/INST]": "assistant"}
_BEGINNING = re.compile(r"\A(?:<s>|<bos>|<\|begin_of_text\|>)\s*")
_ENDS = re.compile(r"\s*(?:(?:<\|im_end\|>|<\|eot_id\|>|<end_of_turn>|<\|end\|>|<\|endoftext\|>|</?s>)\s*)+\Z")


def decoded(value: Any) -> Any:
    """Return the list or mapping that a text writes down; anything else as it is."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    found = literal(value.strip())
    return found if isinstance(found, (list, dict)) else value


def transcript(text: str) -> list[dict[str, str]] | None:
    """Return the turns of a text such as "Human: .. Assistant: ..", or None if it is not one of two turns or more."""
    text = _BEGINNING.sub("", text.strip())
    for mark in _MARKS:
        found = list(mark.finditer(text))
        if len(found) < 2 or found[0].start() != 0:
            continue
        ends = [*(match.start() for match in found[1:]), len(text)]
        said = [_ENDS.sub("", text[match.end() : end]).strip() for match, end in zip(found, ends, strict=True)]
        roles = [_ROLES.get(match["role"], match["role"]) for match in found]
        return [{"role": role, "content": content} for role, content in zip(roles, said, strict=True)]
    return None
