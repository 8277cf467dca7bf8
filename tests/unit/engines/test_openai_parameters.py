"""Endpoints that do not take what the engine asks for, in the words and with the statuses that they use for it."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.responses import JSONResponse, Response

from semievol.config import EngineConfig
from semievol.engines import PromptTooLong, RequestRefused, load
from semievol.errors import UserError
from semievol.method.prompts import Messages
from tests.support.openai_server import Fault, OpenAIServer

LOGPROBS = ("logprobs", "top_logprobs")


def say(letter: str, row: int = 1) -> Messages:
    return [{"role": "user", "content": f"say={letter} row={row}"}]


def ask(server: OpenAIServer, *rows: int, n: int = 1, temperature: float = 0.5, **settings: Any) -> list[Any]:
    """What one engine gives for several rows at a time; exceptions stand among the results."""

    async def together() -> list[Any]:
        engine = load("m", EngineConfig(kind="openai", endpoint=server.url, **{"retries": 0} | settings))
        options: dict[str, Any] = {"temperature": temperature, "seed": 7, "max_tokens": 16, "n": n}
        return await asyncio.gather(*(engine.generate(say("B", i), **options) for i in rows), return_exceptions=True)

    return asyncio.run(together())


def chats(server: OpenAIServer) -> list[dict[str, Any]]:
    return [body for path, body in server.calls if path == "POST /chat/completions"]


def rows_asked(server: OpenAIServer) -> list[int]:
    """The rows of requests, refused ones too."""
    texts = [body["messages"][-1]["content"] for body in chats(server)]
    return [int(text.partition("row=")[2]) for text in texts if "row=" in text]


def refuses(*names: str, fault: Fault | Response) -> Callable[[str, dict[str, Any]], Fault | Response | None]:
    return lambda path, body: fault if any(body.get(name) for name in names) else None


DETAIL = {"detail": [{"type": "extra_forbidden", "loc": ["body", "logprobs"], "msg": "Extra inputs are not permitted"}]}
WORDS: dict[str, Fault | Response] = {
    "OpenAI o-series": Fault(403, "You are not allowed to request logprobs from this model"),
    "OpenAI gpt-5": Fault(400, "Unsupported parameter", more={"param": "logprobs", "code": "unsupported_parameter"}),
    "vLLM, with another platform": Fault(
        400, "Gaudi doesn't support logprobs. Please remove 'logprobs'/'top_logprobs'"
    ),
    "pydantic": JSONResponse(DETAIL, 422),
    "Mistral": JSONResponse({"object": "error", "message": {"detail": DETAIL["detail"]}, "code": None}, 422),
    "NIM": JSONResponse(
        {"title": "Unprocessable Entity", "status": 422, "detail": "body -> top_logprobs\n  Extra"}, 422
    ),
    "Gemini": Fault(400, 'Invalid JSON payload received. Unknown name "top_logprobs": Cannot find field.'),
    "Groq": Fault(400, "property 'logprobs' is unsupported"),
    "litellm": Fault(400, "UnsupportedParamsError: does not support parameters: {'logprobs': True}"),
    "OpenRouter": Fault(404, "No endpoints found that can handle the requested parameters."),
    "words without a name": Fault(400, "One of the parameters is not supported by the model."),
    "one word": Fault(400, "Bad Request"),
    "nothing at all": Response(status_code=400),
    "not JSON": Response("unsupported", 422, media_type="text/plain"),
    "another language": Fault(400, "不支持的参数"),
    "not implemented": Fault(501, "Not Implemented"),
    "SGLang": Fault(500, "Internal Server Error: KeyError: 'output_top_logprobs'"),
}


@pytest.mark.parametrize("words", WORDS)
def test_log_probabilities_are_left_out_whatever_words_they_are_refused_with(
    openai_server: OpenAIServer, words: str
) -> None:
    openai_server.fault = refuses("logprobs", "top_logprobs", fault=WORDS[words])
    answers = ask(openai_server, *range(40), concurrency=8)
    assert [(row[0].text, row[0].nll) for row in answers] == [("Answer: B", None)] * 40
    assert sorted(rows_asked(openai_server)) == [0, *range(40)]  # one row was asked twice, and no other paid for it
    assert len(chats(openai_server)) <= 41 + 8
    assert chats(openai_server)[-1].keys() == {"model", "messages", "temperature", "max_tokens", "seed"}


@pytest.mark.parametrize("name", ["seed", "n", "temperature", "top_logprobs", "max_tokens"])
@pytest.mark.parametrize("fault", [Fault(400, "Unsupported"), Fault(422, "{name}"), Fault(500)])
def test_only_what_is_refused_is_left_out(openai_server: OpenAIServer, name: str, fault: Fault) -> None:
    openai_server.fault = refuses(name, fault=Fault(fault.status, fault.message.format(name=f"'{name}'")))
    answers = ask(openai_server, *range(4), n=3)
    assert [len(row) for row in answers] == [3] * 4
    sent = chats(openai_server)[-1].keys()
    assert {"logprobs", "temperature", "seed"} - {name} <= sent and name not in sent
    assert ("max_completion_tokens" in sent) == (name == "max_tokens")
    assert all(done.nll == pytest.approx(0.2) for row in answers for done in row)


def reasoning_model(path: str, body: dict[str, Any]) -> Fault | None:
    """As o-series and gpt-5 models refuse."""
    if "max_tokens" in body:
        message = (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        )
        return Fault(400, message, more={"param": "max_tokens", "code": "unsupported_parameter"})
    if body.get("temperature", 1) != 1:
        message = (
            "Unsupported value: 'temperature' does not support 0.5 with this model. Only the default (1) is supported."
        )
        return Fault(400, message, more={"param": "temperature", "code": "unsupported_value"})
    return Fault(403, "You are not allowed to request logprobs from this model") if body.get("logprobs") else None


@pytest.mark.parametrize(("temperature", "sent"), [(0.0, False), (0.5, False), (1.0, True)])
def test_reasoning_models_get_what_they_want(openai_server: OpenAIServer, temperature: float, sent: bool) -> None:
    openai_server.fault, openai_server.thought = reasoning_model, 700
    answers = ask(openai_server, *range(12), temperature=temperature)
    assert [row[0].text for row in answers] == ["Answer: B"] * 12
    last = chats(openai_server)[-1]
    assert ("temperature" in last, last["max_completion_tokens"]) == (sent, 16 + 1024)  # room for the thought
    assert sum(len(set(rows)) < len(rows) for rows in [rows_asked(openai_server)]) == 1
    assert len(rows_asked(openai_server)) <= 12 + 2 + 8  # those in flight when the first was cut


def test_a_temperature_is_refused_by_its_value(openai_server: OpenAIServer) -> None:
    """TGI takes no temperature of 0; the others stay."""
    openai_server.fault = lambda path, body: (
        Fault(422, "`temperature` must be strictly positive") if body.get("temperature") == 0 else None
    )

    async def both() -> None:
        engine = load("m", EngineConfig(kind="openai", endpoint=openai_server.url, retries=0))
        for temperature in (0.0, 0.7, 0.0, 0.7):
            await engine.generate(say("A"), temperature=temperature, seed=7, max_tokens=16)

    asyncio.run(both())
    last = [body.get("temperature") for body in chats(openai_server) if "row" in body["messages"][0]["content"]]
    assert last == [0.0, None, 0.7, None, 0.7]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(400, "The response was filtered", more={"code": "content_filter", "param": "prompt"}),
        Fault(400, "Your seed words and n-grams are indecent: 'logprobs'"),
        Fault(422, "no"),
        Fault(500, "CUDA"),
        Fault(403, "Your chosen model requires moderation and your input was flagged"),
        Fault(404, "No allowed providers for this prompt"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_refusal_of_the_row_costs_no_parameter(openai_server: OpenAIServer, fault: Fault, first: bool) -> None:
    bad = 0 if first else 5
    openai_server.fault = lambda path, body: fault if f"row={bad}" in body["messages"][0]["content"] else None
    answers = ask(openai_server, *range(8), concurrency=1)
    assert isinstance(answers[bad], RequestRefused) and not isinstance(answers[bad], PromptTooLong)
    others = [row[0] for i, row in enumerate(answers) if i != bad]
    assert all(done.nll == pytest.approx(0.2) for done in others)
    assert {"logprobs", "seed", "max_tokens"} <= chats(openai_server)[-1].keys()


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 8192 tokens. However, you requested 9000 (8984 in messages, 16 max_tokens).",
        "the request exceeds the available context size, try increasing it",
        "Please reduce the length of the messages or completion.",
        "Input validation error: too many tokens",
        "prompt is too long: 9000 tokens > 8192 maximum",
        "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
        "Input validation error: `inputs` must have less than 4096 tokens. Given: 5000",
        "This model's maximum prompt length is 131072 but the request contains 140000 tokens.",
        "<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 30720]",
        "Prompt exceeds max length",
        "Invalid request: Your request exceeded model token limit: 8192",
        "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
    ],
)
def test_a_long_row_is_not_taken_for_a_refused_parameter(openai_server: OpenAIServer, message: str) -> None:
    openai_server.fault = lambda path, body: Fault(400, message)
    assert all(isinstance(row, PromptTooLong) for row in ask(openai_server, 1, 2, concurrency=1))
    assert len(chats(openai_server)) == 2


def test_an_endpoint_whose_replicas_differ(openai_server: OpenAIServer) -> None:
    odd = iter(range(100))
    openai_server.fault = lambda path, body: (
        Fault(400, "logprobs is not supported") if body.get("logprobs") and next(odd) % 2 else None
    )
    answers = ask(openai_server, *range(6), concurrency=1)
    assert [row[0].nll for row in answers] == [pytest.approx(0.2), None] + [pytest.approx(0.2), None] * 2


def test_an_endpoint_that_is_down_is_not_asked_by_each_row(openai_server: OpenAIServer) -> None:
    openai_server.fault = lambda path, body: Fault(503, headers={"retry-after-ms": "1"})
    answers = ask(openai_server, *range(30), concurrency=16, retries=1)
    assert all(type(row) is UserError for row in answers) and len(chats(openai_server)) == 2


THOUGHTS: dict[str, tuple[dict[str, Any], str]] = {
    "in the text": ({"content": "<think>A? No, B.</think>\n\nAnswer: B"}, "Answer: B"),
    "opened by the template": ({"content": "A? No, B.</think>\nAnswer: B"}, "Answer: B"),
    "unfinished": ({"content": "<think>A? No,"}, ""),
    "of another family": ({"content": "[THINK]A? No, B.[/THINK]\nAnswer: B"}, "Answer: B"),
    "of another family, unfinished": ({"content": "<seed:think>A? No,"}, ""),
    "in a field": ({"reasoning_content": "A? No, B."}, "Answer: B"),
    "in parts": (
        {"content": [{"type": "thinking", "thinking": []}, {"type": "text", "text": "Answer: B"}]},
        "Answer: B",
    ),
    "no content": ({"content": None, "reasoning": "A?"}, ""),
    "a refusal": ({"content": None, "refusal": "I cannot."}, ""),
    "no parts": ({"content": []}, ""),
}


@pytest.mark.parametrize("how", THOUGHTS)
def test_a_thought_is_never_an_answer(openai_server: OpenAIServer, how: str) -> None:
    openai_server.reply, text = THOUGHTS[how]
    [[done]] = ask(openai_server, 1)
    assert done.text == text


@pytest.mark.parametrize(
    "change",
    [{"usage": None}, {"usage": {}}, {"usage": {"prompt_tokens": None, "completion_tokens": None}}],
)
def test_replies_without_figures(openai_server: OpenAIServer, change: dict[str, Any]) -> None:
    message = {"role": "assistant", "content": "Answer: B"}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": {}}
    openai_server.fault = lambda path, body: JSONResponse({"id": "c", "choices": [choice]} | change)
    [[done]] = ask(openai_server, 1)
    assert (done.text, done.tokens, done.prompt_tokens, done.nll) == ("Answer: B", 0, 0, None)


@pytest.mark.parametrize("inside", ["the body", "the choice"])
@pytest.mark.parametrize(("code", "passes"), [(429, True), (502, True), ("503", True), (400, False), (None, False)])
def test_errors_in_the_body_of_a_200(
    openai_server: OpenAIServer, inside: str, code: Any, passes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    error = {"error": {"code": code, "message": "Provider returned\nan error"}}
    message = {"role": "assistant", "content": ""}
    choice = {"index": 0, "message": message, "finish_reason": "error"} | error
    body = {"id": "c"} | ({"choices": [choice]} if inside == "the choice" else error)
    answers = iter([JSONResponse(body), JSONResponse(body)])
    openai_server.fault = lambda path, body: next(answers, None)
    with monkeypatch.context() as patch:
        patch.setattr("semievol.engines.openai.sleep", sleep)
        [done] = ask(openai_server, 1, retries=2)
    assert len(waits) == (2 if passes else 0)
    assert done[0].text if passes else isinstance(done, RequestRefused) and "Provider returned an error" in str(done)


@pytest.mark.parametrize("choices", [None, [], [{"index": 0, "message": None, "finish_reason": "content_filter"}]])
def test_replies_without_an_answer(openai_server: OpenAIServer, choices: Any) -> None:
    openai_server.fault = lambda path, body: JSONResponse({"id": "c", "choices": choices, "usage": None})
    [done] = ask(openai_server, 1)
    assert isinstance(done, RequestRefused) if not choices else done[0].text == ""


@pytest.mark.parametrize("sign", ["max_completion_tokens", "reasoning_content", "<think>", "[THINK]", "usage"])
def test_what_tells_a_cut_thought(openai_server: OpenAIServer, sign: str) -> None:
    message = {"reasoning_content": "A?"} if sign == "reasoning_content" else {}
    message |= {"role": "assistant", "content": f"{sign}A?" if sign in ("<think>", "[THINK]") else None}
    choice = {"index": 0, "message": message, "finish_reason": "length"}
    usage = {"completion_tokens_details": {"reasoning_tokens": 16}} if sign == "usage" else None

    def cut(path: str, body: dict[str, Any]) -> Fault | Response | None:
        if sign == "max_completion_tokens" and "max_tokens" in body:
            return Fault(400, "unsupported")
        limit = body.get("max_tokens") or body["max_completion_tokens"]
        return JSONResponse({"id": "c", "choices": [choice], "usage": usage}) if limit == 16 else None

    openai_server.fault = cut
    assert [row[0].text for row in ask(openai_server, 1, 2)] == ["Answer: B"] * 2
    choice["message"] = {"role": "assistant", "content": None}
    openai_server.fault = lambda path, body: JSONResponse({"id": "c", "choices": [choice], "usage": None})
    assert [row[0].text for row in ask(openai_server, 1)] == [""]  # no sign of thoughts: no answer
    assert chats(openai_server)[-1]["max_tokens"] == 16


def test_room_for_thoughts_ends_at_the_window(openai_server: OpenAIServer) -> None:
    openai_server.thought, openai_server.window = 10**6, 3000
    answers = ask(openai_server, *range(5), concurrency=1)
    assert [row[0].text for row in answers] == [""] * 5
    assert len(chats(openai_server)) <= 5 + 3
    openai_server.calls.clear()
    openai_server.thought = 2000
    openai_server.window = 100_000
    assert [row[0].text for row in ask(openai_server, *range(5), concurrency=1)] == ["Answer: B"] * 5
    assert [body["max_tokens"] for body in chats(openai_server)[:4]] == [16, 1040, 2064, 2064]


def test_a_limit_that_is_refused_in_a_thought(openai_server: OpenAIServer) -> None:
    message = "Could not finish the message because max_tokens or model output limit was reached."
    openai_server.fault = lambda path, body: Fault(400, message) if body["max_tokens"] < 500 else None
    assert [row[0].text for row in ask(openai_server, 1, 2)] == ["Answer: B"] * 2
