"""What clients of OpenAI's API send beyond the request itself, by the client that is known to send it."""

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from semievol import config
from semievol.serving.backend import CHAT, COMPLETIONS
from semievol.serving.gate import Gate
from semievol.serving.keys import Keys
from semievol.serving.web import build
from tests.support.endpoints import FakeBackend

HELLO = {"role": "user", "content": "Profit rose. Good or bad?"}


class Asked(TestClient):
    """The endpoint over a backend that keeps what reaches the model."""

    def __init__(self, *overrides: str) -> None:
        text = "{name: r, model: {base: m}, data: {labeled: l, unlabeled: u, test: t}}"
        settings = config.loads(text, list(overrides), "c.yaml")
        self.backend = FakeBackend()
        app = Gate(build(self.backend, settings), Keys.parse("", "keys"), settings.serving)
        super().__init__(app, "http://127.0.0.1", client=("127.0.0.1", 50000))

    def reaches(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        response = self.post(path, json=body)
        assert response.status_code == 200, f"{body}: {response.text}"
        return self.backend.seen[-1]

    def refusal(self, path: str, body: dict[str, Any]) -> str:
        response = self.post(path, json=body)
        assert response.status_code == 400 and not self.backend.seen, f"{body}: {response.text}"
        return str(response.json()["error"]["message"])


NULL = """audio function_call frequency_penalty presence_penalty logit_bias logprobs top_logprobs metadata modalities n
prediction reasoning_effort response_format safety_identifier service_tier stop store stream stream_options temperature
tool_choice tools top_p user verbosity web_search_options prompt_cache_key max_tokens max_completion_tokens"""
EXTRAS: dict[str, dict[str, Any]] = {
    "LangChain ChatOpenAI": {"n": 1, "temperature": 0.7, "stream": False, "max_completion_tokens": 9, "logprobs": None},
    "LangChain with tools bound to nothing": {"tools": [], "parallel_tool_calls": True, "tool_choice": None},
    "LlamaIndex OpenAILike": {"temperature": 0.1, "max_tokens": None, "logit_bias": {}, "stream": False},
    "litellm": {"extra_body": {}, "tools": [], "user": None, "metadata": {"tags": ["a"]}, "response_format": None},
    "litellm's default tool choice": {"functions": [], "function_call": "auto", "tool_choice": "auto"},
    "Vercel AI SDK": {"response_format": {"type": "text"}, "reasoning_effort": None, "tools": None, "seed": None},
    "continue.dev": {"stop": [f"<|stop{i}|>" for i in range(9)], "prediction": None, "top_k": -1, "min_p": 0},
    "Open WebUI": {"stream": False, "metadata": {"chat_id": "c", "files": None}, "logit_bias": None},
    "OpenAI's playground": {"store": False, "service_tier": "auto", "modalities": ["text"], "verbosity": "medium"},
    "OpenAI's client with every field null": dict.fromkeys(NULL.split()),
    "AutoGen, Semantic Kernel": {
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "user": "",
        "parallel_tool_calls": False,
    },
    "garak, promptfoo": {"n": 1, "presence_penalty": 0.0, "top_p": 1.0, "stop": []},
    "clients made for vLLM": {"top_k": 0, "repetition_penalty": 1.0, "ignore_eos": False, "skip_special_tokens": True}
    | {"add_generation_prompt": True, "guided_json": None, "chat_template_kwargs": {}, "stop_token_ids": []},
    "LM Studio's examples, SillyTavern": {"max_tokens": -1, "seed": -1, "stop": [""], "temperature": 0.7},
    "llama.cpp's clients": {"max_completion_tokens": -1, "stop": "", "seed": -1},
    "LM Studio's and Ollama's clients": {"options": None, "keep_alive": None, "logprobs": False, "top_logprobs": 0},
}


@pytest.mark.parametrize("client", EXTRAS)
def test_extras_that_ask_for_nothing_are_taken_and_go_no_further(client: str) -> None:
    seen = Asked().reaches(CHAT, {"model": "base", "messages": [HELLO]} | EXTRAS[client])
    known = {"temperature", "top_p", "n", "seed", "stop", "stream", "presence_penalty", "frequency_penalty"}
    assert seen.keys() <= known | {"to", "path", "model", "messages", "max_tokens", "logprobs", "top_logprobs"}
    assert seen["messages"] == [HELLO]


def test_stream_options() -> None:
    ask = {"model": "base", "messages": [HELLO]}
    for options in (None, {}, {"include_usage": True}, {"include_usage": None, "continuous_usage_stats": False}):
        assert "stream_options" not in Asked().reaches(CHAT, ask | {"stream_options": options})  # vLLM would refuse it
    streamed = Asked().post(CHAT, json=ask | {"stream": True, "stream_options": {"include_obfuscation": False}})
    assert streamed.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tool_choice", "required"),
        ("functions", [{"name": "f"}]),
        ("response_format", {"type": "json_object"}),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "alloy", "format": "wav"}),
        ("web_search_options", {}),
        ("store", True),
        ("service_tier", "flex"),
        ("reasoning_effort", "high"),
        ("logit_bias", {"50256": -100}),
        ("best_of", 3),
        ("top_k", 40),
        ("min_p", 0.1),
        ("repetition_penalty", 1.2),
        ("use_beam_search", True),
        ("guided_json", {"type": "object"}),
        ("chat_template_kwargs", {"enable_thinking": True}),
        ("stop_token_ids", [2]),
        ("extra_body", {"top_k": 1}),
        ("prompt_logprobs", 1),
    ],
)
def test_extras_that_ask_for_something_are_refused_by_name(name: str, value: Any) -> None:
    assert Asked().refusal(CHAT, {"model": "base", "messages": [HELLO], name: value}).startswith(name)


