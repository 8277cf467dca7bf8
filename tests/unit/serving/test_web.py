"""The endpoint's HTTP surface over a fake backend; tests/e2e/test_serve.py runs the same against the real engine."""

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from semievol import config
from semievol.config import RunConfig
from semievol.serving.backend import CHAT, Refused, Unavailable
from semievol.serving.gate import Gate
from semievol.serving.keys import Keys, add
from semievol.serving.web import build
from tests.support.endpoints import FakeBackend

QUESTION = {"question": "Profit rose.", "options": ["negative", "positive"]}
ASK = {"model": "evolved", "messages": [{"role": "user", "content": "a secret prompt"}]}


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def client_of(backend: FakeBackend) -> Callable[..., TestClient]:
    def make(*overrides: str, keys: str = "", peer: str = "127.0.0.1") -> TestClient:
        app = Gate(build(backend, run_config(*overrides)), Keys.parse(keys, "keys"), run_config(*overrides).serving)
        return TestClient(app, "http://127.0.0.1", raise_server_exceptions=True, client=(peer, 50000))

    return make


def run_config(*overrides: str) -> RunConfig:
    text = "{name: r, model: {base: m}, data: {labeled: l, unlabeled: u, test: t}}"
    return config.loads(text, list(overrides), "c.yaml")


def test_chat_goes_to_the_model_behind_the_alias(client_of: Callable[..., TestClient], backend: FakeBackend) -> None:
    client = client_of()
    assert client.post(CHAT, json=ASK).json()["model"] == "round-1"
    assert backend.seen[-1] == ASK | {"to": "round-1", "path": CHAT, "model": "round-1", "max_tokens": None}
    client.post(CHAT, json=ASK | {"max_completion_tokens": 7, "user": "u", "stop": ["x"], "seed": 3, "n": 2})
    assert backend.seen[-1].items() >= {"max_tokens": 7, "stop": ["x"], "seed": 3, "n": 2}.items()
    assert not {"user", "max_completion_tokens"} & set(backend.seen[-1])
    client.post(CHAT, json=ASK | {"min_tokens": 300})  # over what the model's server would set for a missing limit
    assert backend.seen[-1]["max_tokens"] == 300
    streamed = client.post(CHAT, json=ASK | {"stream": True})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert streamed.text.endswith("data: [DONE]\n\n")
    assert [card["id"] for card in client.get("/v1/models").json()["data"]] == ["base", "evolved", "round-1"]
    assert client.get("/v1/models/evolved").json()["root"] == "round-1"


def test_the_task_route_says_answer_confidence_and_neighbours(
    client_of: Callable[..., TestClient], backend: FakeBackend
) -> None:
    client = client_of("serving.in_context=true")
    one = client.post("/v1/answer", json=QUESTION).json()
    assert (one["answer"], one["text"], one["abstained"], one["model"]) == ("B", "positive", False, "round-1")
    assert one["entropy"] == pytest.approx(0.3) and one["confidence"] == pytest.approx(0.740818)
    assert one["neighbors"] == [{"question": "Sales grew.", "answer": "positive", "similarity": 0.9}]
    assert one["examples_in_prompt"] and "Sales grew." in backend.seen[-1]["messages"][0]["content"]
    many = client.post("/v1/answer", json=[QUESTION | {"min_confidence": 0.8}, QUESTION | {"model": "base"}]).json()
    assert (many[0]["answer"], many[0]["abstained"], many[0]["response"]) == (None, True, "Answer: B")
    assert many[1]["model"] == "base"
    without = client_of().post("/v1/answer", json=QUESTION).json()
    assert not without["examples_in_prompt"] and without["neighbors"]
    assert [m["role"] for m in backend.seen[-1]["messages"]] == ["user"]
    assert client_of("serving.min_confidence=0.9").post("/v1/answer", json=QUESTION).json()["abstained"]


