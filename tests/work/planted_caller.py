"""The caller with a slow-down that somebody could have made in the blocking client: before each request
it asks the kernel who it is, and makes a line of it. usage: python -m tests.work.planted_caller ARGUMENT...
"""

from __future__ import annotations

import os
import sys
from typing import Any

from atmost.sync import Client
from tests.work.caller import main

lines: list[str] = []


def plant() -> None:
    concurrency = Client.concurrency

    def tell_and_ask(client: Client, *words: Any, **more: Any) -> Any:
        lines.append(f"process {os.getppid()} is the parent of one that tells too much")
        return concurrency(client, *words, **more)

    Client.concurrency = tell_and_ask  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    plant()
    main(*sys.argv[1:])
