"""Chat templates in the shapes of the families that people bring, with the tokens that their tokenizers add."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.support.tokenizer import byte_level

_TURNS = "{% for m in messages %}"
_ASKS = "{% endfor %}{% if add_generation_prompt %}"

_CHATML = (
    _TURNS + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n" + _ASKS + "<|im_start|>assistant\n{% endif %}"
)
_QWEN2 = "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are Qwen.<|im_end|>\n{% endif %}" + _CHATML
# As Qwen3's: an empty thought before the last answer, one in the prompt where thinking is off, and none in the history.
_QWEN3 = (
    _TURNS + "<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content.split('</think>')[-1].lstrip('\n') }}<|im_end|>\n" + _ASKS + "<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
_QWEN3_WITHOUT_SWITCH = _QWEN3.replace("enable_thinking is defined and enable_thinking is false", "false")
_LLAMA3 = (
    "{{ bos_token }}"
    + _TURNS
    + "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
    + _ASKS
    + "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
_GEMMA2 = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}<bos>"
    + _TURNS
    + "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
    + _ASKS
    + "<start_of_turn>model\n{% endif %}"
)
_MISTRAL = (
    "<s>" + _TURNS + "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}</s>{% else %}{{ raise_exception('only user and assistant') }}"
    "{% endif %}{% endfor %}"
)
_R1 = (
    "<｜begin▁of▁sentence｜>" + _TURNS + "{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}"
    "<｜User｜>{{ m.content }}{% else %}<｜Assistant｜>{{ m.content.split('</think>')[-1] }}<｜end▁of▁sentence｜>{% endif %}"
    + _ASKS
    + "<｜Assistant｜><think>\n{% endif %}"
)
_DEEPSEEK31 = (
    _R1[: _R1.index("{% endfor %}")] + _ASKS + "<｜Assistant｜>"
    "{% if thinking is defined and thinking %}<think>{% else %}</think>{% endif %}{% endif %}"
)
_GPT_OSS = (
    _TURNS + "<|start|>{{ m.role }}{% if m.role == 'assistant' %}<|channel|>final{% endif %}<|message|>{{ m.content }}"
    "{{ '<|return|>' if m.role == 'assistant' and loop.last else '<|end|>' }}" + _ASKS + "<|start|>assistant{% endif %}"
)
_MAGISTRAL = _MISTRAL.replace(
    "{% else %}{{ raise_exception('only user and assistant') }}", "{% else %}[SYS]{{ m.content }}"
)
_GLM4 = "[gMASK]<sop>" + _TURNS + "<|{{ m.role }}|>\n{{ m.content }}" + _ASKS + "<|assistant|>\n{% endif %}"
_PHI3 = (
    _TURNS + "<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}<|endoftext|>{% endif %}"
)
# As LLaVA's and Idefics': content is a list of parts.
_IN_PARTS = (
    _TURNS + "<|im_start|>{{ m.role }}\n{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}"
    "{% endif %}{% endfor %}<|im_end|>\n" + _ASKS + "<|im_start|>assistant\n{% endif %}"
)
_IM = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_THINK = ["<think>", "</think>", "<tool_call>"]


@dataclass(frozen=True)
class Family:
    """A template, the tokens that its tokenizer adds, and what is to be found out about it."""

    template: str | None
    special: list[str]
    end: str  # of a turn
    eos: str
    before: str  # the answer, where thinking is off
    system: bool = True  # has a role for it
    markup: tuple[str, ...] = ()
    before_thinking: str | None = None  # the end of a prompt where thinking is on, if other

    def tokenizer(self) -> Any:
        return byte_level(self.template, self.special, list(self.markup), self.eos)


_EMPTY = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
_DEEPSEEK = ["<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"]
FAMILIES = {
    "chatml": Family(_CHATML, _IM, "<|im_end|>", "<|endoftext|>", "<|im_start|>assistant\n"),
    "qwen2": Family(_QWEN2, _IM, "<|im_end|>", "<|im_end|>", "<|im_start|>assistant\n"),
    "qwen3": Family(
        _QWEN3, _IM, "<|im_end|>", "<|im_end|>", _EMPTY, markup=(*_THINK,), before_thinking="<|im_start|>assistant\n"
    ),
    "qwen3 without a switch": Family(
        *(_QWEN3_WITHOUT_SWITCH, _IM, "<|im_end|>", "<|im_end|>", _EMPTY),
        markup=(*_THINK,),
        before_thinking="<|im_start|>assistant\n",
    ),
    "llama3": Family(
        *(_LLAMA3, ["<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"], "<|eot_id|>"),
        *("<|end_of_text|>", "<|start_header_id|>assistant<|end_header_id|>\n\n"),
    ),
    "gemma2": Family(
        *(_GEMMA2, ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"], "<end_of_turn>", "<eos>"),
        *("<start_of_turn>model\n", False),
    ),
    "mistral": Family(_MISTRAL, ["<s>", "</s>", "[INST]", "[/INST]"], "</s>", "</s>", "[/INST]", False),
    "magistral": Family(
        *(_MAGISTRAL, ["<s>", "</s>", "[INST]", "[/INST]", "[SYS]", "[THINK]", "[/THINK]"], "</s>", "</s>", "[/INST]")
    ),
    "r1": Family(
        *(_R1, _DEEPSEEK, "<｜end▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜Assistant｜><think>\n\n</think>\n\n"),
        markup=("<think>", "</think>"),
        before_thinking="<｜Assistant｜><think>\n",
    ),
    "deepseek 3.1": Family(
        *(_DEEPSEEK31, _DEEPSEEK, "<｜end▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜Assistant｜></think>"),
        markup=("<think>", "</think>"),
        before_thinking="<｜Assistant｜><think>",
    ),
    "gpt-oss": Family(
        *(_GPT_OSS, ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>"], "<|return|>", "<|return|>"),
        "<|start|>assistant<|channel|>final<|message|>",
        before_thinking="<|start|>assistant",
    ),
    "glm4": Family(
        *(_GLM4, ["<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>"], "<|endoftext|>"),
        *("<|endoftext|>", "<|assistant|>\n"),
    ),
    "phi3": Family(
        *(_PHI3, ["<|endoftext|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"], "<|end|>", "<|endoftext|>"),
        "<|assistant|>\n",
    ),
    "content in parts": Family(_IN_PARTS, [*_IM, "<image>"], "<|im_end|>", "<|im_end|>", "<|im_start|>assistant\n"),
    "base": Family(None, ["<|endoftext|>"], "<|endoftext|>", "<|endoftext|>", "\n\nAssistant:\n"),
}
