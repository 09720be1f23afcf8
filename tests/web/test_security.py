"""Who may ask, and how: attacks on a real web process."""

from __future__ import annotations

import json
import os
import socket
import subprocess

import pytest

from tests.support import RunningDaemon, wait_until
from tests.support_tools import leave_out, needs
from tests.web.support import Answer, RunningWeb

EVERYTHING = [
    ("GET", "/api/session"),
    ("GET", "/api/limits"),
    ("POST", "/api/limits"),
    ("GET", "/api/limits/db"),
    ("PATCH", "/api/limits/db"),
    ("DELETE", "/api/limits/db"),
    ("DELETE", "/api/grants/1"),
    ("GET", "/api/stream"),
    ("GET", "/api/overview"),
    ("GET", "/api/openapi.json"),
    ("GET", "/api/nothing"),
    ("GET", "/metrics"),
    ("GET", "/static/index.html"),
    ("GET", "/"),
    ("GET", "/limits/db"),
    ("GET", "/nothing"),
    ("OPTIONS", "/api/limits"),
    ("BREW", "/"),
]


def as_browser(web: RunningWeb, **more: str) -> dict[str, str]:
    """Headers of a request by our own page."""
    return {
        "Cookie": f"atmost_{web.port}={web.token}",
        "Origin": f"http://{web.host}",
        "Sec-Fetch-Site": "same-origin",
        "Sec-Fetch-Mode": "cors",
        "Content-Type": "application/json",
        **{name.replace("_", "-"): value for name, value in more.items()},
    }


NEW = json.dumps({"name": "db", "limit": 1}).encode()


# The token


@pytest.mark.parametrize(("method", "path"), EVERYTHING)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer x"},
        {"Authorization": "Basic x"},
        {"Cookie": "atmost_{port}="},
        {"Cookie": "atmost_{port}=x; other={token}"},
        {"Cookie": "atmost_1={token}"},
        {"Cookie": "é=ü; ;;=;"},
    ],
    ids=str,
)
def test_without_the_token_there_is_nothing(
    web: RunningWeb, method: str, path: str, headers: dict[str, str]
) -> None:
    sent = {
        name: value.replace("{port}", str(web.port)).replace("{token}", web.token)
        for name, value in headers.items()
    }
    answer = web.raw(method, path, sent)
    assert answer.status == 401
    assert "db" not in answer.text
    if answer.headers["Content-Type"] != "application/problem+json":
        assert "atmost web" in answer.text, "the words say where the token is"
        assert "<script" not in answer.text
        assert web.token not in answer.text


def test_the_token_goes_from_the_url_to_a_cookie(web: RunningWeb) -> None:
    first = web.raw("GET", f"/limits/a%20b?x=1&token={web.token}&y=%26", {})
    assert first.status == 303
    assert first.headers["Location"] == "/limits/a%20b?x=1&y=%26"
    cookie = first.headers["Set-Cookie"]
    name, _, rest = cookie.partition("=")
    value, *attributes = rest.split("; ")
    assert (name, value) == (f"atmost_{web.port}", web.token)
    assert {word.lower() for word in attributes} == {"httponly", "samesite=strict", "path=/"}
    assert first.headers["Cache-Control"] == "no-store"
    assert first.headers["Referrer-Policy"] == "no-referrer"
    page = web.raw("GET", "/", {"Cookie": f"{name}={value}"})
    assert page.status == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize("path", ["//evil.example/", "/\\evil.example", "/%2f%2fevil.example"])
def test_the_redirect_stays_here(web: RunningWeb, path: str) -> None:
    answer = web.raw("GET", f"{path}?token={web.token}", {})
    assert answer.status == 303
    location = answer.headers["Location"]
    assert location.startswith("/")
    assert not location.startswith(("//", "/\\"))


def test_a_wrong_token_in_the_url(web: RunningWeb) -> None:
    answer = web.raw("GET", "/?token=" + "x" * 43, {})
    assert answer.status == 401
    assert "not, or no longer" in answer.text
    assert "Set-Cookie" not in answer.headers


def test_a_token_in_the_url_opens_no_data(web: RunningWeb) -> None:
    """A URL is written down: by a shell, by a proxy. For data it takes a header."""
    assert web.raw("GET", f"/api/limits?token={web.token}", {}).status == 401


