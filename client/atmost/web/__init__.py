"""The web page and its JSON API: a process of its own, a plain user of atmost.asyncio.

Rule 1: it has no way into the daemon that another client lacks, and its end touches nobody.
Rule 2: one connection to the daemon feeds every browser. What a browser asks is answered from what is
known already wherever that can be, and what has to be asked is asked once for all of them.
Rule 3: nobody gets anything but the words of pages.py without the token (security.py).
Rule 4: everything has a bound (bounds.py): limits with a history, events, streams, requests, bodies.
"""
