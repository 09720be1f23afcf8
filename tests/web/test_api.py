"""The JSON API of a real web process beside a real daemon: every act, and every wrong way to ask."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from time import perf_counter

import pytest

from atmost import wire
from atmost.errors import AcquireTimeout, AtmostError, GrantLost
from atmost.sync import Client
from tests.support import RunningDaemon, wait_until
from tests.web.support import RunningWeb, in_path

HOSTILE = [
    "<img onerror",  # has a <: refused everywhere
    "a b",
    "?x=1",
    "#top",
    ".",
    "..",
    "...",
    "'; DROP TABLE",
    '"quoted"',
    "{{7*7}}",
    "\u202egnp.exe",  # right to left
    "🦆" * 200,
    "é" * 200,
    "-rf",
    "constructor",
    "__proto__",
]


# One limit


def test_a_life_of_a_limit(web: RunningWeb, daemon: RunningDaemon) -> None:
    made = web.ask("POST", "/api/limits", {"name": "db", "limit": 5, "rate": "100/min"})
    assert made.status == 201
    assert made.headers["Location"] == "/api/limits/db"
    row = made.json
    assert row["slot_decay_per_second"] == pytest.approx(100 / 60)
    assert (row["limit"], row["active"], row["decay"]) == (5, True, "100 a minute")

    assert web.limit("db")["limit"]["rate"] == "100/min"
    changed = web.ask("PATCH", "/api/limits/db", {"limit": 6, "rate": ""})
    assert changed.json["limit"] == 6
    assert changed.json["slot_decay_per_second"] == 0
    disabled = web.ask("PATCH", "/api/limits/db", {"active": False})
    assert disabled.json["state"] == "inactive"
    with daemon.client() as client:
        found = client.read_limit("db")
    assert (found.limit, found.active) == (6, False)

    gone = web.ask("DELETE", "/api/limits/db")
    assert (gone.status, gone.text) == (204, "")
    assert web.ask("GET", "/api/limits/db").code == "limit_not_found"


def test_what_one_does_is_seen_at_once(web: RunningWeb, daemon: RunningDaemon) -> None:
    """No page shows what was before a change that it was answered."""
    for number in range(20):
        web.ask("POST", "/api/limits", {"name": f"n{number}", "limit": number})
        assert web.limit(f"n{number}")["limit"]["limit"] == number
        web.ask("PATCH", f"/api/limits/n{number}", {"limit": 99})
        assert web.limit(f"n{number}")["limit"]["limit"] == 99
        web.ask("DELETE", f"/api/limits/n{number}")
        assert web.ask("GET", f"/api/limits/n{number}").status == 404


def test_what_others_change_is_seen(web: RunningWeb, daemon: RunningDaemon) -> None:
    with daemon.client() as client:
        client.create_limit("db", 5)
        wait_until(lambda: names(web) == ["db"], "created")
        client.update_limit("db", limit=7)
        wait_until(lambda: web.get("/api/limits")["limits"][0]["limit"] == 7, "changed")
        client.delete_limit("db")
        wait_until(lambda: names(web) == [], "deleted")


def names(web: RunningWeb, query: str = "") -> list[str]:
    return [row["name"] for row in web.get(f"/api/limits{query}")["limits"]]


def test_who_holds_and_who_waits(web: RunningWeb, daemon: RunningDaemon) -> None:
    with daemon.client() as holding, daemon.client() as waiting:
        holding.create_limit("db", 2)
        holding.create_limit("api", 1)
        grant = holding.acquire({"db": 2})
        other = holding.acquire("api")
        began = threading.Event()

        def wait() -> None:
            began.set()
            with pytest.raises(AtmostError):
                waiting.acquire({"db": 1, "api": 1}, timeout_seconds=600)

        thread = threading.Thread(target=wait)
        thread.start()
        began.wait()
        detail = wait_until(lambda: (d := web.limit("db"))["line"] and d, "it waits")
        (holder,) = detail["holders"]
        assert (holder["slots"], holder["token"]) == (2, grant.token)
        assert holder["pid"] == os.getpid()
        assert "pytest" in holder["command"]
        (waiter,) = detail["line"]
        assert (waiter["place"], waiter["slots"]) == (1, 1)
        assert waiter["lacks"] == [{"limit": "api", "slots": 1}]
        assert 500 < waiter["gives_up_at"] - detail["at"] <= 600
        assert waiter["since"] <= detail["at"]
        row = wait_until(
            lambda: (r := web.limit("db")["limit"])["oldest_wait_at"] and r, "since when it waits"
        )
        assert row["waiting"] == 1
        assert abs(row["oldest_wait_at"] - waiter["since"]) < 5
        (again,) = web.get("/api/limits/db/holders")["holders"]
        assert again["token"] == holder["token"]
        assert abs(again["since"] - holder["since"]) < 5
        assert web.get("/api/limits/db/line")["line"][0]["number"] == waiter["number"]
        (longest,) = [w for w in web.get("/api/overview")["longest_waiters"] if w["limit"] == "db"]
        assert longest["number"] == waiter["number"]

        assert web.ask("DELETE", f"/api/grants/{holder['token']}").status == 204
        assert web.limit("db")["holders"] == []
        waiting.close()
        thread.join()
        holding.list_limits()  # what the daemon has said is heard with the next answer
        assert isinstance(grant.lost, GrantLost)
        other.release()


def test_a_raise_by_one_click(web: RunningWeb, daemon: RunningDaemon) -> None:
    with daemon.client() as client:
        client.create_limit("db", 1)
        holder = client.acquire("db")
        waiting = [
            subprocess.Popen(
                [sys.executable, "-m", "atmost", "run", "db", "--", "sleep", "600"],
                env=daemon.environment(),
            )
            for _ in range(5)
        ]
        try:
            wait_until(lambda: client.read_limit("db").waiting == 5, "all wait")
            told = web.ask("POST", "/api/limits/db/preview", {"limit": 4}).json
            assert told["words"] == "3 of 5 waiters would start at once"
            assert told["exact"]
            assert client.read_limit("db").waiting == 5, "nothing is changed by a look"
            web.ask("PATCH", "/api/limits/db", {"limit": 4})
            assert client.read_limit("db").waiting == 2
            told = web.ask("POST", "/api/limits/db/preview", {"delete": True}).json
            assert told["words"] == "4 hold it and run on, 2 wait and fail"
        finally:
            for process in waiting:
                process.kill()
                process.wait()
            holder.release()


def test_a_spent_level_is_reset(web: RunningWeb, daemon: RunningDaemon) -> None:
    with daemon.client() as client:
        client.create_limit("api", 10, 0.001)
        client.rate_limit("api", 4)
        wait_until(lambda: web.limit("api")["limit"]["active_slots"] == 4)
        assert web.ask("POST", "/api/limits/api/reset").json["spent"] == 0
        assert client.read_limit("api").spent == 0
        assert web.ask("POST", "/api/limits/api/reset", {}).status == 200


def test_two_people_edit(web: RunningWeb, daemon: RunningDaemon) -> None:
    web.ask("POST", "/api/limits", {"name": "db", "limit": 5})
    seen = web.ask("GET", "/api/limits/db").headers["ETag"]
    assert web.ask("PATCH", "/api/limits/db", {"limit": 6}, If_Match=seen).status == 200
    late = web.ask("PATCH", "/api/limits/db", {"limit": 7}, If_Match=seen)
    assert (late.status, late.code) == (412, "changed_meanwhile")
    assert late.json["fields"]["now"]["limit"] == 6
    assert web.ask("DELETE", "/api/limits/db", If_Match=seen).code == "changed_meanwhile"
    assert web.limit("db")["limit"]["limit"] == 6, "nothing was done"
    now = web.ask("GET", "/api/limits/db").headers["ETag"]
    assert web.ask("PATCH", "/api/limits/db", {"limit": 7}, If_Match=f'"x", {now}').status == 200
    assert web.ask("PATCH", "/api/limits/db", {"limit": 8}, If_Match="*").status == 200
    web.ask("DELETE", "/api/limits/db")
    gone = web.ask("PATCH", "/api/limits/db", {"limit": 9}, If_Match=now)
    assert (gone.code, gone.json["fields"]["now"]) == ("changed_meanwhile", None)


def test_two_people_edit_in_the_same_moment(web: RunningWeb, daemon: RunningDaemon) -> None:
    web.ask("POST", "/api/limits", {"name": "db", "limit": 0})
    seen = web.ask("GET", "/api/limits/db").headers["ETag"]
    codes: list[int] = []

    def edit(number: int) -> None:
        codes.append(web.ask("PATCH", "/api/limits/db", {"limit": number}, If_Match=seen).status)

    threads = [threading.Thread(target=edit, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == [200, *[412] * 7]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_that_mean_something_elsewhere(
    web: RunningWeb, daemon: RunningDaemon, name: str
) -> None:
    made = web.ask("POST", "/api/limits", {"name": name, "limit": 1})
    if "<" in name:
        assert made.code == "invalid_value"
        assert made.json["fields"]["field"] == "name"
        return
    assert made.status == 201, made
    path = f"/api/limits/{in_path(name)}"
    assert made.headers["Location"] == path
    assert web.limit(name)["limit"]["name"] == name
    assert names(web) == [name]
    assert web.ask("PATCH", path, {"limit": 2}).json["limit"] == 2
    for part in ("holders", "line", "events", "history"):
        assert web.ask("GET", f"{path}/{part}").status == 200
    assert web.ask("GET", f"/limits/{in_path(name)}").status == 200
    with web.stream(f"?limit={in_path(name)}") as stream:
        assert stream.wait_for("detail")["limit"]["name"] == name
    assert web.ask("DELETE", path).status == 204


def test_a_command_is_told_as_text(web: RunningWeb, daemon: RunningDaemon) -> None:
    """Also one with a newline: it can't end a line of the stream."""
    with daemon.client() as client, web.stream("?limit=db") as stream:
        client.create_limit("db", 1)
        command = [
            "sh",
            "-c",
            "exec sleep 600",
            "<img src=x onerror=alert(1)>\ndata: {}\n\nevent: x",
        ]
        process = subprocess.Popen(
            [sys.executable, "-m", "atmost", "run", "db", "--", *command],
            env=daemon.environment(),
        )
        try:
            wait_until(lambda: client.read_limit("db").held == 1)
            (holder,) = wait_until(lambda: web.limit("db")["holders"])
            assert "<img src=x onerror=alert(1)>" in holder["command"]
            assert "\n" not in holder["command"]
            wait_until(lambda: any(d.get("holders") for d in stream.of("detail")))
            assert stream.of("x") == []
        finally:
            process.kill()
            process.wait()


