"""The engine over an OpenAI-compatible endpoint, against a server on loopback that fails as asked."""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.responses import HTMLResponse, JSONResponse

from semievol import config
from semievol.config import EngineConfig, RunConfig
from semievol.engines import Completion, PromptTooLong, RequestRefused, load
from semievol.engines.endpoint import ApiEndpoint, variables
from semievol.errors import UserError
from semievol.method.prompts import Messages
from tests.support.openai_server import Fault, OpenAIServer


def say(letter: str, row: int = 1) -> Messages:
    return [{"role": "user", "content": f"say={letter} row={row}"}]


def ask(server: OpenAIServer, *prompts: Messages, n: int = 1, temperature: float = 0.5, **settings: Any) -> list[Any]:
    """What one engine gives for several prompts at a time; exceptions stand among the results."""

    async def together() -> list[Any]:
        engine = load("m", EngineConfig(kind="openai", endpoint=server.url, **settings))
        options: dict[str, Any] = {"temperature": temperature, "seed": 7, "max_tokens": 16, "n": n}
        return await asyncio.gather(*(engine.generate(p, **options) for p in prompts), return_exceptions=True)

    return asyncio.run(together())


def chats(server: OpenAIServer) -> list[dict[str, Any]]:
    return [body for path, body in server.calls if path == "POST /chat/completions"]


def once(*faults: Fault) -> Callable[[str, dict[str, Any]], Fault | None]:
    waiting = deque(faults)
    return lambda path, body: waiting.popleft() if waiting else None


