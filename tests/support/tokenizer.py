"""A tokenizer small enough to check its tokens by eye."""

from __future__ import annotations

from tokenizers import Tokenizer, models, pre_tokenizers
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