# Lists and history


def test_ten_thousand_limits_stay_quick(web: RunningWeb, daemon: RunningDaemon) -> None:
    """A page of them takes no longer than a few of a small list's: both are bounded by the page."""
    count = 10_000
    with daemon.client() as client:
        declare(client, [wire.Declaration(f"limit {number:05}", number) for number in range(count)])
    wait_until(lambda: web.get("/api/limits?count=1")["total"] == count, "it knows them")
    for query in ("", "?q=0999&sort=used&order=desc", "?filter=waiting", "?offset=9900"):
        began = perf_counter()
        page = web.get(f"/api/limits{query}")
        assert len(page["limits"]) <= 100
        assert perf_counter() - began < 5
    with web.stream() as stream:
        assert stream.wait_for("snapshot")["limits"] is None, "too many to tell at once"
        assert stream.of("snapshot")[0]["totals"]["limits"] == count
    with daemon.client() as client:
        declare(client, [])


def declare(client: Client, limits: list[wire.Declaration]) -> None:
    """Have there be these and no others, in one change."""
    for start in range(0, max(1, len(limits)), 500):
        client._ask(wire.Draft, limits[start : start + 500], [], start == 0)
    changes = client._ask(wire.ListChanges, True, 0)
    assert isinstance(changes, wire.Changes)
    client._ask(wire.Commit, True, changes.version)