def test_the_task_route_takes_chats(client_of: Callable[..., TestClient], backend: FakeBackend) -> None:
    client = client_of("task.kind=chat", "prompt.system=Be kind.")
    hi = {"role": "user", "content": [{"type": "text", "text": " Hi.\n\nYou? "}]}
    turns = [{"role": "system", "content": "Be brief."}, hi, {"role": "assistant", "content": "Yes."}]
    last = {"role": "user", "content": "What now?"}
    said = client.post("/v1/answer", json={"messages": [*turns, last]}).json()
    assert (said["answer"], said["abstained"]) == ("Answer: B", False)
    asked = [turns[0] | {"content": "Be kind.\n\nBe brief."}, hi | {"content": "Hi.\n\nYou?"}, turns[2], last]
    assert backend.seen[-1]["messages"] == asked
    client.post("/v1/answer", json={"question": "What now?"})
    assert backend.seen[-1]["messages"][1:] == [last]
    for body, says in (
        ({}, "send either question or messages"),
        ({"question": "x", "messages": [last]}, "send either question or messages"),
        ({"messages": []}, "messages"),
        ({"messages": turns}, "question 0: the last message must be the user's"),
        ({"messages": turns[:1]}, "question 0: the chat has no turn of the user"),
    ):
        refused = client.post("/v1/answer", json=body)
        assert refused.status_code == 400 and says in refused.json()["error"]["message"]
    refused = client_of().post("/v1/answer", json={"messages": [last]})
    assert refused.status_code == 400
    assert "messages are for task.kind: chat. For multiple_choice send question" in refused.json()["error"]["message"]


def test_labels_are_scored_and_no_request_lists_them(
    client_of: Callable[..., TestClient], backend: FakeBackend
) -> None:
    labels = "{kind: classification, labels: {card: lost or stolen, charge: twice, address: moved}}"
    template = '"{{ product }}: {{ question }} {{ instruction }}"'
    client = client_of(f"task={labels}", f"prompt.template={template}")
    asked = {"question": "The ATM kept my card", "fields": {"product": "giro", "other": "x"}}
    one = client.post("/v1/answer", json=asked).json()
    assert backend.seen[-1]["responses"] == ["card", "charge", "address"]
    assert backend.seen[-1]["messages"][0]["content"].startswith("giro: The ATM kept my card Answer with one")
    assert (one["answer"], one["response"], one["confidence"]) == ("address", "address", 0.5)  # the fake's 1:2:3
    assert [share["answer"] for share in one["distribution"]] == ["address", "charge", "card"]
    assert sum(share["share"] for share in one["distribution"]) == pytest.approx(1, abs=1e-5)
    assert client.post("/v1/answer", json=asked | {"min_confidence": 0.6}).json()["answer"] is None
    backend.failure = Refused("the prompt has too many tokens")
    assert "too many tokens" in client.post("/v1/answer", json=asked).json()["error"]["message"]
    card = client.get("/v1/task").json()
    assert (card["kind"], card["labels"], card["fields"]) == (
        "classification",
        ["card", "charge", "address"],
        ["product"],
    )
    assert card["descriptions"]["charge"] == "twice" and card["asks"] == [] and card["example"] is None
    assert (
        client_of().get("/v1/task").json() | {"asks": ["options"], "labels": None} == client_of().get("/v1/task").json()
    )


