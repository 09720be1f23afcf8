"""The calling thread, as the blocking client knows it."""

from __future__ import annotations

import threading


class Caller:
    """One thread, told apart from every other one: an ident is given to a later thread again."""

    __slots__ = ("__weakref__", "depth")

    def __init__(self) -> None:
        # The level that its next call goes by. Above 0 while it is at a call already: then it is a
        # signal handler, or the garbage collector, that calls from on top of that one.
        self.depth = 0


class _Thread(threading.local):
    def __init__(self) -> None:
        self.caller = Caller()


this_thread = _Thread()
