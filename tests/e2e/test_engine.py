"""vLLM as the labeler sees it: several samples, entropies and exact scores, against transformers on the same weights."""

import asyncio
import csv
import json
import math
import shutil
from collections import Counter

import pytest

from semievol.config import EngineConfig
from semievol.engines import Completion, Engine, EngineDied, PromptTooLong, RequestRefused, load
from semievol.method.prompts import Messages, Prompts
from semievol.tasks import Row
from semievol.tasks.multiple_choice import MultipleChoice
from tests.support.shared import MODEL, SHARED, needs_model

pytestmark = needs_model
TASK = MultipleChoice()
ROW = Row("Profit rose by a third.", ["negative", "neutral", "positive"], None, None)
PROMPT = Prompts(TASK).messages(ROW)
RESPONSES = [TASK.respond(choice) for choice in TASK.choices(ROW) or []]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """The small model, with files that name another end of sequence than its template's, as those of many bases do."""
    base = tmp_path_factory.mktemp("base") / "base"
    shutil.copytree(MODEL, base, copy_function=shutil.copyfile)
    named = {"eos_token_id": 0}
    for name, change in {
        "config": named,
        "generation_config": named,
        "tokenizer_config": {"eos_token": "<|pad|>"},
    }.items():
        file = base / f"{name}.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
    return load(str(base), EngineConfig(dtype="float32", max_model_len=512))


def test_a_response_ends_with_the_turn_that_the_template_ends(engine: Engine) -> None:
    done = asyncio.run(engine.generate(PROMPT, temperature=0.0, seed=0, max_tokens=64))
    sampled = asyncio.run(engine.generate(PROMPT, temperature=0.5, seed=0, max_tokens=64, n=4))
    for response in (*done, *sampled):
        assert response.tokens < 64
        assert TASK.parse(response.text, ROW) and "\n" not in response.text


def label_set(name: str) -> list[str]:
    if name == "letters":
        return RESPONSES
    if name == "banking77":
        with (SHARED / "data" / "banking77" / "train.csv").open(newline="") as file:
            return sorted({record["category"].replace("_", " ") for record in csv.DictReader(file)})
    heads = ["card", "card lost", "account", "top up", "Überweisung", "счёт", "карта", "口座", "बैंक", "حساب"]
    tails = ["", " fee", " fee refund", " fee refund 2", "失败", " не пришёл", " ü", " 🙂", "s", " of a friend"]
    return [head + tail + number for head in heads for tail in tails for number in ["", *map(str, range(9))]]


@pytest.mark.parametrize(
    ("name", "size", "ends"), [("letters", 3, False), ("banking77", 77, False), ("many", 1000, True)]
)
def test_scores_are_the_normalised_likelihoods(engine: Engine, name: str, size: int, ends: bool) -> None:
    responses = label_set(name)
    assert len(set(responses)) == size
    prompts = [PROMPT, [{"role": "user", "content": "My card was declined twice. " * 3}]]
    alone = [asyncio.run(engine.generate(PROMPT, temperature=1.0, seed=seed, max_tokens=6)) for seed in range(4)]
    before = engine.figures

    async def score() -> list[list[float]]:
        """Score while others sample; neither may change what the other gets."""
        sampled = (engine.generate(PROMPT, temperature=1.0, seed=seed, max_tokens=6) for seed in range(4))
        first, second, *others = await _together(*(engine.score(prompt, responses) for prompt in prompts), *sampled)
        assert others == alone
        return [first, second]

    shares = asyncio.run(score())
    rows, requests = (engine.figures[name] - before[name] for name in ("scored_rows", "score_requests"))
    assert rows == 2 and requests <= rows * {"letters": 1, "banking77": 78, "many": 250}[name]
    again = asyncio.run(score())  # from the prefix cache, which has more of the labels now
    for prompt, once, twice in zip(prompts, shares, again, strict=True):
        expected = normalised_likelihoods(prompt, responses, ends)
        assert sum(once) == pytest.approx(1) and max(once) < 0.99
        assert once == pytest.approx(expected, abs=1e-3) and twice == pytest.approx(expected, abs=1e-3)
    with pytest.raises(PromptTooLong, match="of the longest label"):
        asyncio.run(engine.score(PROMPT, ["short", "long " * 500]))
    with pytest.raises(RequestRefused, match="'same' and 'same' cannot be told apart"):
        asyncio.run(engine.score(PROMPT, ["same", "other", "same"]))