def test_history_fills_from_events(web: RunningWeb, daemon: RunningDaemon) -> None:
    with daemon.client() as client:
        client.create_limit("db", 3)
        with client.concurrency({"db": 2}):
            wait_until(lambda: last(web, "slots_max") == 2, "the slots in use")
        for span, step in (("10m", 5), ("1h", 30), ("24h", 720)):
            found = web.get(f"/api/limits/db/history?span={span}")
            assert (found["step"], len(found["at"]), found["kept"]) == (step, 120, True)
            assert found["watching_since"] > 1_600_000_000
            for series in ("slots", "line", "wait_p50", "wait_p99", "grants_per_second"):
                assert len(found[series]) == 120
            known = [number for number in found["slots_max"] if number is not None]
            assert max(known) == 2
            assert max(filter(None, found["grants_per_second"])) > 0
        with client.concurrency({"db": 3}), pytest.raises(AcquireTimeout):
            client.acquire("db", timeout_seconds=0)
        wait_until(lambda: len(web.get("/api/limits/db/events")["events"]) >= 6, "all of them")
        events = web.get("/api/limits/db/events")["events"]
        assert {"created", "granted", "released", "timed_out"} <= {e["kind"] for e in events}
        troubles = web.get("/api/overview")["troubles"]
        assert (troubles[0]["kind"], troubles[0]["limit"]) == ("timed_out", "db")
        refused = web.ask("GET", "/api/limits/db/history?span=1y")
        assert (refused.status, refused.code) == (400, "bad_request")
        spark = web.get("/api/limits?q=db")["limits"][0]["spark"]
        assert max(filter(None, spark)) == 3


def last(web: RunningWeb, series: str) -> float | None:
    found: list[float | None] = web.get("/api/limits/db/history")[series]
    return found[-1]


def test_the_overview(web: RunningWeb, daemon: RunningDaemon) -> None:
    with daemon.client() as client:
        client.create_limit("busy", 2)
        client.acquire("never made", timeout_seconds=0).release()
        with client.concurrency("busy"):
            overview = wait_until(lambda: (o := web.get("/api/overview"))["busiest"] and o)
            assert overview["busiest"][0]["limit"]["name"] == "busy"
            assert overview["busiest"][0]["used"] == 0.5
        assert overview["daemon"]["pid"] == daemon.pid
        assert overview["rights"] == {"may_change": True, "why_not": ""}
        wait_until(lambda: web.get("/api/overview")["findings_at"], "the doctor has looked")


def test_metrics(web: RunningWeb, daemon: RunningDaemon) -> None:
    with daemon.client() as client:
        client.create_limit("db", 2)
        wait_until(lambda: 'limit="db"' in web.ask("GET", "/metrics").text, "it is counted")
    page = web.ask("GET", "/metrics")
    assert page.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert "atmost_up 1\n" in page.text