SAID = {"role": "assistant", "content": "Good."}
RETURNED: dict[str, dict[str, Any]] = {
    "vLLM": SAID
    | {"refusal": None, "annotations": None, "audio": None, "function_call": None, "tool_calls": []}
    | {"reasoning": None, "reasoning_content": None},
    "OpenAI": SAID | {"refusal": None, "annotations": []},
    "with thoughts": SAID | {"reasoning": "Profit is good.", "reasoning_content": "Profit is good."},
    "OpenRouter": SAID | {"reasoning_details": [{"type": "reasoning.text", "text": "t"}], "images": []},
    "litellm": SAID | {"provider_specific_fields": {}, "thinking_blocks": None, "tool_calls": None},
    "streamed and put together": SAID | {"tool_calls": [], "function_call": {}, "refusal": "", "index": 0},
    "in parts": {"role": "assistant", "content": [{"type": "text", "text": "Good.", "annotations": []}]},
    "litellm, of a provider": SAID | {"provider_specific_fields": {"citations": ["x"]}, "thinking_blocks": [{"a": 1}]},
    "OpenAI's parse": SAID | {"parsed": {"label": "good"}, "finish_reason": "stop"},
    "CodeCompanion": SAID | {"id": 1947269257, "opts": None},
}


@pytest.mark.parametrize("server", RETURNED)
def test_an_answer_goes_back_as_it_came(server: str) -> None:
    messages = [HELLO, RETURNED[server], {"role": "user", "content": "Why?"}]
    first, back, why = Asked().reaches(CHAT, {"model": "base", "messages": messages})["messages"]
    assert (first, why) == (HELLO, messages[-1])
    assert back in (SAID, {"role": "assistant", "content": [{"type": "text", "text": "Good."}]})


@pytest.mark.parametrize("nothing", [{"content": None}, {"content": ""}, {"content": []}, {}])
def test_an_assistant_may_have_said_nothing(nothing: dict[str, Any]) -> None:
    messages = [HELLO, {"role": "assistant"} | nothing, HELLO]
    assert Asked().reaches(CHAT, {"model": "base", "messages": messages})["messages"][1] == {
        "role": "assistant",
        "content": "",
    }


def test_messages_of_developers_in_parts_and_with_names() -> None:
    messages = [
        {
            "role": "developer",
            "content": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        },
        {"role": "user", "name": "ann", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "there"}]},
        {"role": "user", "name": None, "content": "Well?", "cache_control": {"type": "ephemeral"}},
    ]
    system, user, last = Asked().reaches(CHAT, {"model": "base", "messages": messages})["messages"]
    assert system == {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    assert user == messages[1] and last == {"role": "user", "content": "Well?"}


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (SAID | {"tool_calls": [{"id": "c", "type": "function"}]}, "messages.1.tool_calls"),
        (SAID | {"audio": {"id": "a"}}, "messages.1.audio"),
        ({"role": "tool", "content": "x", "tool_call_id": "c"}, "messages.1.role"),
        ({"role": "user", "content": None}, "messages.1.content"),
        ({"role": "user", "content": []}, "messages.1.content"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "messages.1.content"),
        ("Hi", "messages.1"),
    ],
)
def test_messages_that_the_model_could_not_be_given_are_refused(message: Any, says: str) -> None:
    assert Asked().refusal(CHAT, {"model": "base", "messages": [HELLO, message]}).startswith(says)


