"""Turn chat messages into tokens, in the same way for training and for inference.

What was trained, scored and asked stands behind the same tokens, because a training row is the prompt's tokens, those of
the answer, and those that end the turn. What else a template would do when a response follows does not matter.
"""

from __future__ import annotations

import json
import re
from typing import Any

from semievol.engines import templates
from semievol.engines.control_tokens import ControlTokens
from semievol.engines.templates import Thinking
from semievol.errors import UserError
from semievol.method.prompts import Messages, text_of, without_system
from semievol.tasks.parsing import thoughts

_PROBES = "Probe7Question", "Probe7Answer"
_SWITCHES = ("enable_thinking", "thinking")  # by which templates turn thinking on and off


def load_tokenizer(base: str) -> Any:
    """Load the tokenizer of a model; `base` is a local folder or a hub id.

    Models of Mistral bring two, and the one of mistral-common renders no template.
    """
    from transformers import AutoTokenizer

    ours = {"mistral_format": False} if templates.file_of(base, "tokenizer.json") else {}
    return AutoTokenizer.from_pretrained(base, trust_remote_code=False, **ours)


class ChatTemplate:
    """The chat template of a model, as it is used here.

    If it shows no system message, the user's message begins with that text. Control tokens in people's text become text.
    With `thinking: off` each prompt ends where the answer begins: behind what the template itself puts before an answer
    (an empty thought, the header of a channel). With `on` the model writes that, and given answers stand behind it.

    Attributes:
        source: The Jinja text, with the mode of thinking in it: whoever renders it gets the same prompts. None where
            a tokenizer renders without one, as that of mistral-common does.
        end: The token that ends the assistant's turn.
        lead: The tokens between a prompt and a given answer.
        opened: The tag of a thought that prompts open; responses go on inside it.
    """

    def __init__(self, tokenizer: Any, chat_template: str | None = None, thinking: Thinking = "off") -> None:
        """Look at what the template renders.

        Args:
            chat_template: the Jinja text of a template to use instead of the model's own.
        """
        from transformers import PreTrainedTokenizerBase

        self._tokenizer, self._thinks = tokenizer, thinking == "on"
        self._control = ControlTokens(tokenizer)
        tells = {token for token, text in self._control.special.items() if thoughts.tells(text)}
        self._hidden = self._control.special.keys() - tells if tells else None
        self._jinja = type(tokenizer).apply_chat_template is PreTrainedTokenizerBase.apply_chat_template
        self._options: dict[str, Any] = {"return_dict": False}
        self.source: str | None = None
        self.end: int | None = getattr(tokenizer, "eos_token_id", None)
        self._ends = [self.end] if self.end is not None else []
        self.lead: list[int] = []
        self.opened: str | None = None
        self._anchor, self._before = "", list[int]()  # the white space that answers follow, and its tokens
        self._in_parts = False  # the content of a message is a list of parts, as some multimodal models want it
        if self._jinja:
            own = chat_template or templates.own(tokenizer)
            self._learn(_switched(own or templates.source(templates.DEFAULT), self._thinks))
        self.takes_system = True
        self.takes_system = self._shows_system()

    @property
    def stop_token_ids(self) -> list[int]:
        """Return the tokens at which a response ends, besides those that the model's own files name."""
        return [] if self.end is None else [self.end]

    def shown(self, prompt: Messages) -> Messages:
        """Return the prompt in a form that the template shows in full, and as text where people wrote it."""
        prompt = [message | {"content": self._as_text(message)} for message in prompt]
        return prompt if self.takes_system else without_system(prompt)

    def prompts(self, prompts: list[Messages]) -> list[list[int]]:
        """Return the token ids of prompts, up to the beginning of the response."""
        shown = [self._as_given(self.shown(prompt)) for prompt in prompts]
        options = self._options | {"add_generation_prompt": True}
        if self._jinja:
            return list(self._tokenizer.apply_chat_template(shown, **options))
        return [list(self._tokenizer.apply_chat_template(prompt, **options)) for prompt in shown]

    def encode(self, answer: str) -> list[int]:
        """Return the token ids of an answer, as they stand behind a prompt (and `lead`)."""
        answer = self._control.as_text(answer)
        before, whole = self._before, self._tokens(self._anchor + answer)
        # Tokenizers of SentencePiece put a blank before a text, but not behind a line break.
        return whole[len(before) :] if whole[: len(before)] == before else self._tokens(answer)

    def response(self, answer: str) -> list[int]:
        """Return the token ids of an answer with those that end the turn: the last ones of its `exchange`."""
        return self.encode(answer) + self._ends

    def decode(self, responses: list[list[int]]) -> list[str]:
        """Return the texts of responses, without special tokens but those that tell a thought from the answer."""
        if self._hidden is None:
            texts = self._tokenizer.batch_decode(responses, skip_special_tokens=True)
        else:
            kept = [[token for token in ids if token not in self._hidden] for ids in responses]
            texts = self._tokenizer.batch_decode(kept, skip_special_tokens=False)
        return [f"{self.opened}\n{text}" for text in texts] if self.opened else list(texts)

    def request(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the body of a chat request for vLLM's server, which renders `source`: it gets the same tokens as `prompts`."""
        more = {"skip_special_tokens": False} if self._thinks and self._hidden is not None else {}
        return request | more | {"messages": self.shown(request["messages"]), "stop_token_ids": self.stop_token_ids}

    def answered(self, body: bytes) -> bytes:
        """Return the body of a chat's response with the tag that the prompt had opened, without which nobody sees a thought."""
        if not self.opened:
            return body
        response = json.loads(body)
        for choice in response["choices"]:
            choice["message"]["content"] = f"{self.opened}\n{choice['message']['content'] or ''}"
        return json.dumps(response, ensure_ascii=False).encode()

    def exchange(self, prompt: Messages, completion: Messages, *, all_turns: bool = False) -> dict[str, list[int]]:
        """Return the token ids of a training row and its labels, which are -100 for all but the answer.

        Args:
            all_turns: also label the assistant's earlier turns, each behind the prompt that stands before it.
        """
        messages = [*prompt, *completion]
        turns = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
        ids: list[int] = []
        labels: list[int] = []
        last = None
        for place in turns if all_turns else turns[-1:]:
            between = self._between(messages, last, place) if last is not None else None
            if between is None:  # the first, or the template does not show the last one
                [ids] = self.prompts([messages[:place]])
                labels = [-100] * len(ids)
            else:
                ids += between
                labels += self._targets(between)
            thought, answer = self._answer(messages[place])
            ids += thought or self.lead
            labels += thought or [-100] * len(self.lead)
            ids += answer
            labels += answer
            last = place
        return {"input_ids": ids + self._ends, "labels": labels + self._ends}

    def _learn(self, source: str) -> None:
        """Find out what the template puts before an answer and behind it."""
        self.source = self._options["chat_template"] = source
        asked, whole = self._probe()
        before, found, after = whole.rpartition(_PROBES[1])
        lead = before[len(asked) :] if found and before.startswith(asked) else ""
        if tag := thoughts.opened(asked + lead):
            lead += ("\n" if (asked + lead).endswith("\n") else "\n\n") + thoughts.closing(tag) + "\n\n"
        lead = lead if lead.strip() else ""  # a blank belongs to the answer
        if lead and not (self._thinks and thoughts.ends_in(lead)):
            block = f"{{% if add_generation_prompt %}}{{{{ {json.dumps(lead)} }}}}{{% endif %}}"
            self.source = self._options["chat_template"] = source.removesuffix("\n") + block
        else:
            self.lead, self.opened = self._tokens(lead), thoughts.opened(asked)
        self._anchor = (asked + lead)[-1:] if (asked + lead)[-1:].isspace() else ""
        self._before = self._tokens(self._anchor)
        behind = self._tokens(after)
        place = next((place for place, token in enumerate(behind) if token in self._control.ids), None)
        if place is not None:
            self.end, self._ends = behind[place], behind[: place + 1]

    def _probe(self) -> tuple[str, str]:
        """Return a question as the template shows it to be answered, and with an answer."""
        from jinja2 import TemplateError

        user, assistant = ({"role": r, "content": p} for r, p in zip(("user", "assistant"), _PROBES, strict=True))
        problem = "it does not show what the user says"
        for self._in_parts in (False, True):
            try:
                asked = self._render([user], add_generation_prompt=True)
            except (TemplateError, TypeError) as error:
                problem = f"{type(error).__name__}: {error}"
                continue
            if _PROBES[0] in asked:
                try:
                    return asked, self._render([user, assistant])
                except (TemplateError, TypeError):  # for prompts only
                    return asked, ""
        name = self._tokenizer.name_or_path
        raise UserError(f"the chat template of {name} cannot be used ({problem}). Name another in model.chat_template")

    def _between(self, messages: Messages, last: int, place: int) -> list[int] | None:
        """Return the tokens from behind one of the assistant's turns to the answer of the next one."""
        shown = [message | {"content": self._as_text(message)} for message in messages[:place]]
        shown[last] = shown[last] | {"content": _PROBES[1]}
        shown = shown if self.takes_system else without_system(shown)
        if not self._jinja:
            return None
        _, found, behind = self._render(shown, add_generation_prompt=True).rpartition(_PROBES[1])
        return self._tokens(behind) if found else None

    def _targets(self, between: list[int]) -> list[int]:
        """Return the labels of the tokens between two turns: where the first one ends, its end is to be learned."""
        first = next((place for place, token in enumerate(between) if token in self._control.ids), 0)
        if self.end is None:
            return [-100] * len(between)
        return [*between[:first], self.end] + [-100] * (len(between) - first - 1)

    def _answer(self, message: dict[str, Any]) -> tuple[list[int], list[int]]:
        thought, said = self._parts(message)
        begun = thought.removeprefix(self.opened).lstrip("\n") if self.opened else thought  # by the prompt
        return self._tokens(begun), self.encode(said)

    def _as_text(self, message: dict[str, Any]) -> str:
        thought, said = self._parts(message)
        return thought + self._control.as_text(said)

    def _parts(self, message: dict[str, Any]) -> tuple[str, str]:
        """Return the thought with which a message begins, if the model is to think, and the rest of its text."""
        text = text_of(message["content"])
        if not self._thinks or message["role"] != "assistant" or not (parts := thoughts.first(text)):
            return "", text
        begin, thought, end, said = parts
        return begin + self._control.as_text(thought) + end, said

    def _render(self, messages: Messages, **options: Any) -> str:
        options = {"tokenize": False, **self._options, **options}
        return str(self._tokenizer.apply_chat_template(self._as_given(messages), **options))

    def _as_given(self, messages: Messages) -> list[dict[str, Any]]:
        if not self._in_parts:
            return messages
        return [message | {"content": [{"type": "text", "text": message["content"]}]} for message in messages]

    def _tokens(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False)) if text else []

    def _shows_system(self) -> bool:
        from jinja2 import TemplateError

        user = {"role": "user", "content": "x"}
        try:
            [with_system] = self.prompts([[{"role": "system", "content": "x"}, user]])
            [without] = self.prompts([[user]])
        except TemplateError:  # some templates, such as Gemma 2's, raise for a system message
            return False
        return with_system != without  # others leave it out


def _switched(source: str, thinks: bool) -> str:
    """Return a template in which thinking is on or off unless whoever renders it says otherwise."""

    def head(value: str) -> str:
        names = [name for name in _SWITCHES if re.search(rf"(?<![\w.'\"]){name}(?![\w'\"])", source)]
        sets = (f"{{% if {n} is not defined %}}{{% set {n} = {value} %}}{{% endif %}}" for n in names)
        return "".join(sets) + "\n" if names else ""

    for value in ("true", "false"):
        source = source.removeprefix(head(value))  # of a model that was trained here
    return head("true" if thinks else "false") + source
