"""`limits` with the strategy that keeps a rate in any second, and not only from one to the next."""

from __future__ import annotations

from limits.strategies import MovingWindowRateLimiter

from bench.clients.limits_fixed import Limits
from bench.clients.worker import serve


def main(address: str) -> None:
    serve(Limits(address, MovingWindowRateLimiter))