def test_responses_with_entropies_tokens_and_seeds(
    openai_server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    [[first, second]] = ask(openai_server, say("B"), n=2)
    assert first == Completion("Answer: B", pytest.approx(0.2), first.token_entropy, 3, 10)
    assert (second.text, second.tokens, second.prompt_tokens) == ("Answer: B", 3, 0)
    shares = [[math.exp(-p), math.exp(-3), 1 - math.exp(-p) - math.exp(-3)] for p in (0.1, 0.1, 0.4)]
    shares = [[share for share in position if share > 0] for position in shares]
    assert first.token_entropy == pytest.approx(-sum(p * math.log(p) for s in shares for p in s) / 3)
    body = {"model": "m", "messages": say("B"), "temperature": 0.5, "max_tokens": 16}
    body |= {"logprobs": True, "top_logprobs": 5, "n": 2, "seed": 7}
    assert chats(openai_server) == [body]
    assert openai_server.keys == {"Bearer sk-secret"}
    [[greedy]] = ask(openai_server, say("C"), temperature=0.0, top_logprobs=0)
    assert (greedy.text, greedy.token_entropy) == ("Answer: C", None)
    assert chats(openai_server)[-1].keys() & {"seed", "n"} == set()


def test_requests_in_flight_are_bounded(openai_server: OpenAIServer) -> None:
    answers = ask(openai_server, *(say("A", row) for row in range(40)), concurrency=3)
    assert [answer[0].text for answer in answers] == ["Answer: A"] * 40
    assert 1 < openai_server.most_in_flight <= 3


def test_only_what_may_pass_is_asked_again(openai_server: OpenAIServer) -> None:
    soon = {"retry-after-ms": "1"}
    openai_server.fault = once(Fault(429, headers=soon), Fault(500, headers=soon), Fault(503, headers=soon), Fault(0))
    [[answer]] = ask(openai_server, say("B"))
    assert (answer.text, len(chats(openai_server))) == ("Answer: B", 5)
    openai_server.fault = once(Fault(400, "no such thing"))
    refused, answered = ask(openai_server, say("A"), say("B"), concurrency=1)
    assert isinstance(refused, RequestRefused) and not isinstance(refused, PromptTooLong)
    assert "400" in str(refused) and "no such thing" in str(refused)
    assert (answered[0].text, len(chats(openai_server))) == ("Answer: B", 9)  # two of them: was it the parameters?


def test_a_prompt_that_is_too_long_can_be_shortened(openai_server: OpenAIServer) -> None:
    too_long = [{"role": "user", "content": "x" * 2000}]
    [refused] = ask(openai_server, too_long)
    assert isinstance(refused, PromptTooLong)
    openai_server.fault = once(Fault(400, "no", more={"code": "context_length_exceeded"}), Fault(413))
    assert all(isinstance(refused, PromptTooLong) for refused in ask(openai_server, say("A"), say("A")))
    assert len(chats(openai_server)) == 3


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "does not accept the key in OPENAI_API_KEY .*401.*correct it, or name another in engine.api_key_env"),
        (403, "does not accept the key"),
        (404, "has no model 'm'"),
        (429, "takes no more requests .*lower engine.concurrency"),
        (503, "is unavailable after all retries"),
        (500, "is unavailable after all retries"),
        (0, "is unavailable after all retries"),
        (402, "refuses every request"),
    ],
)
def test_what_stops_the_engine_says_why_and_asks_nothing_more(
    openai_server: OpenAIServer, monkeypatch: pytest.MonkeyPatch, status: int, message: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    openai_server.fault = lambda path, body: Fault(status, "no: sk-secret", {"retry-after-ms": "1"})
    failures = ask(openai_server, *(say("A", row) for row in range(20)), concurrency=1, retries=1)
    assert all(type(failure) is UserError for failure in failures)
    with pytest.raises(UserError, match=message):
        raise failures[0]
    assert "sk-secret" not in str(failures[0]) and openai_server.url in str(failures[0])
    assert len(chats(openai_server)) <= 8  # with probes at a 500


def test_one_row_that_breaks_a_living_endpoint_is_refused_alone(openai_server: OpenAIServer) -> None:
    def poisoned(path: str, body: dict[str, Any]) -> Fault | None:
        return Fault(500, "CUDA", {"retry-after-ms": "1"}) if "row=13" in body["messages"][0]["content"] else None

    openai_server.fault = poisoned
    answers = ask(openai_server, *(say("A", row) for row in (11, 12, 13, 14)), retries=1)
    assert isinstance(answers[2], RequestRefused) and "500 - CUDA" in str(answers[2])
    assert [answers[i][0].text for i in (0, 1, 3)] == ["Answer: A"] * 3


def test_an_endpoint_that_is_down_or_slow_or_no_api(openai_server: OpenAIServer) -> None:
    openai_server.stop()
    [failure] = ask(openai_server, say("A"), retries=0)
    assert type(failure) is UserError and "is unavailable" in str(failure)
    openai_server.start()
    [[answer]] = ask(openai_server, say("A"), retries=0)
    assert answer.text == "Answer: A"
    openai_server.fault = lambda path, body: HTMLResponse("<h1>Welcome</h1>")
    [failure] = ask(openai_server, say("A"), retries=0)
    assert type(failure) is UserError and "not the base URL of an API" in str(failure)
    openai_server.fault = lambda path, body: JSONResponse({"error": {"message": "moderated"}})
    [refused] = ask(openai_server, say("A"), retries=0)
    assert isinstance(refused, RequestRefused) and "moderated" in str(refused)


def test_scores_are_refused(openai_server: OpenAIServer) -> None:
    engine = load("m", EngineConfig(kind="openai", endpoint=openai_server.url))
    with pytest.raises(RequestRefused, match=r"engine\.kind: vllm"):
        asyncio.run(engine.score(say("A"), ["A", "B"]))


def test_a_key_is_needed_elsewhere_than_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    here = ApiEndpoint("http://[::1]:8000/v1", "OPENAI_API_KEY").client(timeout_s=1, retries=2)
    assert (here["api_key"], here["max_retries"]) == ("none", 2)
    with pytest.raises(UserError, match=r"variable OPENAI_API_KEY \(engine.api_key_env\) is not set"):
        load("m", EngineConfig(kind="openai"))


MINIMAL = "{name: x, model: {base: m}, data: {labeled: l, unlabeled: u, test: t}}"


def configured(*overrides: str) -> RunConfig:
    return config.loads(MINIMAL, list(overrides), "c.yaml")


def test_endpoints_of_a_config() -> None:
    assert variables(configured()) == []
    remote = "label.collaborators=[{name: a}, {name: b, model: gpt, endpoint: 'https://api.example.com/v1'}]"
    assert variables(configured(remote, "engine.api_key_env=KEY")) == ["KEY"]
    local = "label.collaborators=[{name: a, model: gpt, endpoint: 'http://127.0.0.1:8/v1'}]"
    assert variables(configured(local)) == []
    with pytest.raises(UserError, match=r"label.mode: score .*label.collaborators\[0\] asks an endpoint"):
        configured(local, "label.mode=score")
    with pytest.raises(UserError, match=r"label.collaborators\[0\].endpoint: 'host:8' is not the base URL"):
        configured("label.collaborators=[{name: a, endpoint: 'host:8'}]")
    with pytest.raises(UserError, match=r"engine.price_per_million.input: must be at least 0, is -1"):
        configured("engine.price_per_million.input=-1")


def test_a_key_does_not_follow_a_redirect_to_another_host(
    openai_server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    elsewhere = OpenAIServer().start()
    try:
        to = {"location": f"{elsewhere.url}/chat/completions"}
        openai_server.fault = lambda path, body: JSONResponse({}, 307, to)
        ask(openai_server, say("A"), retries=0)
        assert openai_server.keys == {"Bearer sk-secret"} and elsewhere.keys <= {""}
    finally:
        elsewhere.stop()


def test_proxies(openai_server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = OpenAIServer().start()
    try:
        for name in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        monkeypatch.setenv("no_proxy", "")
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
        [[answer]] = ask(openai_server, say("A"))  # an endpoint on this machine
        assert answer.text == "Answer: A" and not proxy.calls
        proxy.fault = lambda path, body: HTMLResponse("<h1>Denied</h1>", 403)
        engine = load("m", EngineConfig(kind="openai", endpoint="http://api.internal/v1", retries=0))
        with pytest.raises(
            UserError, match=rf"go through the proxy of http_proxy \(127.0.0.1:{proxy.port}\).*NO_PROXY"
        ):
            asyncio.run(engine.generate(say("A"), temperature=0.0, seed=1, max_tokens=8))
    finally:
        proxy.stop()
