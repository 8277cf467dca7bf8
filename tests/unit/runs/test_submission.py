"""Who is asked for a job server's version, and who is given its token: Ray only, and nothing on the way to it."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from semievol.errors import UserError
from semievol.runs.submission import _requires_token
from semievol.runtime.network import connect_directly, proxy_of

RAY = "Unauthorized: Missing authentication token"
PAGE = "<html><body>Access denied by the web gateway</body></html>"


class Web(ThreadingHTTPServer):
    """Gives everybody one answer: a server, or a proxy before one."""

    def __init__(self, status: int, text: str, **headers: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status, self.text, self.answered = status, text, headers
        self.seen: list[tuple[str, dict[str, str]]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Web

    def do_GET(self) -> None:
        self.server.seen.append((self.path, dict(self.headers)))
        self.send_response(self.server.status)
        for name, value in self.server.answered.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(self.server.text.encode())

    do_CONNECT = do_GET

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Web]]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    servers: list[Web] = []

    def make(*arguments: Any, **headers: str) -> Web:
        servers.append(Web(*arguments, **headers))
        return servers[-1]

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


def test_ray_says_whether_it_wants_a_token(web: Callable[..., Web]) -> None:
    assert _requires_token(web(401, RAY).url)
    assert not _requires_token(web(200, '{"ray_version": "2.60.0"}').url)


@pytest.mark.parametrize(
    ("status", "text", "headers"),
    [
        (401, "", {"WWW-Authenticate": "Basic"}),
        (403, PAGE, {}),
        (403, '{"error": "forbidden"}', {}),
        (407, "", {"Proxy-Authenticate": "Basic"}),
        (302, "", {"Location": "https://login.example/sso"}),
        (200, PAGE, {}),
        (404, "", {}),
        (502, "Bad Gateway", {}),
    ],
)
def test_another_server_is_told_apart(web: Callable[..., Web], status: int, text: str, headers: dict[str, str]) -> None:
    server = web(status, text, **headers)
    with pytest.raises(UserError, match=f"is not a Ray job server: the {status} .*does not come from Ray") as refused:
        _requires_token(server.url)
    assert "Location" not in headers or "leads to login.example" in str(refused.value)
    assert "proxy" not in str(refused.value)
    assert all("authorization" not in map(str.lower, seen) for _, seen in server.seen)


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("user", ["", "ann:secret@"])
def test_a_proxy_in_the_way_is_named(
    web: Callable[..., Web], monkeypatch: pytest.MonkeyPatch, variable: str, user: str
) -> None:
    proxy = web(403, PAGE)
    monkeypatch.setenv(variable, proxy.url.replace("//", f"//{user}"))
    with pytest.raises(UserError) as refused:
        _requires_token("http://ray-head.internal:8265")
    message = str(refused.value)
    assert (
        f"the 403 to GET /api/version does not come from Ray. The request went through the proxy of {variable}"
        in message
    )
    assert f"(127.0.0.1:{proxy.server_port})" in message and "add ray-head.internal to NO_PROXY" in message
    assert "secret" not in message
    assert [path for path, _ in proxy.seen] == ["http://ray-head.internal:8265/api/version"]


def test_no_token_goes_through_a_proxy_in_the_clear(web: Callable[..., Web], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", web(401, RAY).url)
    with pytest.raises(
        UserError, match=r"wants a token, and the proxy of HTTP_PROXY .* would read it: add ray-head to NO_"
    ):
        _requires_token("http://ray-head:8265")


def test_a_proxy_that_does_not_connect_is_named(web: Callable[..., Web], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", web(403, PAGE).url)
    with pytest.raises(
        UserError, match=r"nothing answers at https://ray-head \(\w+\)\. The request went .* HTTPS_PROXY"
    ):
        _requires_token("https://ray-head")


def test_this_machine_is_asked_without_a_proxy(web: Callable[..., Web], monkeypatch: pytest.MonkeyPatch) -> None:
    proxy, server = web(403, PAGE), web(200, '{"ray_version": "2.60.0"}')
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("NO_PROXY", "example.com")
    monkeypatch.setenv("no_proxy", "")
    assert not _requires_token(server.url) and not proxy.seen
    connect_directly("http://localhost:8265")
    assert proxy_of("http://localhost:8265") is None and proxy_of("http://example.com") is None
    assert proxy_of("http://head:8265") == ("http_proxy", proxy.url.removeprefix("http://"))
