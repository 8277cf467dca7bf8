"""A tokenizer small enough to check its tokens by eye."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
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


CONTROL = ["<|begin|>", "<|start|>", "<|end|>"]
CHAT = (
    "{{ bos_token }}{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


def letters(template: str | None = CHAT) -> PreTrainedTokenizerFast:
    """Return a tokenizer that loses nothing: its tokens are bytes and three control tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    spelled = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(alphabet)}, merges=[]))
    spelled.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    spelled.decoder = decoders.ByteLevel()
    begin, start, end = CONTROL
    more = {"bos_token": begin, "eos_token": end, "additional_special_tokens": [start]}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=spelled, **more)
    tokenizer.chat_template = template
    return tokenizer
