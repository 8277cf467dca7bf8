"""The control tokens of a tokenizer, and how text of people is kept from spelling them."""

from __future__ import annotations

import re
from typing import Any

# <think>, </s>, [INST], <|im_end|>, <｜User｜>, ◁think▷: an added token of this shape is not a word.
_MARKUP = re.compile(r"[<\[{|◁【](?=\S*\w)\S*[>\]}|▷】]")


class ControlTokens:
    """The tokens that steer a model: the special ones, and other added ones in the shape of markup.

    Added tokens that are ordinary words or white space are text.

    Attributes:
        ids: Their ids.
        special: The ids that tokenizers leave out when they decode, with their texts.
    """

    def __init__(self, tokenizer: Any) -> None:
        added = getattr(tokenizer, "added_tokens_decoder", {})
        named = zip(
            getattr(tokenizer, "all_special_ids", ()), getattr(tokenizer, "all_special_tokens", ()), strict=True
        )
        self.special = dict(named) | {token: str(text) for token, text in added.items() if text.special}
        markup = {token: str(text) for token, text in added.items() if _MARKUP.fullmatch(str(text))}
        unknown, end = (getattr(tokenizer, f"{name}_token_id", None) for name in ("unk", "eos"))
        self.ids = (self.special.keys() | markup.keys()) - ({unknown} if unknown != end else set())
        texts = {text for text in (self.special | markup).values() if len(text.strip()) > 1}
        longest_first = sorted(map(re.escape, texts), key=len, reverse=True)
        self._spelled = re.compile("|".join(longest_first)) if texts else None

    def as_text(self, text: str) -> str:
        """Return the text with a blank after the first character of whatever would become a control token.

        Chat templates are rendered to one text and tokenized as a whole, so `<|im_end|>` in a question would end its turn.
        """
        while self._spelled and self._spelled.search(text):  # a piece left over may form another one
            text = self._spelled.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
        return text
