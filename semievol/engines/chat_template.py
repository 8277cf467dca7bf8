"""Turn chat messages into tokens, in the same way for training and for inference."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

from semievol.errors import UserError
from semievol.method.prompts import Messages, without_system


def load_tokenizer(base: str) -> Any:
    """Load the tokenizer of a model; `base` is a local folder or a hub id."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base, trust_remote_code=False)


class ChatTemplate:
    """The chat template of a tokenizer. If it shows no system message, the user's message begins with that text."""

    def __init__(self, tokenizer: Any) -> None:
        from transformers import PreTrainedTokenizerBase

        self._tokenizer = tokenizer
        # vLLM's own tokenizers for Mistral and DeepSeek take one prompt at a time.
        self._many = type(tokenizer).apply_chat_template is PreTrainedTokenizerBase.apply_chat_template
        if self._many and not tokenizer.chat_template:
            raise UserError(
                f"{tokenizer.name_or_path}: the tokenizer has no chat template; the model may not be tuned to follow "
                f"instructions. Use an instruction-tuned model, or put a chat_template.jinja into its folder"
            )
        self.takes_system = True
        self.takes_system = self._shows_system()

    def shown(self, prompt: Messages) -> Messages:
        """Return the prompt in a form that the template shows in full."""
        return prompt if self.takes_system else without_system(prompt)

    def prompts(self, prompts: list[Messages]) -> list[list[int]]:
        """Return the token ids of prompts, up to the beginning of the response."""
        shown = list(map(self.shown, prompts))
        options = {"add_generation_prompt": True, "return_dict": False}
        if self._many:
            return list(self._tokenizer.apply_chat_template(shown, **options))
        return [list(self._tokenizer.apply_chat_template(prompt, **options)) for prompt in shown]

    def exchange(self, prompt: Messages, completion: Messages) -> dict[str, list[int]]:
        """Return the token ids of a training row and its labels, which are -100 for the tokens of the prompt.

        The result equals that of TRL's SFTTrainer, which would tokenize all rows in each worker.
        """
        [prompt_ids] = self.prompts([prompt])
        whole = self._tokenizer.apply_chat_template([*self.shown(prompt), *completion], return_dict=False)
        pairs = zip(prompt_ids, whole, strict=False)
        shared = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        if shared < len(prompt_ids):
            warnings.warn(
                "the template renders a prompt differently when a response follows, so training differs from inference",
                stacklevel=2,
            )
        return {"input_ids": whole, "labels": [-100] * shared + whole[shared:]}

    def _shows_system(self) -> bool:
        from jinja2 import TemplateError

        user = {"role": "user", "content": "x"}
        try:
            [with_system] = self.prompts([[{"role": "system", "content": "x"}, user]])
            [without] = self.prompts([[user]])
        except TemplateError:  # some templates, such as Gemma 2's, raise for a system message
            return False
        return with_system != without  # others leave it out
