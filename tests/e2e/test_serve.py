"""The endpoint on the real engine: OpenAI's client, lm-eval, hostile requests, and what happens when things change."""

import asyncio
import json
import math
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import openai
import pytest
import schemathesis

from semievol.cli import main
from tests.support import served
from tests.support.served import Served
from tests.support.shared import MODEL, needs_model

pytestmark = [needs_model, pytest.mark.timeout(2400)]
EXAMPLES = int(os.environ.get("SEMIEVOL_FUZZ_EXAMPLES", "60"))  # for each route
CALLERS = 8  # of the endpoint at a time, while a replica dies and a model is promoted
SECRET = "zebra-crossing-71"  # stands in prompts; must stand in no log
HELLO: Any = [{"role": "user", "content": f"Is {SECRET} good?\n\nA. yes\nB. no"}]
QUESTION = {"question": f"{SECRET}: profit rose", "options": ["negative", "neutral", "positive"]}


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    run = served.make_run(tmp_path_factory.mktemp("serve"), MODEL)
    main(["promote", run, "--round", "0"])
    # One model: each costs a minute to start. Two at a time there are when another round is promoted.
    running = served.start(run, "serving.models=[evolved]", "serving.rate=1000000/minute", "serving.max_tokens=512")
    yield running
    served.stop(running)


@pytest.fixture
def client(endpoint: Served) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{endpoint.url}/v1", api_key=endpoint.key, max_retries=0, http_client=httpx.Client(trust_env=False)
    )


def test_the_official_client(client: openai.OpenAI, endpoint: Served) -> None:
    assert [model.id for model in client.models.list()] == ["evolved", "round-0"]
    assert client.models.retrieve("evolved").model_extra == {"root": "round-0"}
    ask: dict[str, Any] = {"model": "evolved", "messages": HELLO, "max_tokens": 12}
    one = client.chat.completions.create(**ask, temperature=0, logprobs=True, top_logprobs=2)
    assert one.model == "round-0" and one.usage and one.usage.completion_tokens > 0
    assert one.choices[0].logprobs and one.choices[0].logprobs.content
    assert len(one.choices[0].logprobs.content[0].top_logprobs) == 2
    seeded = [client.chat.completions.create(**ask, n=3, seed=5, temperature=1.5) for _ in range(2)]
    texts = [[choice.message.content for choice in answer.choices] for answer in seeded]
    assert len(texts[0]) == 3 and texts[0] == texts[1]
    parts = list(
        client.chat.completions.create(**ask, temperature=0, stream=True, stream_options={"include_usage": True})
    )
    streamed = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert streamed == one.choices[0].message.content and parts[-1].usage
    plain = client.completions.create(model="round-0", prompt="The answer", max_tokens=4, temperature=0, logprobs=1)
    assert plain.choices[0].logprobs and plain.choices[0].logprobs.tokens
    said = str(one.choices[0].message.content)
    stopped = client.chat.completions.create(**ask, temperature=0, stop=said[-1])
    assert stopped.choices[0].finish_reason == "stop" and said[-1] not in str(stopped.choices[0].message.content)
    with pytest.raises(openai.NotFoundError, match="/v1/models"):
        client.chat.completions.create(**(ask | {"model": "gpt-4"}))
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(**ask, temperature=5)
    with pytest.raises(openai.BadRequestError, match="context"):
        client.chat.completions.create(**(ask | {"messages": [{"role": "user", "content": "word " * 5000}]}))
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="sk-wrong").models.list()


def test_what_clients_send_back_and_leave_out(client: openai.OpenAI, endpoint: Served) -> None:
    turns: Any = [{"role": "developer", "content": [{"type": "text", "text": "Be brief."}]}, *HELLO]
    for follow_up in ("Why?", "And why is that?"):
        reply = client.chat.completions.create(model="evolved", messages=turns, max_tokens=8, temperature=0)
        turns += [reply.choices[0].message, {"role": "user", "content": follow_up}]
    texts = [client.completions.create(model="evolved", prompt=p, max_tokens=4, temperature=0) for p in ("Sales", "A")]
    both = client.completions.create(model="evolved", prompt=["Sales", "A"], max_tokens=4, temperature=0, n=1)
    assert [(c.index, c.text) for c in both.choices] == [(i, reply.choices[0].text) for i, reply in enumerate(texts)]
    assert len(client.completions.create(model="evolved", prompt=[[5, 6], [7]], max_tokens=4).choices) == 2
    assert len(client.completions.create(model="evolved", prompt=[5, 6, 7], n=2, max_tokens=4).choices) == 2
    with pytest.raises(openai.BadRequestError, match="vocabulary"):
        client.completions.create(model="evolved", prompt=[10**6], max_tokens=4)
    head = endpoint.http.head("/health", headers={"authorization": ""})
    assert (head.status_code, head.content) == (200, b"")


