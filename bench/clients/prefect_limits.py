"""Prefect's client: global concurrency limits and rate limits, from its server. Runs in its own venv.

Its slots have leases; who waits asks again when the server said, in a second or so.
"""

from __future__ import annotations

import os

from bench.clients.worker import Worker, serve


class Prefect(Worker):
    poll_seconds = 1.0

    def __init__(self) -> None:
        from prefect.concurrency.sync import concurrency, rate_limit

        self.hold = concurrency
        self.spend = rate_limit

    def prepare(self, name: str, slots: int, rate: float = 0.0) -> None:
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
        from prefect.exceptions import ObjectAlreadyExists

        asked = GlobalConcurrencyLimitCreate(
            name=name, limit=min(slots, 2**31 - 1), slot_decay_per_second=rate, active=True
        )
        with get_client(sync_client=True) as client:
            try:
                client.create_global_concurrency_limit(asked)
            except ObjectAlreadyExists:
                return


def main(address: str) -> None:
    """`address`: of its server's API, and behind a blank a folder for its files."""
    os.environ["PREFECT_API_URL"], os.environ["PREFECT_HOME"] = address.split(" ", 1)
    os.environ["PREFECT_LOGGING_LEVEL"] = "CRITICAL"
    serve(Prefect())