def test_a_link_from_elsewhere_asks_again_by_itself(web: RunningWeb) -> None:
    """A strict cookie does not come with a link of another site; it does with our own page's."""
    navigation = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    answer = web.raw("GET", "/", {**navigation, "Sec-Fetch-Dest": "document"})
    assert answer.status == 401
    assert 'http-equiv="refresh"' in answer.text
    again = {**navigation, "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Dest": "document"}
    assert "refresh" not in web.raw("GET", "/", again).text


def test_a_process_has_a_token_of_its_own(web: RunningWeb, alone: RunningDaemon) -> None:
    with RunningWeb(alone) as other:
        assert other.token != web.token
        assert other.raw("GET", "/", {"Authorization": f"Bearer {web.token}"}).status == 401


# Host: DNS rebinding


def test_curl_with_a_foreign_host_is_refused(web: RunningWeb, daemon: RunningDaemon) -> None:
    """The first of the two attacks: a name of somebody else's that points at us."""
    told = curl(web, "/api/limits", "-H", "Host: evil.example:8640", *bearer(web))
    assert told == (421, "foreign_host")
    told = curl(web, "/api/limits", "-H", f"Host: evil.example:{web.port}", *bearer(web))
    assert told == (421, "foreign_host")
    assert curl(web, "/api/limits", *bearer(web)) == (200, "")


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{port}",
        "localhost.evil.example:{port}",
        "127.0.0.1:1",
        "[",
        "",
    ],
)
def test_a_foreign_host(web: RunningWeb, host: str) -> None:
    headers = as_browser(web, Host=host.replace("{port}", str(web.port)))
    for path in ("/", f"/?token={web.token}", "/api/limits"):
        assert web.raw("GET", path, headers).code == "foreign_host"


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "LOCALHOST", "[::1]"])
def test_our_own_hosts(web: RunningWeb, name: str) -> None:
    answer = web.ask("GET", "/api/session", Host=f"{name}:{web.port}")
    assert answer.status == 200


def test_two_hosts_are_none(web: RunningWeb) -> None:
    with socket.create_connection(("127.0.0.1", web.port), 30) as raw:
        raw.sendall(
            f"GET /api/limits HTTP/1.1\r\nHost: {web.host}\r\nHost: evil.example\r\n"
            f"Authorization: Bearer {web.token}\r\nConnection: close\r\n\r\n".encode()
        )
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answer.split(b" ")[1] in (b"400", b"421")


# Origin: another site asks


def test_curl_with_a_foreign_origin_is_refused(web: RunningWeb, daemon: RunningDaemon) -> None:
    """The second attack: a page of another site, with the cookie of a browser that has been here."""
    cookie = ("-H", f"Cookie: atmost_{web.port}={web.token}")
    json_body = ("-H", "Content-Type: application/json", "-d", NEW.decode())
    told = curl(web, "/api/limits", *cookie, *json_body, "-H", "Origin: https://evil.example")
    assert told == (403, "foreign_origin")
    with daemon.client() as client:
        assert client.list_limits() == [], "nothing changed"
    told = curl(web, "/api/limits", *cookie, *json_body, "-H", f"Origin: http://{web.host}")
    assert told == (201, "")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://localhost:{port}"},
        {"Origin": "http://127.0.0.1:{port}.evil.example"},
        {"Origin": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "new-word"},
    ],
    ids=str,
)
def test_a_foreign_page_changes_nothing(
    web: RunningWeb, daemon: RunningDaemon, headers: dict[str, str]
) -> None:
    sent = {name: value.replace("{port}", str(web.port)) for name, value in headers.items()}
    for method, path in (
        ("POST", "/api/limits"),
        ("PATCH", "/api/limits/db"),
        ("DELETE", "/api/limits/db"),
        ("POST", "/api/limits/db/reset"),
        ("DELETE", "/api/grants/1"),
    ):
        answer = web.raw(method, path, {**as_browser(web), **sent}, NEW)
        assert answer.code == "foreign_origin", (method, path)
    with daemon.client() as client:
        assert client.list_limits() == []


def test_a_cookie_alone_changes_nothing(web: RunningWeb) -> None:
    cookie = {"Cookie": f"atmost_{web.port}={web.token}", "Content-Type": "application/json"}
    assert web.raw("POST", "/api/limits", cookie, NEW).code == "foreign_origin"


def test_a_foreign_page_reads_nothing_either(web: RunningWeb) -> None:
    for site in ("cross-site", "same-site"):
        headers = as_browser(web, Sec_Fetch_Site=site)
        for path in ("/api/limits", "/api/stream", "/metrics", "/static/index.html"):
            assert web.raw("GET", path, headers).code == "foreign_origin"


