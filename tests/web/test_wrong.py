"""Wrong ways to ask the API: a clear answer each time, nothing changed, and the process lives."""

from __future__ import annotations

import http.client
from typing import Any

import pytest

from tests.support import RunningDaemon
from tests.web.support import RunningWeb


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "db", "limit": -1}, "limit"),
        ({"name": "db", "limit": 1.5}, "limit"),
        ({"name": "db", "limit": "5"}, "limit"),
        ({"name": "db", "limit": 2**60}, "limit"),
        ({"name": "db", "limit": True}, "limit"),
        ({"name": "db", "limit": None}, "limit"),
        ({"name": "db"}, "limit"),
        ({"limit": 1}, "name"),
        ({"name": "", "limit": 1}, "name"),
        ({"name": "a/b", "limit": 1}, "name"),
        ({"name": "a\nb", "limit": 1}, "name"),
        ({"name": "x" * 201, "limit": 1}, "name"),
        ({"name": 5, "limit": 1}, "name"),
        ({"name": "db", "limit": 1, "active": "yes"}, "active"),
        ({"name": "db", "limit": 1, "slot_decay_per_second": -0.1}, "slot_decay_per_second"),
        ({"name": "db", "limit": 1, "slot_decay_per_second": "1"}, "slot_decay_per_second"),
        ({"name": "db", "limit": 1, "rate": "fast"}, "rate"),
        ({"name": "db", "limit": 1, "rate": "1/week"}, "rate"),
        ({"name": "db", "limit": 1, "rate": "9" * 400 + "/s"}, "rate"),
        ({"name": "db", "limit": 1, "rate": "1/s", "slot_decay_per_second": 1}, "rate"),
        ({"name": "db", "limit": 1, "colour": "red"}, "colour"),
    ],
)
def test_a_form_of_nonsense(
    web: RunningWeb, daemon: RunningDaemon, body: dict[str, Any], field: str
) -> None:
    for path in ("/api/limits", "/api/preview"):
        refused = web.ask("POST", path, body)
        assert (refused.status, refused.code) == (422, "invalid_value")
        assert refused.json["fields"]["field"] == field
        assert refused.json["detail"]
    with daemon.client() as client:
        assert client.list_limits() == []


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"{" * 60_000, b'{"limit": NaN}']
)
def test_a_body_that_is_no_object(web: RunningWeb, body: bytes) -> None:
    assert web.ask("POST", "/api/limits", body).code == "bad_json"
    assert web.ask("PATCH", "/api/limits/db", body).code == "bad_json"


def test_the_daemons_own_refusal_is_told_word_by_word(
    web: RunningWeb, daemon: RunningDaemon
) -> None:
    web.ask("POST", "/api/limits", {"name": "db", "limit": 5})
    for path in ("/api/limits", "/api/preview"):
        refused = web.ask("POST", path, {"name": "db", "limit": 1})
        assert (refused.status, refused.code) == (409, "limit_exists")
        assert refused.json["detail"] == (
            "there is a limit named 'db' already; change it with: atmost update db"
        )
    refused = web.ask("DELETE", "/api/grants/123456789")
    assert (refused.status, refused.code) == (404, "grant_not_found")
    assert "atmost ps" in refused.json["detail"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/api/nothing", 404, "not_found"),
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/static/none.js", 404, "not_found"),
        ("GET", "/static/../web.py", 404, "not_found"),
        ("GET", "/static/..%2fapp.py", 404, "not_found"),
        ("GET", "/static/%2e%2e/app.py", 404, "not_found"),
        ("GET", "/static//etc/passwd", 404, "not_found"),
        ("GET", "/api/limits/nope", 404, "limit_not_found"),
        ("GET", "/api/limits/nope/history", 404, "limit_not_found"),
        ("GET", "/api/limits/nope/events", 404, "limit_not_found"),
        ("DELETE", "/api/limits/nope", 404, "limit_not_found"),
        ("GET", "/api/limits/a%25b", 422, "invalid_value"),
        ("GET", "/api/limits/%00", 422, "invalid_value"),
        ("GET", "/api/limits/a%2fb", 404, "not_found"),
        ("GET", "/api/limits?sort=x", 400, "bad_request"),
        ("GET", "/api/limits?count=99999999999999999999999", 400, "bad_request"),
        ("PUT", "/api/limits/db", 405, "method_not_allowed"),
        ("POST", "/api/session", 405, "method_not_allowed"),
        ("PATCH", "/api/limits", 405, "method_not_allowed"),
        ("DELETE", "/api/grants/x", 422, "invalid_value"),
        ("DELETE", "/api/grants/0", 422, "invalid_value"),
        ("GET", "/api/stream?limit=%3C", 422, "invalid_value"),
    ],
)
def test_wrong_places(web: RunningWeb, method: str, path: str, status: int, code: str) -> None:
    refused = web.ask(method, path)
    assert (refused.status, refused.code) == (status, code)
    if status == 405:
        assert refused.headers["Allow"]


def test_a_body_that_is_no_json_by_its_own_word(web: RunningWeb) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "", "application/json2"):
        refused = web.ask("POST", "/api/limits", {"name": "db", "limit": 1}, Content_Type=kind)
        assert (refused.status, refused.code) == (415, "unsupported_media_type")


def test_ten_megabytes(web: RunningWeb, daemon: RunningDaemon) -> None:
    refused = web.ask("POST", "/api/limits", b'{"name": "' + b"x" * 10_000_000 + b'"}')
    assert (refused.status, refused.code) == (413, "too_large")
    assert web.ask("GET", "/api/session").status == 200


def test_ten_megabytes_in_pieces_of_no_known_length(web: RunningWeb) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=30)
    connection.putrequest("POST", "/api/limits")
    connection.putheader("Authorization", f"Bearer {web.token}")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    try:
        for _ in range(160):
            connection.send(b"10000\r\n" + b" " * 65536 + b"\r\n")
        connection.send(b"0\r\n\r\n")
    except OSError:
        pass  # it has heard enough
    answer = connection.getresponse()
    assert answer.status == 413
    connection.close()
