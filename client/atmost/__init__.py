"""At most N at once, at most R per second, across every process on this host.

`atmost.sync` and `atmost.asyncio` have the same names: concurrency, rate_limit, acquire, and what
creates, reads, changes and deletes limits.
"""

import sys as _sys

__version__ = "0.1.0"

if _sys.platform != "linux":
    raise ImportError("atmost needs Linux: it relies on its kernel to say when a holder has died")
