"""Render requests as the run does, and see what they lose to fit.

With a tokenizer the tokens are those of the run; `tests/unit/test_one_prompt.py` compares them. An endpoint's tokens are
estimated.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from semievol.config import RunConfig
from semievol.data import models, storage
from semievol.engines.chat_template import ChatTemplate, load_tokenizer
from semievol.engines.templates import ChatSettings
from semievol.engines.vllm import model_limit
from semievol.errors import UserError
from semievol.method.prompts import Messages, Prompts, shorter
from semievol.preview.requests import JUSTIFICATION, Request
from semievol.tasks import Row

CHARACTERS = 4  # a token of English text has about so many
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack")


@dataclass(frozen=True)
class Rendered:
    """A request, rendered for one row.

    Attributes:
        tokens: how many it has.
        parts: its token ids; its messages where the tokens are estimated.
        prompt: how many of the parts stand before the response.
        labels: of the token ids, where they are trained on; -100 where no loss is taken.
    """

    tokens: int
    parts: list[int] | Messages
    prompt: int
    labels: list[int] | None = None

    def after(self, n: int) -> Rendered:
        """Return it without its first n parts."""
        return replace(self, parts=self.parts[n:], labels=self.labels and self.labels[n:])


@dataclass(frozen=True)
class Fitted:
    """What is sent of a row: `sent` is None if no cut makes it fit, `lost` says what was cut."""

    whole: Rendered
    sent: Rendered | None
    lost: tuple[str, ...] = ()


class Model:
    """What counts the tokens of one model: its tokenizer and template, or 4 characters a token where there is none."""

    def __init__(self, name: str | None, max_model_len: int | None, chat: ChatSettings, scratch: str) -> None:
        self.template: ChatTemplate | None = None
        self.window: int | None = None
        if name is None:
            return
        path = _small_files(name, scratch) if "://" in name else models.local(name)
        try:
            self._tokenizer = load_tokenizer(path)
            self.template = ChatTemplate(self._tokenizer, chat.template, chat.thinking)
            self.window = max_model_len or model_limit(path)
        except (OSError, ValueError) as error:
            problem = str(error).strip().splitlines()[0]
            raise UserError(f"model '{name}': cannot load its tokenizer and config: {problem}") from None

    def render(
        self, prompts: Sequence[Messages], completions: Sequence[Messages], *, all_turns: bool = False
    ) -> list[Rendered]:
        """Return prompts, or exchanges where there are completions too."""
        if self.template is None:
            pairs = zip(prompts, completions, strict=True) if completions else ((p, []) for p in prompts)
            return [Rendered(_estimated([*p, *c]), [*p, *c], len(p)) for p, c in pairs]
        ids = self.template.prompts(list(prompts)) if prompts else []
        if not completions:
            return [Rendered(len(prompt), prompt, len(prompt)) for prompt in ids]
        pairs = zip(prompts, completions, strict=True)
        rows = [self.template.exchange(prompt, said, all_turns=all_turns) for prompt, said in pairs]
        before = map(len, ids)
        return [
            Rendered(len(e["input_ids"]), e["input_ids"], n, e["labels"]) for e, n in zip(rows, before, strict=True)
        ]

    def longest(self, responses: list[str]) -> int:
        """Return how many tokens the longest of given responses takes behind a prompt."""
        assert self.template is not None
        return len(self.template.lead) + max(len(self.template.encode(response)) for response in responses)

    def pieces(self, rendered: Rendered) -> list[tuple[str, bool, bool]]:
        """Return the text of a request in pieces, each with whether it is a control token and whether it is trained on."""
        parts: list[Any] = rendered.parts
        if self.template is None:
            texts = ((f"[{message['role']}]", f"\n{message['content']}\n") for message in parts)
            return [piece for role, text in texts for piece in ((role, True, False), (text, False, False))]
        trained = [label != -100 for label in rendered.labels or [-100] * len(parts)]
        return [
            (text, control, taught)
            for taught, run in groupby(zip(parts, trained, strict=True), lambda pair: pair[1])
            for text, control in self._read([token for token, _ in run])
        ]

    def _read(self, ids: list[int]) -> list[tuple[str, bool]]:
        """Return the text of tokens in pieces: each control token, and what stands between two of them."""
        control = {*self._tokenizer.all_special_ids, *self._tokenizer.added_tokens_decoder}
        pieces: list[tuple[str, bool]] = []
        for special, run in groupby(ids, control.__contains__):
            tokens = list(run)
            if special:
                pieces += [(self._tokenizer.decode([token]), True) for token in tokens]
                continue
            text = self._tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
            # SentencePiece leaves out a blank at the beginning.
            begins = self._tokenizer.convert_ids_to_tokens(tokens[0]).startswith("\u2581") and not text.startswith(" ")
            pieces.append((f" {text}" if begins else text, False))
        return pieces


class Renderer:
    """Renders the requests of a run for its rows.

    Args:
        stand_ins: labeled rows. Unlabeled rows get the answer of the first where a training is shown, and
            self-justification decides between those of two.
        scratch: a folder for the small files of models that are at a URI.
    """

    def __init__(self, prompts: Prompts, stand_ins: list[Row], config: RunConfig, scratch: str) -> None:
        self._prompts = prompts
        self._stand_ins = stand_ins
        self._config = config
        self._scratch = scratch
        self._models: dict[str | None, Model] = {}

    def model(self, request: Request) -> Model:
        if request.model not in self._models:
            chat = ChatSettings.of(self._config.model)
            chat = chat if request.model == self._config.model.base else replace(chat, template=None)
            window = self._config.engine.max_model_len
            self._models[request.model] = Model(request.model, window, chat, self._scratch)
        return self._models[request.model]

    def limit(self, request: Request) -> int | None:
        """Return how many tokens a prompt may have (of a training: with the response), or None if that is not known."""
        if request.trains:
            return request.max_length
        model, task = self.model(request), self._prompts.task
        if model.window is None:
            return None
        choices = task.choices(self._stand_ins[0]) if request.scores else None
        return model.window - (model.longest(list(map(task.respond, choices))) if choices else request.max_tokens)

    def fit(self, request: Request, rows: Sequence[Row], shown: Sequence[list[Row]]) -> list[Fitted]:
        """Render a request for rows with their solved examples, and shorten what is too long, as the run does."""
        limit = self.limit(request)
        whole = self._render(request, list(rows), list(shown))
        found = []
        for row, examples, rendered in zip(rows, shown, whole, strict=True):
            if limit is None or rendered.tokens <= limit:
                found.append(Fitted(rendered, rendered))
            else:
                found.append(self._shortened(request, row, examples, rendered, limit))
        return found

    def _shortened(self, request: Request, row: Row, examples: list[Row], whole: Rendered, limit: int) -> Fitted:
        for fitting, fewer in shorter(row, examples) if request.cuts else ():
            [rendered] = self._render(request, [fitting], [fewer])
            if rendered.tokens <= limit:
                return Fitted(whole, rendered, _lost(row, examples, fitting, fewer))
        return Fitted(whole, None)

    def _render(self, request: Request, rows: list[Row], shown: list[list[Row]]) -> list[Rendered]:
        prompts = [self._messages(request, row, examples) for row, examples in zip(rows, shown, strict=True)]
        completions = []
        if request.trains:
            completions = [self._prompts.completion(row.answer or self._stand_ins[0].answer or "") for row in rows]
        return self.model(request).render(prompts, completions, all_turns=self._prompts.task.all_turns)

    def _messages(self, request: Request, row: Row, examples: list[Row]) -> Messages:
        if request.name == JUSTIFICATION:
            return self._prompts.justification(row, self._candidates(row))
        return self._prompts.messages(row, examples=examples, style=request.style, order=request.order)

    def _candidates(self, row: Row) -> list[str]:
        """Return two answers that differ, for a look at self-justification."""
        return (self._prompts.task.choices(row) or [other.answer or "" for other in self._stand_ins])[:2]


def _estimated(messages: Messages) -> int:
    return -(-sum(len(message["content"]) for message in messages) // CHARACTERS)


def _lost(row: Row, examples: list[Row], fitting: Row, fewer: list[Row]) -> tuple[str, ...]:
    lost = {
        "solved examples": len(fewer) < len(examples),
        "older turns": fitting.history != row.history,
        "context": fitting.context != row.context,
        "the question's beginning": fitting.question != row.question,
    }
    return tuple(what for what, gone in lost.items() if gone)


def _small_files(uri: str, scratch: str) -> str:
    """Return a local folder with what a tokenizer needs of a model, without its weights."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    for file in storage.find(uri):
        if not file.uri.endswith(_WEIGHTS):
            filesystem, path = storage.resolve(file.uri)
            with filesystem.open_input_stream(path) as stream:
                (folder / Path(path).name).write_bytes(stream.read())
    return str(folder)