def test_a_link_of_another_site_leads_to_the_page_and_nowhere_else(web: RunningWeb) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    headers = {**as_browser(web), **link}
    del headers["Origin"]
    assert web.raw("GET", "/limits/db", headers).status == 200
    for method, path in (("GET", "/api/limits"), ("POST", "/api/limits"), ("POST", "/")):
        assert web.raw(method, path, headers, NEW).code == "foreign_origin"


def test_our_own_page_may(web: RunningWeb, daemon: RunningDaemon) -> None:
    assert web.raw("POST", "/api/limits", as_browser(web), NEW).status == 201
    assert web.raw("DELETE", "/api/limits/db", as_browser(web)).status == 204


def test_no_answer_lets_another_site_in(web: RunningWeb) -> None:
    for method in ("GET", "OPTIONS"):
        answer = web.raw(method, "/api/limits", as_browser(web, Origin="https://evil.example"))
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]


# Headers


@pytest.mark.parametrize(
    "path", ["/", "/api/limits", "/api/limits/nope", "/metrics", "/x", "/api/x"]
)
@pytest.mark.parametrize("known", [True, False])
def test_every_answer_forbids_what_the_page_does_not_need(
    web: RunningWeb, path: str, known: bool
) -> None:
    answer = web.ask("GET", path) if known else web.raw("GET", path, {})
    policy = dict(
        part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self'", "nothing inline, nothing by eval"
    assert policy["frame-ancestors"] == "'none'"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    is_file = known and path == "/"
    assert answer.headers["Cache-Control"] == ("no-cache" if is_file else "no-store")
    assert "Server" not in answer.headers


def test_a_file_is_packed_and_known_again(web: RunningWeb) -> None:
    plain = web.ask("GET", "/")
    again = web.ask("GET", "/", If_None_Match=plain.headers["ETag"])
    assert (again.status, again.text) == (304, "")
    head = web.ask("HEAD", "/")
    assert (head.status, head.text) == (200, "")


# Bounds


def test_who_asks_too_often_is_told_and_nobody_else_is(web: RunningWeb) -> None:
    """Strangers use up what strangers have; who has the token does not notice."""
    refused: list[Answer] = []

    def is_refused() -> bool:
        refused.append(web.raw("GET", "/api/session", {}))
        return refused[-1].status == 429

    wait_until(is_refused, "it is bounded")
    assert refused[-1].code == "too_many"
    assert int(refused[-1].headers["Retry-After"]) >= 1
    assert web.ask("GET", "/api/session").status == 200


@pytest.mark.parametrize(
    "data",
    [
        b"\0" * 1000,
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100_000 + b"\r\n",
        b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /api/limits HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /api/limits HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nx",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ],
    ids=lambda data: repr(data[:24]),
)
def test_bytes_that_are_no_request(web: RunningWeb, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", web.port), 30) as raw:
        try:
            raw.sendall(data)
            raw.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: raw.recv(65536), b""))
        except OSError:
            answer = b""  # it was cut off
    assert not answer.startswith(b"HTTP/1.1 2")
    assert web.ask("GET", "/api/session").status == 200


# Rights


def test_who_may_not_change_is_told_why(alone: RunningDaemon) -> None:
    """The process may do what its user may: here nothing but look."""
    leave_out("" if os.geteuid() == 0 else "it takes root, to be somebody else")
    with RunningWeb(alone, user=65534) as web:
        web.wait_for_daemon()
        rights = web.get("/api/session")["rights"]
        assert not rights["may_change"]
        assert rights["why_not"].startswith("uid 65534 may use limits but not change them")
        refused = web.ask("POST", "/api/limits", {"name": "db", "limit": 1})
        assert (refused.status, refused.code) == (403, "permission_denied")
        with alone.client() as client:
            client.create_limit("db", 1)
        assert web.limit("db")["limit"]["limit"] == 1
        assert web.ask("DELETE", "/api/limits/db").code == "permission_denied"


# curl


def bearer(web: RunningWeb) -> tuple[str, str]:
    return "-H", f"Authorization: Bearer {web.token}"


def curl(web: RunningWeb, path: str, *options: str) -> tuple[int, str]:
    """The status, and the code of a problem, by curl itself."""
    needs("curl")
    done = subprocess.run(
        ["curl", "-sS", "-w", "\n%{http_code}", *options, f"http://{web.host}{path}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    body, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(body).get("code", "")
