"""The API and its own document: the routes are those that are described, and schemathesis, which reads
the document, finds nothing that it does not say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from starlette.routing import Route

from atmost.web.app import PAGES, new_app, new_feed
from atmost.web.openapi import OPERATIONS, document
from tests.support import RunningDaemon
from tests.web.support import RunningWeb

SECONDS = 25  # of schemathesis
# A right If-Match of another version is refused all the same: that is what it is for.
CONFIG = """\
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "401", "403", "404", "409", "412", "429"]
"""
EXAMPLES = 40  # for each operation and phase


def test_the_document_has_every_route_and_no_other() -> None:
    _, feed = new_feed("/nowhere")
    app = new_app(feed._client, feed, None, lambda _: None)  # type: ignore[arg-type,return-value]
    served = {
        (route.path, method.lower())
        for route in app.routes
        if isinstance(route, Route)
        for method in route.methods or ()
        if method != "HEAD" and route.path not in PAGES and not route.path.startswith("/static")
    }
    described = {(path, method) for path, methods in OPERATIONS.items() for method in methods}
    assert served - {("/favicon.ico", "get")} == described


def test_the_document_is_whole() -> None:
    found = json.loads(document())
    assert found["openapi"].startswith("3.1")
    text = document().decode()
    for name in found["components"]["schemas"]:
        assert f'"#/components/schemas/{name}"' in text, f"{name} is told nowhere"
    assert text.count("$ref") > 10


def test_it_is_served(web: RunningWeb) -> None:
    answer = web.ask("GET", "/api/openapi.json")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.text.encode() == document()


def test_schemathesis_finds_nothing(web: RunningWeb, daemon: RunningDaemon, tmp_path: Path) -> None:
    """It makes requests from the document, right ones and wrong ones, and compares every answer with it.
    The stream is left out: its answer has no end."""
    with daemon.client() as client:
        client.create_limit("db", 5, 0.5)
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run"),
        f"http://{web.host}/api/openapi.json",
        *("--header", f"Authorization: Bearer {web.token}"),
        *("--exclude-path", "/api/stream"),
        *("--max-time", str(SECONDS)),
        *("--max-examples", str(EXAMPLES)),
        *("--checks", "all"),
        *("--seed", "1"),
        "--no-color",
    ]
    done = subprocess.run(
        command,
        cwd=tmp_path,  # it writes a folder of its own
        capture_output=True,
        text=True,
        timeout=SECONDS * 6,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert web.ask("GET", "/api/session").status == 200