def test_a_question_is_read_as_a_row_of_a_file_is(client_of: Callable[..., TestClient], backend: FakeBackend) -> None:
    template = "prompt.template='{{ subject }}, {{ question }} {{ context }} {{ options | first | default }}'"
    blanks = {
        "question": "\n Up? ",
        "context": " It rose.\n",
        "fields": {"subject": " Sales\t"},
        "options": [" x", "y "],
    }
    client_of(template).post("/v1/answer", json=blanks)
    assert backend.seen[-1]["messages"][-1]["content"] == "Sales, Up? It rose. x"
    labels = client_of(template, "task.kind=classification", "task.labels=[a, b]", "evaluate.mode=sample")
    labels.post("/v1/answer", json=blanks)
    assert backend.seen[-1]["messages"][-1]["content"] == "Sales, Up? It rose."  # options of a file are not read
    for body, says in (
        (QUESTION | {"question": " \n"}, "question 0: a text of it is empty"),
        (QUESTION | {"options": ["x", " "]}, "question 0: a text of it is empty"),
        (QUESTION | {"context": "a\x00b"}, "question 0: column 'context' holds NUL bytes"),
        (
            QUESTION | {"question": "long" * 30},
            "question 0: column 'question' is longer than limits.max_row_bytes = 100",
        ),
    ):
        refused = client_of("limits.max_row_bytes=100").post("/v1/answer", json=body)
        assert refused.status_code == 400 and says in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (ASK | {"model": "../../etc/passwd"}, 404, "/v1/models"),
        (ASK | {"model": "x" * 200}, 400, "model"),
        (ASK | {"messages": []}, 400, "messages"),
        (ASK | {"messages": [{"role": "tool", "content": "x"}]}, 400, "messages.0.role"),
        (ASK | {"chat_template": "{{ 7 * 7 }}"}, 400, "chat_template"),
        (ASK | {"n": 9}, 400, "n: 9 is over this endpoint's limit of 8"),
        (ASK | {"max_tokens": 10**9}, 400, "max_tokens"),
        (ASK | {"max_completion_tokens": 10**9}, 400, "max_completion_tokens: 1000000000 is over"),
        (ASK | {"min_tokens": 10**9}, 400, "min_tokens: 1000000000 is over"),
        (ASK | {"temperature": -1}, 400, "temperature"),
        (ASK | {"seed": 2**80}, 400, "seed"),
        (ASK | {"\ud800": 1}, 400, "unicode"),
        (ASK | {"ключ": 1}, 400, "????"),
        ([ASK], 400, "body"),
        ("{", 400, "JSON"),
        ("[" * 100_000, 400, ""),
        ('{"model": "base", "messages": ' + '{"a":' * 5000 + "1" + "}" * 5000 + "}", 400, ""),
        ('{"model": "base", "messages": [{"role": "user", "content": "\\ud800"}]}', 400, "content"),
        ('{"model": "base", "temperature": NaN, "messages": [{"role": "user", "content": "x"}]}', 400, "temperature"),
        ("\x00\x00", 400, ""),
    ],
)
def test_what_is_wrong_is_named_and_never_a_500(
    client_of: Callable[..., TestClient], backend: FakeBackend, body: Any, status: int, says: str
) -> None:
    text = body if isinstance(body, str) else json.dumps(body)
    response = client_of().post(CHAT, content=text, headers={"content-type": "application/json"})
    assert response.status_code == status
    error = response.json()["error"]
    assert says in error["message"] and set(error) == {"message", "type", "param", "code"}
    assert "a secret prompt" not in response.text and "Traceback" not in response.text
    assert not backend.seen


def test_failures_of_the_engine_are_told_apart(
    client_of: Callable[..., TestClient], backend: FakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    client = client_of("serving.timeout_s=0.05")
    loading = client_of("serving.models=[warm]").post(CHAT, json=ASK | {"model": "warm"})
    assert loading.status_code == 503
    backend.failure = Unavailable()
    for route, body in ((CHAT, ASK), ("/v1/answer", QUESTION)):
        lost = client.post(route, json=body)
        assert lost.status_code == 503 and lost.headers["retry-after"] == "1"
    assert '"type":"unavailable"' in client.post(CHAT, json=ASK | {"stream": True}).text
    backend.failure = TimeoutError()
    assert client.post(CHAT, json=ASK).status_code == 504
    backend.failure = RuntimeError("a secret prompt")
    broken = client.post(CHAT, json=ASK)
    assert broken.status_code == 500 and "secret" not in broken.text + caplog.text
    backend.failure, backend.status = None, 400
    backend.body = {"error": {"message": 'too "long"', "code": 400}}
    refused = client.post(CHAT, json=ASK)
    assert refused.status_code == 400 and refused.json()["error"]["message"] == 'too "long"'
    said = client.post("/v1/answer", json=QUESTION).json()["error"]["message"]
    assert said == 'The model refuses the question: too "long"'
    assert [body.get("max_tokens") for body in backend.seen[-2:]] == [16, None]  # what the window leaves may do
    backend.status = 500
    assert "long" not in client.post(CHAT, json=ASK).text
    bad = client.post("/v1/answer", json=[QUESTION, QUESTION | {"options": ["one"]}])
    assert bad.status_code == 400 and bad.json()["error"]["message"].startswith("question 1: 1 options")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"text": "x"}, "text: Extra inputs are not permitted; leave it out"),
        ({"question": ["x", "y"]}, "question: Input should be a valid string"),
        ([QUESTION, {"question": "x", "label": "y"}], "1.label: Extra inputs are not permitted; leave it out"),
        (QUESTION | {"fields": {"a[0]": 1}}, "fields.a[0]: Input should be"),
        ({}, "body: Value error, send either question or messages"),
    ],
)
def test_a_question_that_does_not_fit_is_told_without_the_names_of_classes(
    client_of: Callable[..., TestClient], body: Any, says: str
) -> None:
    refused = client_of().post("/v1/answer", json=body)
    assert refused.status_code == 400 and refused.json()["error"]["message"].startswith(says)


