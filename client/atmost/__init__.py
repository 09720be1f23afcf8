"""At most N at once, at most R per second, across every process on this host.

`atmost.sync` and `atmost.asyncio` have the same names: concurrency, rate_limit, acquire, and what
creates, reads, changes and deletes limits.
"""

__version__ = "0.1.0"