def normalised_likelihoods(prompt: Messages, responses: list[str], ends: bool) -> list[float]:
    """Compute the likelihoods of the responses by transformers, with the token that ends a turn if `ends`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    asked = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
    end = [tokenizer.eos_token_id] if ends else []
    encoded = [tokenizer.encode(response, add_special_tokens=False) + end for response in responses]
    likelihoods = []
    with torch.no_grad():
        for start in range(0, len(encoded), 100):
            batch = encoded[start : start + 100]
            longest = max(map(len, batch))
            ids = torch.tensor([asked + said + [0] * (longest - len(said)) for said in batch])
            logprobs = model(ids).logits[:, len(asked) - 1 :].double().log_softmax(-1)
            likelihoods += [float(logprobs[row, range(len(said)), said].sum()) for row, said in enumerate(batch)]
    return torch.tensor(likelihoods).softmax(0).tolist()


def test_the_likelihood_of_a_given_response_is_the_models_own(engine: Engine) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    response = "Profit rose, and so did sales."
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    asked = tokenizer.apply_chat_template(PROMPT, add_generation_prompt=True, return_dict=False)
    said = tokenizer.encode(response, add_special_tokens=False)
    with torch.no_grad():
        logprobs = model(torch.tensor([asked + said])).logits[0, len(asked) - 1 : -1].log_softmax(-1)
    expected = float(logprobs[range(len(said)), said].mean())
    assert asyncio.run(engine.likelihood(PROMPT, response)) == pytest.approx(expected, abs=1e-3)


def test_samples_share_a_request_and_repeat(engine: Engine) -> None:
    async def sample(seed: int, n: int) -> list[Completion]:
        return await engine.generate(PROMPT, temperature=1.0, seed=seed, max_tokens=8, n=n)

    before = engine.figures
    four, again, third = asyncio.run(_together(sample(5, 4), sample(5, 4), sample(7, 1)))
    asked, cached = (engine.figures[name] - before[name] for name in ("prompt_tokens", "cached_tokens"))
    assert asked == 9 * four[0].prompt_tokens and cached >= 8 * 32  # what makes a whole block is prefilled once
    assert len(four) == 4 and four == again
    assert four[2].text == third[0].text  # sample i draws with seed + i, whatever it is asked together with
    for done in four:
        assert done.nll is not None and done.token_entropy is not None
        assert 0 <= done.token_entropy <= math.log(7)  # five likeliest, the sampled one, and the rest as one
        assert done.nll >= 0 and 0 < done.tokens <= 8
    later = asyncio.run(_together(sample(7, 1), *(sample(100 + i, 1 + i % 3) for i in range(40)), sample(5, 4)))
    assert later[0] == third and later[-1] == four  # nor at which place in the batch
    greedy = asyncio.run(engine.generate(PROMPT, temperature=0.0, seed=0, max_tokens=8))
    assert len(greedy) == 1
    with pytest.raises(PromptTooLong):
        asyncio.run(
            engine.generate(
                Prompts(TASK).messages(Row("word " * 600, ["x", "y"], None, None)),
                temperature=0.0,
                seed=0,
                max_tokens=8,
            )
        )


def test_what_vllm_refuses_is_refused_and_the_engine_lives_on(engine: Engine) -> None:
    with pytest.raises(RequestRefused, match="temperature"):
        asyncio.run(engine._request([1, 2, 3], 4, temperature=2.5))  # type: ignore[attr-defined]
    with pytest.raises(RequestRefused, match="out of vocabulary"):
        asyncio.run(engine._request([10**6], 4, temperature=0.0))  # type: ignore[attr-defined]
    assert asyncio.run(engine.generate(PROMPT, temperature=1.0, seed=0, max_tokens=2))


def test_samples_are_distributed_as_the_model_says(engine: Engine) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    temperature, count = 2.0, 3000  # so hot that the first two tokens are often others than the likeliest
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    asked = tokenizer.apply_chat_template(PROMPT, add_generation_prompt=True, return_dict=False)
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))], skip_special_tokens=True)

    def expected_after(said: list[int]) -> dict[str, float]:
        with torch.no_grad():
            shares = (model(torch.tensor([asked + said])).logits[0, -1] / temperature).softmax(-1).tolist()
        by_text: dict[str, float] = Counter()
        for text, share in zip(texts, shares, strict=False):
            by_text[text] += share
        return by_text

    def assert_like(seen: list[str], expected: dict[str, float]) -> None:
        counts = Counter(seen)
        assert sum(expected[text] for text in counts) > 0.3
        for text, share in expected.items():
            if share * len(seen) > 20:
                assert abs(counts[text] - share * len(seen)) < 5 * math.sqrt(share * len(seen)), text

    def sample(tokens: int) -> list[Completion]:
        return asyncio.run(engine.generate(PROMPT, temperature=temperature, seed=11, max_tokens=tokens, n=count))

    first = [done.text for done in sample(1)]
    assert_like(first, expected_after([]))
    both = [done.text for done in sample(2)]
    token = max(range(len(texts)), key=lambda token: first.count(texts[token]) if texts[token] else 0)
    second = [text.removeprefix(begin) for text, begin in zip(both, first, strict=True) if begin == texts[token]]
    assert len(second) > 200
    assert_like(second, expected_after([token]))


def test_a_dead_engine_says_so_to_all_who_wait_and_who_come(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("out of memory")

    async def ask() -> list[BaseException]:
        asked = (engine.generate(PROMPT, temperature=1.0, seed=seed, max_tokens=4, n=2) for seed in range(3))
        return await asyncio.gather(*asked, return_exceptions=True)  # type: ignore[return-value]

    monkeypatch.setattr(engine._engine, "step", broken)  # type: ignore[attr-defined]
    for died in asyncio.run(ask()) + asyncio.run(ask()):
        assert isinstance(died, EngineDied) and "out of memory" in str(died)


async def _together(*asked):  # type: ignore[no-untyped-def]
    return await asyncio.gather(*asked)