def test_keys_open_the_door_and_nothing_else_does(client_of: Callable[..., TestClient], tmp_path: Any) -> None:
    file = f"{tmp_path}/keys.txt"
    key = add("alice", file)
    client = client_of(keys=(tmp_path / "keys.txt").read_text(), peer="10.0.0.9")
    assert client.get("/v1/models", headers={"authorization": f"Bearer {key}"}).status_code == 200
    wrong: list[Any] = [{}, {"authorization": f"Bearer {key}x"}, {"authorization": f"Basic {key}"}, {"x-api-key": key}]
    wrong.append({"authorization": b"Bearer \xe9\xff"})
    for headers in wrong:
        refused = client.get("/v1/models", headers=headers)
        assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer"
    assert client.get(f"/v1/models?api_key={key}").status_code == 401
    assert client.get("/openapi.json").status_code == 401
    assert client.get("/health").status_code == 200
    page = client.get("/")
    assert page.status_code == 200 and "script-src 'sha256-" in page.headers["content-security-policy"]
    assert "http://" not in page.text and "https://" not in page.text
    for path in ("/sleep", "/pause", "/collective_rpc", "/reset_prefix_cache", "/docs", "/metrics", "/v1/embeddings"):
        assert client.post(path, headers={"authorization": f"Bearer {key}"}).status_code == 404


def test_without_keys_it_answers_its_own_machine_only(client_of: Callable[..., TestClient]) -> None:
    assert client_of().get("/v1/models").status_code == 200
    assert client_of(peer="10.0.0.9").get("/v1/models").status_code == 403
    assert client_of(peer="10.0.0.9").get("/").status_code == 403
    assert client_of().get("/v1/models", headers={"host": "attacker.example"}).status_code == 403
    crossed = client_of().options(
        CHAT, headers={"origin": "https://a.example", "access-control-request-method": "POST"}
    )
    assert "access-control-allow-origin" not in crossed.headers


def test_limits_and_the_access_log(client_of: Callable[..., TestClient], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "semievol")
    client = client_of("serving.rate=3/minute", "serving.max_body_bytes=1000")
    assert client.post(CHAT, json=ASK).status_code == 200
    big = client.post(CHAT, content=b"x" * 2000)
    assert big.status_code == 413 and "1,000 bytes" in big.json()["error"]["message"]
    assert client.post(CHAT, content=iter([b"x" * 600, b"y" * 600])).status_code == 413  # no length declared
    refused = client.post(f"{CHAT}?q=secret", json=ASK)
    assert refused.status_code == 429 and 0 < int(refused.headers["retry-after"]) <= 60
    lines = [json.loads(record.message) for record in caplog.records if record.name == "semievol.access"]
    assert [line["status"] for line in lines] == [200, 413, 413, 429]
    assert lines[0].items() >= {"key": "anonymous", "method": "POST", "path": CHAT, "model": "round-1"}.items()
    assert "secret" not in caplog.text
    assert client_of("serving.concurrency=1").post(CHAT, json=ASK).status_code == 200
