"""`atmost web` itself: what it says, and why it does not begin."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import sys
from pathlib import Path

import pytest

from atmost.cli import web as command
from tests.support import RunningDaemon, wait_until
from tests.support_cli import here, ran
from tests.web.support import RunningWeb


def test_it_prints_the_address_with_a_token(alone: RunningDaemon) -> None:
    with RunningWeb(alone) as web:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{43}", web.url)
        assert web.raw("GET", f"/?token={web.token}", {}).status == 303
        listening = Path("/proc/net/tcp").read_text()
        assert f"0100007F:{web.port:04X}" in listening, "loopback, and nothing else"
        assert f"00000000:{web.port:04X}" not in listening
        assert web.token not in Path(f"/proc/{web.pid}/cmdline").read_text()


def test_a_port_that_is_taken(alone: RunningDaemon) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        told = ran(alone, "web", "--port", port)
    assert told.code == 1
    assert f"port {port} of 127.0.0.1 is taken" in told.err
    assert "--port N" in told.err
    assert told.out == ""


@pytest.mark.parametrize("port", ["-1", "65536", "http", "", "8640.0"])
def test_a_port_that_is_none(capsys: pytest.CaptureFixture[str], port: str) -> None:
    told = here(capsys, "web", f"--port={port}")
    assert told.code == 2
    assert "expected a port, 0 to 65535" in told.err


@pytest.mark.parametrize("host", ["no.such.host.invalid", "256.1.1.1", "192.0.2.1", "a" * 300])
def test_a_host_that_is_not_ours(alone: RunningDaemon, host: str) -> None:
    told = ran(alone, "web", "--port", "0", "--host", host)
    assert told.code == 1
    assert host in told.err
    assert "Traceback" not in told.err


def test_beyond_loopback_it_warns_and_still_wants_the_token(alone: RunningDaemon) -> None:
    with RunningWeb(alone, "--host", "0.0.0.0") as web:
        assert web.raw("GET", "/api/limits", {}).status == 401
        assert web.ask("GET", "/api/session", Host=f"10.1.2.3:{web.port}").status == 200
        assert web.ask("GET", "/api/session", Host=f"evil.example:{web.port}").status == 421
        wait_until(lambda: "put a proxy with TLS in front" in web.log.read_text())


def test_behind_a_proxy(alone: RunningDaemon) -> None:
    with RunningWeb(alone, "--allow-host", "limits.example") as web:
        assert web.ask("GET", "/api/session", Host="limits.example").status == 200
        made = web.ask(
            "POST",
            "/api/preview",
            {"name": "a", "limit": 1},
            Host="limits.example",
            Origin="https://limits.example",
        )
        assert made.status == 200


def test_a_token_that_stays(alone: RunningDaemon, tmp_path: Path) -> None:
    path = tmp_path / "token"
    with RunningWeb(alone, "--token-file", str(path)) as first:
        assert path.read_text().strip() == first.token
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with RunningWeb(alone, "--token-file", str(path)) as second:
        assert second.token == first.token
    path.chmod(0o644)
    told = ran(alone, "web", "--port", "0", "--token-file", str(path))
    assert told.code == 1
    assert "everybody can get at" in told.err


def test_without_its_packages_it_says_how_to_get_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    told = here(capsys, "web")
    assert told.code == 1
    assert told.err.strip().splitlines() == [f"atmost: {command.MISSING}"]
    assert "pip install 'atmost[web]'" in told.err


def test_open_gives_a_browser_a_file_that_only_we_can_read(
    alone: RunningDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody can read the command line of a browser, so the token is not in it."""
    seen = tmp_path / "seen"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf "%s" "$1" > {seen}.new\nmv {seen}.new {seen}\n')
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", str(browser))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with RunningWeb(alone, "--open") as web:
        wait_until(seen.exists, "the browser is started")
        url = seen.read_text()
        assert web.token not in url
        page = Path(url.removeprefix("file://"))
        assert stat.S_IMODE(page.stat().st_mode) == 0o600
        assert page.stat().st_uid == os.geteuid()
        assert f"url={web.url}" in page.read_text()
        web.stop()
        assert not page.exists(), "it was needed once"


def test_ctrl_c_ends_it_without_a_word(alone: RunningDaemon) -> None:
    with RunningWeb(alone) as web:
        web.wait_for_daemon()
        assert web.stop(signal.SIGINT) == -signal.SIGINT
        assert web.log.read_text() == ""


def test_a_crash_touches_nobody(alone: RunningDaemon) -> None:
    with alone.client() as client:
        client.create_limit("db", 1)
        with RunningWeb(alone) as web:
            web.wait_for_daemon()
            grant = client.acquire("db")
            web.stop(signal.SIGKILL)
        assert client.read_limit("db").held == 1
        grant.release()
        wait_until(lambda: client.status().sessions == 1, "the daemon has forgotten it")


def test_it_works_on_python_alone_but_for_two_packages() -> None:
    """What it imports: starlette and uvicorn, and what those need."""
    import ast

    from tests.test_house import CLIENT, imports, modules

    for path in modules(CLIENT / "web"):
        ast.parse(path.read_text())
        for name in imports(path):
            top = name.partition(".")[0]
            known = {"atmost", "msgspec", "starlette", "uvicorn"}
            assert top in known or top in sys.stdlib_module_names, f"{path.name}: {name}"