def test_a_long_prompt_without_max_tokens_gets_what_the_window_leaves(client: openai.OpenAI, endpoint: Served) -> None:
    def ask(words: int, **options: Any) -> Any:
        content = "profit " * words
        return client.chat.completions.create(
            model="evolved", messages=[{"role": "user", "content": content}], temperature=0, **options
        )

    with pytest.raises(openai.BadRequestError, match="context") as over:
        ask(5000)
    window = int(str(over.value).split("maximum context length")[1].split()[1])
    one, two = (ask(words, max_tokens=1).usage.prompt_tokens for words in (100, 200))
    words = 100 + int((window - 100 - one) / ((two - one) / 100))
    left = window - ask(words, max_tokens=1).usage.prompt_tokens
    assert 0 < left < 200  # less than serving.default_max_tokens
    endless = {"min_tokens": left}  # the response goes on until a limit
    assert ask(words, extra_body=endless).usage.completion_tokens == left
    assert ask(words, extra_body=endless, stream=False, max_completion_tokens=left).usage.completion_tokens == left
    assert ask(100, extra_body={"min_tokens": 256}).usage.completion_tokens == 256  # serving.default_max_tokens
    text = "profit " * words
    used = client.completions.create(model="evolved", prompt=text, max_tokens=1).usage.prompt_tokens  # type: ignore[union-attr]
    for prompt, most in ((text, min(window - used, 256)), ("Sales", 256), (["Sales", "A"], 512), ([text, "A"], 512)):
        plain = client.completions.create(model="evolved", prompt=prompt, extra_body={"min_tokens": 40})
        assert plain.usage and 40 < plain.usage.completion_tokens <= most
    with pytest.raises(openai.BadRequestError, match=f"requested {left + 1} output tokens"):
        ask(words, max_tokens=left + 1)
    question = {"question": "profit " * (words - 40), "options": ["down", "up"]}
    answer = endpoint.http.post("/v1/answer", json=question)
    assert answer.status_code == 200, answer.text


def test_the_task_route_measures_as_the_run_does(client: openai.OpenAI, endpoint: Served) -> None:
    answers = endpoint.http.post("/v1/answer", json=[QUESTION, QUESTION | {"model": "round-0"}]).json()
    assert [answer["model"] for answer in answers] == ["round-0", "round-0"]
    listed = "A. negative\nB. neutral\nC. positive"
    prompt = f"{QUESTION['question']}\n\n{listed}\n\nAnswer with the letter of the correct option."
    said = client.chat.completions.create(
        model="round-0", messages=[{"role": "user", "content": prompt}], temperature=0, max_tokens=8, logprobs=True
    )
    assert said.choices[0].logprobs and said.choices[0].logprobs.content
    logprobs = [token.logprob for token in said.choices[0].logprobs.content]
    assert answers[1]["response"] == said.choices[0].message.content
    assert answers[1]["entropy"] == pytest.approx(-sum(logprobs) / len(logprobs), abs=1e-3)
    assert answers[1]["confidence"] == pytest.approx(math.exp(-answers[1]["entropy"]), abs=1e-3)
    assert answers[0]["neighbors"][0]["question"] == "Profit rose by a third."
    assert answers[0]["neighbors"][0]["answer"] == "positive"
    assert endpoint.http.post("/v1/answer", json=QUESTION | {"min_confidence": 1.0}).json()["answer"] is None


