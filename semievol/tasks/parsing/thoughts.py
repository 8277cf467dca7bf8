"""Tell what a response answers from what its model thought before, in the notations of all families."""

from __future__ import annotations

import re

_NAME = r"(?:\w+[:_])?(?:think|thinking|thoughts?|reasoning|analysis)"
# <think>, ◁think▷, <seed:think>, [THINK], <|begin_of_thought|>, <|START_THINKING|>, and what closes them.
_OPEN = rf"(?:[<◁](?i:{_NAME})[>▷]|\[THINK\]|<\|(?i:begin_of_thought|start_thinking)\|>)"
_CLOSE = re.compile(rf"[<◁]/(?i:{_NAME})[>▷]|\[/THINK\]|<\|(?i:end_of_thought|end_thinking)\|>")
# Thoughts come first, or at the beginning of a line; `<think>` within a sentence is spoken of.
_BEGINS = re.compile(rf"^[ \t]*{_OPEN}", re.MULTILINE)
_FIRST = re.compile(rf"\s*({_OPEN})(.*?)((?:{_CLOSE.pattern})\s*)", re.DOTALL)
_ENDS_OPEN = re.compile(rf"({_OPEN})\s*\Z")
# The channels of gpt-oss; without its control tokens: "analysis...assistantfinal...".
_FINAL = re.compile(r"<\|channel\|>final(?:\s*<\|constrain\|>\w+)?<\|message\|>")
_CHANNEL = re.compile(r"\s*(?:<\|start\|>assistant)?<\|channel\|>")
_BARE_CHANNELS = re.compile(r"\s*analysis.*?assistantfinal", re.DOTALL)
_END, _LONGEST_END = re.compile(r"(?:<[|｜][^|｜<>\s]{1,40}[|｜]>|</s>|<end_of_turn>|<eos>)\s*\Z"), 60
_TAG = re.compile(r"<[^<>\n]{0,40}>")


def without_thought(response: str) -> str | None:
    """Return the part of a response behind the model's thoughts; None where a thought has no end."""
    said = response
    if closed := list(_CLOSE.finditer(said)):
        said = said[closed[-1].end() :]
    if final := list(_FINAL.finditer(said)):
        said = said[final[-1].end() :]
    elif _CHANNEL.match(said):
        return None
    elif bare := _BARE_CHANNELS.match(said):
        said = said[bare.end() :]
    return None if _BEGINS.search(said) else said


def first(text: str) -> tuple[str, str, str, str] | None:
    """Return the thought with which a text begins, as its opening tag, the thought, its end, and the rest of the text."""
    found = _FIRST.match(text)
    return (found[1], found[2], found[3], text[found.end() :]) if found else None


def ends_in(text: str) -> bool:
    """Tell whether a thought ends in a text."""
    return bool(_CLOSE.search(text) or _FINAL.search(text))


def tells(token: str) -> bool:
    """Tell whether a token separates thoughts from answers."""
    return bool(re.fullmatch(rf"{_OPEN}|{_CLOSE.pattern}|<\|(?:channel|message)\|>", token))


def opened(prompt: str) -> str | None:
    """Return the tag with which a prompt ends, if it opens a thought."""
    found = _ENDS_OPEN.search(prompt)
    return found[1] if found else None


def closing(tag: str) -> str:
    """Return the tag that closes a thought which another one opened."""
    marked = re.sub("begin(?=_of_)", "end", re.sub("START", "END", tag))
    return marked if marked != tag else f"{tag[0]}/{tag[1:]}"


def own_turn(response: str) -> str:
    """Return a response up to the first turn that it invents: a line that only names the user, and a reply after it.

    A model that was not stopped at the end of its turn goes on, and its last answer is one to a question of its own. Tokens
    that end a turn are left out.
    """
    lines = response.splitlines(keepends=True) if "\n" in response else []
    roles = [_TAG.sub("", line[:200]).strip(" \t\r\n:#*[]|").lower() for line in lines]
    replies = [place for place, role in enumerate(roles) if role in ("assistant", "model")]
    asks = [place for place, role in enumerate(roles) if role in ("user", "human") and replies and place < replies[-1]]
    before = "".join(lines[: asks[0]]) if asks else ""
    return without_end(before if before.strip() else response)  # a list of words may begin with "user"


def without_end(text: str) -> str:
    """Return a text without the tokens that end a turn, which some endpoints and files have behind it."""
    end = len(text)
    while found := _END.search(text[max(0, end - _LONGEST_END) : end]):
        end -= len(found[0])
    return text[:end]
