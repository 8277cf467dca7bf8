"""What the vLLM engine does around vLLM; with vLLM itself in tests/e2e/test_engine.py."""

import asyncio
import math
from types import SimpleNamespace
from typing import Any

import pytest

from semievol.engines.chat_template import ChatTemplate
from semievol.engines.vllm import PromptBatches, _reduce
from tests.support.tokenizer import numbers


class OneAtATime:
    """As the tokenizer of mistral-common: it renders no template."""

    def apply_chat_template(self, messages: list[dict[str, str]], **options: Any) -> list[int]:
        return [len(messages[-1]["content"])]


def prompt(text: str, role: str = "user") -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def test_prompts_of_the_same_moment_become_tokens_together(monkeypatch: pytest.MonkeyPatch) -> None:
    together: list[int] = []
    apply = ChatTemplate.prompts
    batches, others = PromptBatches(numbers()), PromptBatches(OneAtATime())
    monkeypatch.setattr(
        ChatTemplate, "prompts", lambda self, asked: (together.append(len(asked)), apply(self, asked))[1]
    )

    async def ask() -> None:
        assert await asyncio.gather(*(batches.tokenize(prompt(f"{n} 7")) for n in range(150))) == [
            [n, 7, 0] for n in range(150)
        ]
        assert together == [64, 64, 22]

        waiting = [asyncio.create_task(batches.tokenize(prompt(str(n)))) for n in range(3)]
        await asyncio.sleep(0)
        waiting[1].cancel()  # the others do not feel it
        assert [await waiting[0], await waiting[2]] == [[0, 0], [2, 0]]

        asked = (batches.tokenize(prompt("1", role)) for role in ("user", "bad"))
        failed = await asyncio.gather(*asked, return_exceptions=True)
        assert ["no such role" in str(error) for error in failed] == [True, True]
        assert await batches.tokenize(prompt("5")) == [5, 0]
        assert await asyncio.gather(*(others.tokenize(prompt("x" * n)) for n in (1, 2))) == [[1], [2]]

    asyncio.run(ask())


def output(sampled: list[int], top: list[dict[int, float]]) -> SimpleNamespace:
    """A vllm.outputs.CompletionOutput; `top` are the likeliest tokens of each position with their probabilities."""
    logprobs = [
        math.log(p) for token, likely in zip(sampled, top, strict=True) for p in (likely[token], *likely.values())
    ]
    ids = [token for token, likely in zip(sampled, top, strict=True) for token in (token, *likely)]
    own = sum(math.log(likely[token]) for token, likely in zip(sampled, top, strict=True))
    return SimpleNamespace(
        token_ids=sampled, cumulative_logprob=own, logprobs=SimpleNamespace(logprobs=logprobs, token_ids=ids)
    )


def test_the_responses_to_a_request_are_reduced_each_by_itself() -> None:
    even, sure = {5: 0.5, 6: 0.5}, {7: 1.0, 8: 1e-300}
    outputs = [output([5, 7], [even, sure]), output([], []), output([6], [even])]
    first, empty, last = _reduce(outputs, ["a", "", "b"], 40)
    assert (first.text, first.tokens, first.prompt_tokens) == ("a", 2, 40)
    assert first.nll == pytest.approx(math.log(2) / 2) and first.token_entropy == pytest.approx(math.log(2) / 2)
    assert (empty.nll, empty.token_entropy, empty.tokens, empty.prompt_tokens) == (0.0, 0.0, 0, 0)
    assert last.nll == pytest.approx(math.log(2)) and last.token_entropy == pytest.approx(math.log(2))
    (nothing,) = _reduce([output([], [])], [""], 3)
    assert (nothing.nll, nothing.token_entropy, nothing.prompt_tokens) == (0.0, 0.0, 3)