@pytest.mark.parametrize(
    "prompt",
    [
        "The answer",
        ["The answer"],
        ["one", "two"],
        [f"row {i}" for i in range(20)],
        [1, 2, 3],
        [[1, 2, 3]],
        [[1], [2, 3]],
    ],
)
def test_plain_completions_take_prompts_as_langchain_and_lm_eval_send_them(prompt: Any) -> None:
    extras: dict[str, Any] = {"best_of": 1, "echo": False, "suffix": None, "logit_bias": {}, "logprobs": None, "n": 1}
    extras |= {"presence_penalty": 0, "frequency_penalty": 0, "seed": 1234, "stop": ["\n\n"], "user": None}
    seen = Asked().reaches(COMPLETIONS, {"model": "base", "prompt": prompt} | extras)
    assert seen["prompt"] == prompt and seen["stop"] == ["\n\n"]
    assert seen["max_tokens"] is None  # the model's server sets it
    assert not {"best_of", "suffix", "logit_bias", "echo"} & seen.keys()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"prompt": []}, "prompt.texts: List should have at least 1 item"),
        ({"prompt": ""}, "prompt.text"),
        ({"prompt": ["a", ""]}, "prompt.texts.1"),
        ({"prompt": ["a"] * 65}, "prompt.texts: List should have at most 64"),
        ({"prompt": ["a"] * 33, "n": 2}, "prompt: 2 responses to each of 33 prompts are over the limit of 64"),
        ({"prompt": [[1], []]}, "prompt.token lists.1"),
        ({"prompt": [1, -1]}, "prompt.token ids.1"),
        ({"prompt": [1, 2**40]}, "prompt.token ids.1"),
        ({"prompt": ["a", 1]}, "prompt.texts.1"),
        ({"prompt": "a", "echo": True}, "echo"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "best_of": 2}, "best_of"),
    ],
)
def test_prompts_that_are_refused(body: dict[str, Any], says: str) -> None:
    assert Asked().refusal(COMPLETIONS, {"model": "base"} | body).startswith(says)


def test_questions_with_null_fields() -> None:
    question = {"question": "Profit rose.", "options": ["bad", "good"], "context": None, "model": None}
    response = Asked().post("/v1/answer", json=question | {"min_confidence": None})
    assert response.status_code == 200 and response.json()["model"] == "round-1"


@pytest.mark.parametrize("path", ["/health", "/", "/v1/models", "/v1/models/base", "/health/", "/openapi.json"])
def test_head_is_get_without_a_body(path: str) -> None:
    head, get = Asked().head(path), Asked().get(path)
    assert (head.status_code, head.content) == (get.status_code, b"") == (200, b"")
    assert head.headers == get.headers


def test_addresses_as_clients_put_them_together(caplog: pytest.LogCaptureFixture) -> None:
    client, ask = Asked(), {"model": "base", "messages": [HELLO]}
    for path in ("/v1//chat/completions", "/v1/chat/completions/"):
        client.reaches(path, ask)
    assert client.get("/v1/models/").json()["object"] == "list"
    lost = client.post("/chat/completions", json=ask)
    assert lost.status_code == 404 and "no route /chat/completions; the API's base URL ends with /v1" in lost.text
    assert client.head(CHAT).status_code == 405 and client.head("/v1/nothing").status_code == 404
    untyped = client.post(CHAT, content=json.dumps(ask), headers={"content-type": "application/x-www-form-urlencoded"})
    assert untyped.status_code == 400 and "Content-Type: application/json" in untyped.text  # curl -d without a header


def test_options_of_a_question_come_as_in_files() -> None:
    for given in (["a", "b"], {"A": "a", "B": "b"}, ["A. a", "B. b"], {"text": ["a", "b"], "label": ["A", "B"]}):
        answered = Asked().post("/v1/answer", json={"question": "q", "options": given})
        assert (answered.json()["answer"], answered.json()["text"]) == ("B", "b"), answered.text
    refused = Asked().post("/v1/answer", json={"question": "q", "options": {"x": "a"}})
    assert refused.status_code == 400
    assert refused.json()["error"]["message"] == "options: Input should be a valid list"
