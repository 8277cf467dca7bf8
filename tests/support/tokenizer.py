"""A tokenizer small enough to check its tokens by eye."""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

_BAD_ROLE = "{% if m.role == 'bad' %}{{ raise_exception('no such role') }}{% endif %}"
RESPONDS = "{% if m.role == 'assistant' %}0 {% endif %}"
# Shows every role but `bad`; a response begins with the token 0.
ALL = (
    "{% for m in messages %}"
    + _BAD_ROLE
    + RESPONDS
    + "{{ m.content }} {% endfor %}{% if add_generation_prompt %}0{% endif %}"
)


def numbers(template: str | None = ALL) -> PreTrainedTokenizerFast:
    """Return a tokenizer in which the token of a number below 200 is the number."""
    words = Tokenizer(models.WordLevel({str(n): n for n in range(200)} | {"?": 200}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?")
    tokenizer.chat_template = template
    return tokenizer


def byte_level(
    template: str | None, special: list[str], markup: list[str] | None = None, eos: str | None = None
) -> Any:
    """Return a tokenizer of bytes and added tokens: `special` ones, and `markup` that is not special (Qwen's <think>)."""
    letters = {letter: n for n, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokens = Tokenizer(models.BPE(letters, []))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    tokens.add_special_tokens([AddedToken(text, special=True) for text in special])
    tokens.add_tokens([AddedToken(text, special=False, normalized=False) for text in markup or []])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token=eos)
    tokenizer.chat_template = template
    return tokenizer
