"""What the scorer asks of vLLM, and the tokens of labels; with vLLM itself in tests/e2e/test_engine.py."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("transformers")

from semievol.engines import PromptTooLong, RequestRefused
from semievol.engines.templates import OWN_TEMPLATE
from semievol.engines.vllm_scoring import Scorer
from tests.support.tokenizer import numbers

# A message ends with the token 99; a newline follows, as in most templates.
ENDS = "{% for m in messages %}{{ m.content }} {% if m.role == 'assistant' %}99 98 {% endif %}{% endfor %}"


class FakeVLLM:
    """Gives each token the log-probability of minus a tenth of its number, and remembers the requests."""

    def __init__(self, cached: int = 0) -> None:
        self.cached = cached  # tokens that a request finds in the prefix cache
        self.requests: list[tuple[list[int], dict[str, Any]]] = []

    async def send(self, prompt: list[int], **options: Any) -> SimpleNamespace:
        self.requests.append((prompt, options))
        cached = 0 if options.get("skip_reading_prefix_cache") is not False else self.cached
        ids, path = options["logprob_token_ids"], options.get("extra_args", {}).get("told", [])
        assert options["max_tokens"] == len(path) + 1 and len(ids) <= 128
        steps = [[-token / 10, *(-other / 10 for other in ids)] for token in [*path, 70]]
        starts = [place * (len(ids) + 1) for place in range(len(steps))]
        following = SimpleNamespace(logprobs=[value for step in steps for value in step], start_indices=starts)
        known = [float("nan") if place < cached + 1 else -token / 10 for place, token in enumerate(prompt)]
        before = SimpleNamespace(logprobs=known[1:])
        return SimpleNamespace(
            outputs=[SimpleNamespace(logprobs=following)], prompt_logprobs=before, num_cached_tokens=cached
        )


def score(vllm: FakeVLLM, responses: list[str], limit: int = 100, tells: bool = False) -> tuple[list[float], Scorer]:
    scorer = Scorer(numbers(ENDS), OWN_TEMPLATE, vllm.send, limit, tells=tells)

    async def ask() -> list[float]:
        return await scorer.score([50, 51, 52], await scorer.tree(responses))

    return asyncio.run(ask()), scorer


def test_a_question_is_one_request_and_more_for_many_tokens() -> None:
    vllm = FakeVLLM()
    shares, scorer = score(vllm, [str(n) for n in range(150)])
    assert [len(options["logprob_token_ids"]) for _, options in vllm.requests] == [128, 22]
    assert all(prompt == [50, 51, 52] and "prompt_logprobs" not in options for prompt, options in vllm.requests)
    assert shares[0] / shares[20] == pytest.approx(2.718281828**2) and sum(shares) == pytest.approx(1)
    assert scorer.figures == {"scored_rows": 1, "score_requests": 2}


def test_an_engine_that_says_what_it_is_told_walks_along_a_path() -> None:
    vllm = FakeVLLM()
    labels = ["1 2 3 4 5", "2 2 2 2 2", *(f"3 1 {n}" for n in range(130))]
    shares, scorer = score(vllm, labels, tells=True)
    assert shares == pytest.approx(score(FakeVLLM(), labels)[0])
    walks = {
        tuple(prompt): options["extra_args"]["told"] for prompt, options in vllm.requests if "extra_args" in options
    }
    assert walks[50, 51, 52, 1] == [2, 3, 4] and walks[50, 51, 52, 3] == [1] and walks[50, 51, 52] == []
    assert all(options["ignore_eos"] for _, options in vllm.requests if "extra_args" in options)
    assert [prompt for prompt, options in vllm.requests if "extra_args" not in options] == [[50, 51, 52, 3, 1]]
    assert not any("prompt_logprobs" in options for _, options in vllm.requests)
    assert scorer.figures["score_requests"] == len(vllm.requests) == 5


@pytest.mark.parametrize("cached", [0, 2, 4, 5, 7])
def test_tokens_that_the_prefix_cache_has_are_asked_for_again(cached: int) -> None:
    vllm = FakeVLLM(cached)
    shares, _ = score(vllm, ["1 2 3 4 5", "2 2 2 2 2"])
    assert shares == pytest.approx([0.37754, 0.62246], abs=1e-4)  # 15 against 10 tenths
    again = [
        prompt for prompt, options in vllm.requests if "skip_reading_prefix_cache" not in options and len(prompt) > 3
    ]
    # The prompt and the first token are known, so log-probabilities from the fourth token on must be computed.
    assert len(again) == (2 if cached > 3 else 0)


def test_the_longest_label_must_fit() -> None:
    for limit in (8, 9):
        vllm = FakeVLLM()
        if limit == 9:
            score(vllm, ["1 2 3 4 5 6", "7"], limit)
            continue
        with pytest.raises(PromptTooLong, match=r"prompt of 3 tokens \+ 6 of the longest label exceeds 8"):
            score(vllm, ["1 2 3 4 5 6", "7"], limit)
        assert not vllm.requests


def test_a_set_is_read_once_and_refused_each_time() -> None:
    scorer = Scorer(numbers(ENDS), OWN_TEMPLATE, FakeVLLM().send, 100)

    async def trees(responses: list[str]) -> list[Any]:
        return await asyncio.gather(*(scorer.tree(responses) for _ in range(3)), return_exceptions=True)

    one, other, third = asyncio.run(trees(["1", "2"]))
    assert one is other is third and one is asyncio.run(trees(["1", "2"]))[0]  # in another event loop, too
    for refused in asyncio.run(trees(["1", "x", "y"])):  # both are the unknown token
        assert isinstance(refused, RequestRefused) and "'x' and 'y' cannot be told apart" in str(refused)