def test_lm_eval_harness(endpoint: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    rows = [{"question": f"{SECRET} {i}: profit rose", "answer": "A"} for i in range(6)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "task.yaml").write_text(
        f"""
        task: letters
        dataset_path: json
        dataset_kwargs: {{data_files: {{test: {tmp_path}/rows.jsonl}}}}
        test_split: test
        output_type: generate_until
        doc_to_text: "{{{{question}}}}\\n\\nA. up\\nB. down\\n\\nAnswer with the letter of the correct option."
        doc_to_target: "{{{{answer}}}}"
        generation_kwargs: {{until: ["\\n\\n"], max_gen_toks: 8, temperature: 0}}
        metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
        """
    )
    monkeypatch.setenv("OPENAI_API_KEY", endpoint.key)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    tasks = TaskManager(include_path=str(tmp_path), include_defaults=False)
    common: dict[str, Any] = {"model": "evolved", "num_concurrent": 2, "max_retries": 1}
    for kind, route, options in (
        ("local-chat-completions", "chat/completions", {}),
        ("local-completions", "completions", {"tokenized_requests": True, "tokenizer": str(MODEL), "max_length": 2048}),
        ("local-completions", "completions", {"tokenized_requests": False, "tokenizer_backend": None}),
    ):
        done = simple_evaluate(
            kind,
            {"base_url": f"{endpoint.url}/v1/{route}"} | common | options,
            ["letters"],
            batch_size=3 if options else 1,  # prompts of a request
            task_manager=tasks,
            apply_chat_template=not options,
        )
        assert 0 <= done["results"]["letters"]["exact_match,none"] <= 1
        samples = done["samples"]["letters"]
        assert len(samples) == 6 and all(sample["resps"][0][0] for sample in samples)


def test_hostile_requests_get_an_error_and_leave_no_trace(endpoint: Served) -> None:
    http, chat = endpoint.http, "/v1/chat/completions"
    ask = {"model": "evolved", "messages": HELLO}
    anonymous = httpx.Client(base_url=endpoint.url, trust_env=False)
    json_type = {"content-type": "application/json"}
    expected = {
        "no key": (anonymous.post(chat, json=ask), 401),
        "wrong key": (anonymous.post(chat, json=ask, headers={"authorization": "Bearer sk-semievol-x"}), 401),
        "key in the query": (anonymous.post(f"{chat}?api_key={endpoint.key}", json=ask), 401),
        "50 MB": (http.post(chat, content=b"x" * 50_000_000, headers=json_type), 413),
        "10^6 tokens": (http.post(chat, json=ask | {"messages": [{"role": "user", "content": "a " * 10**6}]}), 413),
        "10^5 tokens": (http.post(chat, json=ask | {"messages": [{"role": "user", "content": "a " * 10**5}]}), 400),
        "nested": (http.post(chat, content="[" * 500_000, headers=json_type), 400),
        "nested prompt": (
            http.post(chat, content=json.dumps(ask)[:-1] + ',"x":' + '{"a":' * 9**5, headers=json_type),
            400,
        ),
        "path in a name": (http.post(chat, json=ask | {"model": "../../../etc/passwd"}), 404),
        "path in an address": (http.get("/v1/models/..%2f..%2f..%2fetc%2fpasswd"), 404),
        "no such route": (http.post("/collective_rpc", json={}), 404),
        "no such method": (http.get(chat), 405),
        "image to fetch": (
            http.post(chat, json=ask | {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
            400,
        ),
        "wide seeds": (http.post(chat, json=ask | {"seed": 2**63 - 1, "max_tokens": 2}), 200),
        "control characters": (http.post(chat, json=ask | {"stop": "\x00", "max_tokens": 2}), 200),
    }
    for what, (response, status) in expected.items():
        assert response.status_code == status, f"{what}: {response.status_code} {response.text[:300]}"
        assert status == 200 or (set(response.json()) == {"error"} and "Traceback" not in response.text), what
        assert SECRET not in response.text, what
    logs = endpoint.all_logs()
    assert '"key": "tester"' in logs and '"key": null' in logs  # the access log is among them
    assert SECRET not in logs and endpoint.key not in logs


def test_requests_made_from_the_schema(endpoint: Served) -> None:
    schema = schemathesis.openapi.from_dict(endpoint.http.get("/openapi.json").json())
    seen: Counter[int] = Counter()
    for operation in schema.get_all_operations():

        @hypothesis.settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
        @hypothesis.given(case=operation.ok().as_strategy())
        def call(case: Any) -> None:
            body = case.body if isinstance(case.body, dict) else {}
            # Random names and lengths would all end at the door; most of these shall reach the engine.
            if "model" in body:
                body |= {"model": "evolved"}
            if body.get("messages") or body.get("prompt"):
                body |= {
                    "max_tokens": 2,
                    "max_completion_tokens": None,
                    "n": min(body.get("n") or 1, 2),
                    "min_tokens": 1,
                }
            if "max_completion_tokens" in body and "messages" not in body:
                del body["max_completion_tokens"]
            response = case.call(
                base_url=endpoint.url, headers={"authorization": f"Bearer {endpoint.key}"}, timeout=120
            )
            seen[response.status_code] += 1
            assert response.status_code < 500 and "Traceback" not in response.text, response.text[:500]

        call()
    print("statuses of requests made from the schema:", dict(seen))
    assert seen[200] > EXAMPLES


def test_a_lost_replica_and_a_promotion_under_load(endpoint: Served) -> None:
    """At most what was in flight on the killed replica is lost, and that with 503; a promotion loses nothing."""
    outcomes: Counter[str] = Counter()
    models: Counter[str] = Counter()
    done = asyncio.Event()
    pause_s = 0.0

    async def caller(client: httpx.AsyncClient, number: int) -> None:
        turn = 0
        while not done.is_set():
            turn += 1
            streams = (turn + number) % 4 == 0
            body = {"model": "evolved", "messages": HELLO, "max_tokens": 32, "min_tokens": 32, "stream": streams}
            try:
                response = await client.post("/v1/chat/completions", json=body | {"seed": number * 10_000 + turn})
            except httpx.HTTPError as error:
                outcomes[type(error).__name__] += 1
                continue
            retry = response.headers.get("retry-after", "")
            cut = "unavailable" in response.text
            outcomes[f"{response.status_code}{' cut' if cut and response.status_code == 200 else ''}"] += 1
            if response.status_code == 503:
                assert retry, response.text
            elif not cut and not streams:
                models[response.json()["model"]] += 1
            await asyncio.sleep(pause_s)

    async def run() -> None:
        nonlocal pause_s
        headers = {"authorization": f"Bearer {endpoint.key}"}
        async with httpx.AsyncClient(base_url=endpoint.url, headers=headers, timeout=300, trust_env=False) as client:
            callers = [asyncio.create_task(caller(client, number)) for number in range(CALLERS)]
            await _until(lambda: outcomes.total() >= 2 * CALLERS, 60)
            assert set(outcomes) == {"200"}
            await asyncio.to_thread(_kill_engine_replica, endpoint, "round-0")
            await _until(lambda: outcomes["200"] > 0 and models["round-0"] > 0, 1)
            lost_from = outcomes["200"]
            await _until(lambda: outcomes["200"] > lost_from + 4 * CALLERS, 600)  # it is back
            pause_s = 1.0  # callers without a pause take the cores from the model that is loaded beside them
            await asyncio.to_thread(main, ["promote", endpoint.run, "--round", "1"])
            await _until(lambda: models["round-1"] > CALLERS, 900)
            done.set()
            await asyncio.gather(*callers)

    asyncio.run(run())
    print("outcomes:", dict(outcomes), "models:", dict(models))
    lost = outcomes.total() - outcomes["200"]
    assert lost <= CALLERS
    assert set(outcomes) <= {"200", "200 cut", "503"}
    with pytest.raises(SystemExit) as refused:
        main(["promote", endpoint.run, "--round", "2"])
    assert refused.value.code == 2


async def _until(condition: Any, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        await asyncio.sleep(0.2)
    assert condition()


def _kill_engine_replica(endpoint: Served, model: str) -> None:
    """kill -9 of the process that holds the model, found among the children of this endpoint's own raylet."""
    import psutil

    ours = psutil.Process(endpoint.process.pid).children(recursive=True)
    victims = [p for p in ours if f"ModelServer:{model}" in " ".join(p.cmdline()) or f"ModelServer:{model}" in p.name()]
    assert victims
    for victim in victims:
        victim.kill()
