"""Chat templates: from messages to tokens, by one rule for training and for the engine."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

from semievol.errors import UserError
from semievol.method.prompts import Messages, without_system


def load_tokenizer(base: str) -> Any:
    """Return the tokenizer of a local folder or hub id."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base, trust_remote_code=False)


class ChatTemplate:
    """The chat template of a tokenizer. If it has no system message, its text opens the user's."""

    def __init__(self, tokenizer: Any) -> None:
        from transformers import PreTrainedTokenizerBase

        self._tokenizer = tokenizer
        # vLLM's own tokenizers for Mistral and DeepSeek take one prompt at a time.
        self._many = type(tokenizer).apply_chat_template is PreTrainedTokenizerBase.apply_chat_template
        if self._many and not tokenizer.chat_template:
            raise UserError(
                f"{tokenizer.name_or_path}: its tokenizer has no chat template, as those of models that are not tuned to "
                f"follow instructions. Take one that is, or put a chat_template.jinja into its folder"
            )
        self.takes_system = True
        self.takes_system = self._shows_system()

    def shown(self, prompt: Messages) -> Messages:
        """Return the prompt as the template can show it."""
        return prompt if self.takes_system else without_system(prompt)

    def prompts(self, prompts: list[Messages]) -> list[list[int]]:
        """Return the token ids of prompts, up to where the response begins."""
        shown = list(map(self.shown, prompts))
        options = {"add_generation_prompt": True, "return_dict": False}
        if self._many:
            return list(self._tokenizer.apply_chat_template(shown, **options))
        return [list(self._tokenizer.apply_chat_template(prompt, **options)) for prompt in shown]

    def exchange(self, prompt: Messages, completion: Messages) -> dict[str, list[int]]:
        """Return the token ids of a training row, and its labels: -100 for those of the prompt, as in TRL."""
        [asked] = self.prompts([prompt])
        whole = self._tokenizer.apply_chat_template([*self.shown(prompt), *completion], return_dict=False)
        shared = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(asked, whole, strict=False)))
        if shared < len(asked):
            warnings.warn(
                "the chat template renders a prompt otherwise when a response follows, so the model is trained on other "
                "prompts than it will be asked",
                stacklevel=2,
            )
        return {"input_ids": whole, "labels": [-100] * shared + whole[shared:]}

    def _shows_system(self) -> bool:
        from jinja2 import TemplateError

        system, user = ({"role": role, "content": "x"} for role in ("system", "user"))
        try:
            return self.prompts([[system, user]]) != self.prompts([[user]])  # some leave it out
        except TemplateError:  # some refuse it, as that of Gemma 2
            return False
